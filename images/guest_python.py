"""Python for the guest: the modules that the attester imports, compiled for its interpreter.

Run by that interpreter at build time, `python3.11 -S guest_python.py OUTPUT`, with the attester on
PYTHONPATH.  Compiled ahead they load several times faster than from source.
"""

from __future__ import annotations

import importlib
import os.path
import sys

HOME = "/usr/lib/python3.11"  # where the guest has its library
WITHOUT = ("bz2", "lzma")  # shutil does without them, and the guest without their libraries
NAMES = ("encodings.ascii", "encodings.latin_1", "runpy", "tandem_attester.__main__")


def loaded_files() -> list[str]:
    """Import what the attester needs and give the files of all that this loaded."""
    for name in WITHOUT:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
    for name in NAMES:
        importlib.import_module(name)
    # The attester imports the parser only when used by hand, and the parser more when it prints.
    importlib.import_module("argparse").ArgumentParser().format_help()
    modules = [module for name, module in sys.modules.items() if name != "__main__"]
    files = [getattr(module, "__file__", None) for module in modules]
    return sorted(file for file in files if file)


def main(output: str) -> None:
    """Write each module below `output`, at its place in the guest's library."""
    files = loaded_files()
    import py_compile  # not before: it would load more than the guest needs
    import shutil

    for file in files:
        root = next(each for each in sys.path if os.path.commonpath([each, file]) == each)
        place = os.path.relpath(file, root)
        written = os.path.join(output, place)
        os.makedirs(os.path.dirname(written), exist_ok=True)
        if file.endswith(".py"):
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            shown = os.path.join(HOME, place)
            py_compile.compile(file, written + "c", shown, doraise=True, invalidation_mode=mode)
        else:
            shutil.copy(file, written)


if __name__ == "__main__":
    main(sys.argv[1])
