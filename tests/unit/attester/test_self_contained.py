"""The attester goes into guests as it is: nothing but the standard library, and old syntax."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import tandem.attester

MODULES = sorted(Path(tandem.attester.__path__[0]).glob("*.py"))
OLDEST_PYTHON = (3, 9)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_a_module_imports_the_standard_library_and_its_neighbours(module: Path) -> None:
    # Given the module, in the syntax of the oldest Python
    tree = ast.parse(module.read_text(), feature_version=OLDEST_PYTHON)

    # When its imports are listed
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(str(node.module).partition(".")[0])

    # Then each is of the standard library
    assert imported <= sys.stdlib_module_names
