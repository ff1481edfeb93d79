"""The page of commands, read from the argument parsers; independent of how Python lays out help."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

HEAD: Final = """\
# Commands

Generated from the argument parsers by `make docs`; do not edit.

[Errors](errors.md) have pages of their own.
"""


def commands_page(parser: argparse.ArgumentParser) -> str:
    """Write the page for a parser and all its subcommands."""
    return "\n".join([HEAD, *_sections(parser, parser.prog, "")])


def _sections(parser: argparse.ArgumentParser, name: str, summary: str) -> Iterator[str]:
    yield _section(parser, name, summary)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for command, child in action.choices.items():
                if command in helps:  # an alias, or a command kept out of the help, has none
                    yield from _sections(child, f"{name} {command}", helps[command])


def _section(parser: argparse.ArgumentParser, name: str, summary: str) -> str:
    arguments = [
        action
        for action in parser._actions
        if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]
    words = [name, *(_usage(action) for action in arguments)]
    lines = [f"## {name}", "", f"`{' '.join(words)}`", ""]
    text = parser.description or (summary[:1].upper() + summary[1:])
    lines += [text, ""] if text else []
    options = [each for each in arguments if not isinstance(each, argparse._SubParsersAction)]
    if options:
        lines += ["| argument | meaning |", "| --- | --- |"]
        lines += [f"| `{_spelling(action)}` | {_meaning(action)} |" for action in options]
        lines += [""]
    if parser.epilog:
        lines += ["```text", parser.epilog.strip(), "```", ""]
    return "\n".join(lines)


def _usage(action: argparse.Action) -> str:
    spelled = action.option_strings[0] if action.option_strings else ""
    words = " ".join(word for word in (spelled, _metavar(action)) if word)
    needed = action.required or (not action.option_strings and action.nargs not in ("?", "*"))
    return words if needed else f"[{words}]"


def _spelling(action: argparse.Action) -> str:
    value = _metavar(action)
    names = ", ".join(action.option_strings)
    return " ".join(word for word in (names, value) if word)


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        return "{" + ",".join(str(choice) for choice in action.choices) + "}"
    if action.metavar is not None:
        value = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    else:
        value = action.dest.upper() if action.option_strings else action.dest
    return f"{value}..." if action.nargs in ("*", "+") else value


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "").replace("|", "\\|").replace("%%", "%")
    shown = str(action.default)
    if "%(default)s" in text:
        return text.replace("%(default)s", shown)
    return text
