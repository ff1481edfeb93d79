"""`tandem completion`: a completion script made from the parsers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from tandem.errors import HostError

EXAMPLES: Final = """\
examples:
  source <(tandem completion bash)
  tandem completion bash > /etc/bash_completion.d/tandem
"""
NAMES: Final = {"GUEST": "guest list --names"}  # how to list what an argument may be
SCRIPT: Final = """\
# bash completion for tandem
_tandem() {{
  local word path="" skip="" host=()
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    if [[ -n $skip ]]; then skip=""; host=(--host "$word"); continue; fi
    case "$word" in
      --host) skip=yes ;;
      -*) ;;
      *) case " $(_tandem_words "$path") " in *" $word "*) path="$path $word" ;; esac ;;
    esac
  done
  COMPREPLY=($(compgen -W "$(_tandem_words "$path"; _tandem_names "$path")" \
    -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
_tandem_names() {{
  case "$1" in
{names}
  esac 2>/dev/null
}}
_tandem_words() {{
  case "$1" in
{cases}
  esac
}}
complete -o default -F _tandem tandem
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash",))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script for every group whose parts are installed."""
    from tandem.cli.main import build_parser  # it imports this module by name

    print(bash_script(build_parser(*installed_groups())), end="")
    return 0


def installed_groups() -> list[str]:
    """Give the groups that can be imported here; a verifier alone lacks the host's."""
    from tandem.cli.main import GROUPS, build_parser

    found = []
    for name in GROUPS:
        try:
            build_parser(name)
        except HostError:
            continue
        found.append(name)
    return found


def bash_script(parser: argparse.ArgumentParser) -> str:
    """Write the script: for each path of commands, the words that may follow."""
    cases = "\n".join(
        f'    "{path}") echo "{" ".join(words)}" ;;' for path, words in _paths(parser, "")
    )
    names = "\n".join(
        f'    "{path}") "${{COMP_WORDS[0]}}" "${{host[@]}}" {listing} ;;'
        for path, listing in _named(parser, "")
    )
    return SCRIPT.format(cases=cases, names=names)


def _named(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, str]]:
    """Give the paths that take a name which this host can list, and the command that lists it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from _named(below, f"{path} {name}")
        elif action.metavar in NAMES:
            yield path, NAMES[str(action.metavar)]


def _paths(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, list[str]]]:
    options = [option for action in parser._actions for option in action.option_strings]
    commands = {
        name: below
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, below in action.choices.items()
    }
    choices = [
        str(choice)
        for action in parser._actions
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction)
        for choice in action.choices or ()
    ]
    yield path, [*commands, *choices, *options]
    for name, below in commands.items():
        yield from _paths(below, f"{path} {name}")
