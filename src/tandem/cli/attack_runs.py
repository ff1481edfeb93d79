"""Runs the attacks of a source checkout by its pytest, and says what became of them as they end."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

from tandem.appraisal.verdict import Tier
from tandem.cli.attack_files import CONTROL, Attack
from tandem.errors import HostError

ATTACKS: Final = Path("tests/attacks")
IMAGE: Final = Path(".cache/images/current/vmlinuz")
PROGRAMS: Final = (
    *("swtpm", "swtpm_ioctl", "swtpm_localca", "qemu-system-x86_64"),
    *("tpm2_checkquote", "openssl"),
)
PLUGIN: Final = (
    *("-p", "tests.attacks.outcomes", "-p", "no:cacheprovider"),
    "--continue-on-collection-errors",  # a file that cannot be read costs no other its run
)
PATIENCE: Final = 60  # seconds for a run that was interrupted to take back what it made
NOT_RUN: Final = "not run"  # beside what pytest calls the outcomes
LAST_WORDS: Final = 300  # characters of a pytest that did not begin


class Standing(StrEnum):
    """What became of one half of an attack."""

    AS_CLAIMED = "as claimed"
    OTHERWISE = "otherwise"
    NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One test that ran, by its name with its parameters; `outcome` as pytest calls it.

    `error`: its file or a fixture of it failed; `not run`: pytest ended before it did.
    """

    test: str
    outcome: str
    seconds: float
    said: str = ""

    @property
    def function(self) -> str:
        """The name of the test's function."""
        return self.test.partition("[")[0]

    @property
    def is_control(self) -> bool:
        """Which half it is of."""
        return self.test.startswith(CONTROL)


@dataclass(frozen=True, kw_only=True)
class Result:
    """An attack, and what became of its tests."""

    attack: Attack
    ran: tuple[Ran, ...]

    @property
    def control(self) -> Standing:
        """As claimed: the attack succeeds on what it has always succeeded on."""
        own = [each for each in self.ran if each.is_control]
        return _standing(own, self.attack.controls)

    @property
    def tandem(self) -> Standing:
        """As claimed: it is refused, or found, here."""
        own = [each for each in self.ran if not each.is_control]
        return _standing(own, self.attack.refusals)

    @property
    def tier(self) -> Tier:
        """A refusal is worth something where the control succeeds."""
        if self.tandem is Standing.OTHERWISE:
            return Tier.CONTRAINDICATED
        good = self.control is self.tandem is Standing.AS_CLAIMED
        return Tier.AFFIRMING if good else Tier.WARNING

    @property
    def seconds(self) -> float:
        """How long its tests took, with the fixtures that they were the first to need."""
        return sum(each.seconds for each in self.ran)


@dataclass
class Run:
    """The attacks of one run, and what is known of them so far."""

    attacks: tuple[Attack, ...]
    ran: dict[str, dict[str, Ran]] = field(default_factory=dict)

    def take(self, line: str) -> str:
        """Take one line of the plugin; gives the name of the file whose test begins or ended."""
        said = json.loads(line)
        path, _, test = str(said["test"]).partition("::")
        name = Path(path).name
        own = self.ran.setdefault(name, {})
        if "due" in said:
            own[test] = Ran(test=test, outcome=NOT_RUN, seconds=0.0)
            return ""
        if "outcome" in said:
            own[test] = Ran(
                test=test, outcome=said["outcome"], seconds=said["seconds"], said=said["said"]
            )
        return name

    def result(self, attack: Attack) -> Result:
        """Give what became of an attack."""
        return Result(attack=attack, ran=tuple(self.ran.get(attack.name, {}).values()))

    @property
    def results(self) -> tuple[Result, ...]:
        """What became of each, in their order."""
        return tuple(self.result(each) for each in self.attacks)


def find_source(named: Path | None) -> Path:
    """Give the checkout that has the attacks; raises `HostError` that says what to do for one."""
    places = (named,) if named else (Path(__file__).resolve().parents[3], Path.cwd())
    for place in places:
        if (place / ATTACKS / "outcomes.py").is_file():
            return place.resolve()
    where = f"{str(named)[:200]!a} has no {ATTACKS}" if named else "this Tandem is installed"
    raise HostError(
        "TDM-ATTACKS-NO-SOURCE",
        f"the attacks are part of Tandem's source, and {where}",
        hint="clone Tandem's repository, `make setup image` there as root, then give the command"
        " in it, or with `--source DIR`",
    )


def python_for(source: Path) -> Path:
    """Give a Python that has pytest, this one or the checkout's; asks for all that is missing."""
    own = Path(sys.executable)
    python = own if importlib.util.find_spec("pytest") else source / ".venv" / "bin" / "python"
    lacks = [f"the program {each}" for each in PROGRAMS if not shutil.which(each)]
    if not python.exists():
        lacks.append("pytest")
    if not (source / IMAGE).exists():
        lacks.append("the guest image")
    if os.geteuid() != 0:
        lacks.append("root (it starts users' processes, namespaces and guests)")
    if lacks:
        raise HostError(
            "TDM-ATTACKS-NEEDS",
            f"to run the attacks this host lacks {', '.join(lacks)}",
            hint=f"as root: `make -C {source} setup image`, then again",
        )
    return python


def run_attacks(
    source: Path, python: Path, attacks: Sequence[Attack], heard: Callable[[Run, str], None]
) -> Run:
    """Run them in one pytest; `heard` is told of each line, by the file that it is about."""
    run = Run(tuple(attacks))
    with tempfile.TemporaryFile("w+") as output:
        with _pytest(source, python, attacks, output) as lines:
            for line in lines:
                heard(run, run.take(line))
        if not run.ran:
            output.seek(0)
            last = " ".join(output.read().split())[-LAST_WORDS:]
            raise HostError(
                "TDM-ATTACKS-NOT-RUN",
                f"pytest ran none of them: {last!a}",
                hint=f"`make -C {source} setup` brings what the tests need",
            )
    return run


@contextlib.contextmanager
def _pytest(
    source: Path, python: Path, attacks: Sequence[Attack], output: IO[str]
) -> Iterator[IO[str]]:
    """Start pytest, in a process group of its own, so that an interrupt reaches it but once."""
    reading, writing = os.pipe()
    files = [str(ATTACKS / each.name) for each in attacks]
    child = subprocess.Popen(  # noqa: S603 (no shell, and no word of a user's)
        [str(python), "-m", "pytest", *PLUGIN, "--outcomes", str(writing), *files],
        cwd=source, pass_fds=(writing,), process_group=0,
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
    )  # fmt: skip
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as lines:
            yield lines
        child.wait()
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            _wait(child)


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _standing(ran: Sequence[Ran], declared: Sequence[str]) -> Standing:
    if any(each.outcome == "failed" for each in ran):
        return Standing.OTHERWISE
    passed = {each.function for each in ran if each.outcome == "passed"}
    complete = passed == set(declared) and all(each.outcome == "passed" for each in ran)
    return Standing.AS_CLAIMED if complete else Standing.NOT_RUN
