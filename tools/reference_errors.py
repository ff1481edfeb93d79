"""The page of error codes, read from the places that raise them; no code is run for it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.errors import HostError, Refused, TandemError, UntrustedInput, UsageError

CODE: Final = re.compile(r"TDM(-[A-Z0-9]+)+")
FAMILIES: Final[Mapping[str, type[TandemError]]] = {
    family.__name__: family for family in (UsageError, HostError, UntrustedInput, Refused)
}
IN_GUEST: Final = "AttesterError"  # the attester has a class of its own, and no other family
ENDING: Final = "Ending"  # why a vTPM ended: a record, not an error
MAKERS: Final = (*FAMILIES, IN_GUEST, ENDING)
MAX_HELPER_DEPTH: Final = 3
HEAD: Final = """\
# Error codes

Generated from the source by `make docs`; do not edit.

An error has a code that stays, a problem and a hint. Programs match on the code; the words may be
improved. The family says whose fault it is and is the exit status of a command:
`UsageError` 2 (correct the request), `HostError` 3 (repair this machine), `UntrustedInput` 4 (drop
the input), `Refused` 5 (a rule said no). Codes of *Ending* say in a pair's record why it ended.
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place that uses a code."""

    code: str
    module: str
    family: str  # "" where it cannot be told
    problem: str
    hint: str


def errors_page(source: Path) -> str:
    """Write the page for the package in `source`."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(source.rglob("*.py"))}
    helpers = {
        node.name: node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    by_code: dict[str, list[Place]] = defaultdict(list)
    for path, tree in trees.items():
        module = ".".join(path.relative_to(source.parent).with_suffix("").parts)
        for place in _places(tree, module, helpers):
            by_code[place.code].append(place)
    sections = [_section(code, by_code[code]) for code in sorted(by_code)]
    return "\n".join([HEAD, *sections])


def _section(code: str, places: Sequence[Place]) -> str:
    families = sorted({place.family for place in places if place.family})
    lines = [f"## {code}", "", f"{', '.join(map(_family_text, families)) or 'Error'}.", ""]
    lines += [f"- {problem}" for problem in _distinct(place.problem for place in places)]
    lines += [f"- What to do: {hint}." for hint in _distinct(place.hint for place in places)]
    lines += ["- Where: " + ", ".join(f"`{each}`" for each in _distinct(p.module for p in places))]
    return "\n".join([*lines, ""])


def _family_text(family: str) -> str:
    if family in FAMILIES:
        return f"{family} (exit status {FAMILIES[family].exit_status})"
    return {IN_GUEST: "Attester, in the guest (exit status 3)", ENDING: "Ending"}[family]


def _distinct(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _places(
    tree: ast.Module, module: str, helpers: Mapping[str, ast.FunctionDef | ast.ClassDef]
) -> Iterator[Place]:
    """Find each call that is given a code, itself or by the name of a constant of the module."""
    constants = {
        node.target.id: str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        keywords = {each.arg: each.value for each in call.keywords}
        given = [*call.args, *keywords.values()]
        for position, argument in enumerate(given):
            code = _constant(argument, constants)
            if CODE.fullmatch(code):
                words = call.args[position + 1 :] if position < len(call.args) else []
                problem = keywords.get("reason", words[0] if words else None)
                maker = _maker(call, helpers, MAX_HELPER_DEPTH)
                yield Place(
                    code=code,
                    module=module,
                    family=_family(_name(maker.func), helpers) if maker else "",
                    problem=_text(problem) or _problem_of(maker),
                    hint=_text(keywords.get("hint"), constants) or _hint_of(maker),
                )


def _constant(node: ast.expr, constants: Mapping[str, str]) -> str:
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.Name(id=name):
            return constants.get(name, "")
        case _:
            return ""


def _maker(
    call: ast.Call, helpers: Mapping[str, ast.FunctionDef | ast.ClassDef], depth: int
) -> ast.Call | None:
    """Find the call that makes the error: this one, or one in a function that it calls."""
    name = _name(call.func)
    if _family(name, helpers):
        return call
    if depth == 0 or name not in helpers:
        return None
    inner = (each for each in ast.walk(helpers[name]) if isinstance(each, ast.Call))
    found = (_maker(each, helpers, depth - 1) for each in inner if _name(each.func) != name)
    return next((maker for maker in found if maker), None)


def _family(name: str, helpers: Mapping[str, ast.FunctionDef | ast.ClassDef]) -> str:
    """Give the family of errors that a class is, or is a narrower one of."""
    match helpers.get(name):
        case ast.ClassDef(bases=[ast.Name(id=base)]) if base in FAMILIES:
            return base
        case _:
            return name if name in MAKERS else ""


def _problem_of(maker: ast.Call | None) -> str:
    return _text(maker.args[1]) if maker and len(maker.args) > 1 else ""


def _hint_of(maker: ast.Call | None) -> str:
    hints = [each.value for each in maker.keywords if each.arg == "hint"] if maker else []
    return _text(hints[0]) if hints else ""


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _text(node: ast.expr | None, constants: Mapping[str, str] | None = None) -> str:
    """Give a message as it stands in the source; what is filled in shows by its name, or as `…`."""
    match node:
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.FormattedValue(value=value) if _name(value).strip("_") == _name(value) != "":
            return "{" + _name(value) + "}"
        case ast.FormattedValue():
            return "…"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, constants) + _text(right, constants)
        case ast.Name() if constants is not None:
            return _constant(node, constants)
        case ast.Constant(value=str(value)):
            return value
        case _:
            return ""
