"""What guests said on their consoles, and what follows: nothing acknowledged is lost, PCRs are new.

Pure.  A line counts once its end is there: what a dying hypervisor cut off was not said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from kills.rules import Violation

ZERO: Final = "0" * 64
FRESH: Final = {10: ZERO, 16: ZERO}  # the guest extended both in each launch before
MAX_LINE: Final = 200


@dataclass(kw_only=True)
class Account:
    """One vTPM over all its launches; a number is durable once acknowledged, or found again."""

    keeps: bool  # whether its vTPM is persistent
    launch: dict[int, str] = field(default_factory=dict)  # PCR 17 and 18, as it first found them
    durable: int = 0
    launches: int = 0  # that came as far as reading their counter
    acknowledged: int = 0
    heard: float = 0.0  # when the newest number was acknowledged


@dataclass(kw_only=True)
class Console:
    """One launch's output."""

    guest: str
    pid: int
    rest: bytes = b""
    wrote: bool = False  # and had it acknowledged: the launch is over, the guest runs


@dataclass(kw_only=True)
class Ledger:
    """All guests of one host."""

    accounts: dict[str, Account]
    refused: Counter[str] = field(default_factory=Counter)  # ERR lines: the TPM said no

    def take(self, console: Console, output: bytes, now: float) -> Iterator[Violation]:
        """Read on; give what must not be."""
        *lines, console.rest = (console.rest + output).split(b"\n")
        for line in lines:
            words = _words(line)
            problem = self._take_line(console.guest, words, now)
            console.wrote = console.wrote or words[:1] == ["ACK"]
            if problem:
                rule, what = problem
                what = f"guest {console.guest} {console.pid}: {what}"
                yield Violation(rule=rule, pid=console.pid, what=what)

    def _take_line(self, guest: str, words: list[str], now: float) -> tuple[str, str] | None:
        account = self.accounts[guest]
        match words:
            case ["PCR", index, value] if index.isdecimal():
                wanted = {**account.launch, **FRESH}.get(int(index))
                if wanted is None:
                    wanted = account.launch.setdefault(int(index), value)
                return None if value == wanted else ("pcr", f"PCR {index} is {value}, not {wanted}")
            case ["NV", found]:
                return self._take_found(account, found)
            case ["ACK", number] if number.isdecimal():
                account.acknowledged += 1
                account.heard = now
                account.durable = max(account.durable, int(number))
                return None
            case ["ERR", what, code] if code.isdecimal():
                self.refused[f"{what} {int(code):#x}"] += 1
                return None
            case ["END"]:
                return None
            case _:
                return "console", f"said {' '.join(words)!a}"

    def _take_found(self, account: Account, found: str) -> tuple[str, str] | None:
        account.launches += 1
        number = int(found) if found.isdecimal() else 0
        least = account.durable if account.keeps else 0
        most = least + 1 if account.keeps else 0  # one more may be written and not acknowledged
        account.durable = max(number, account.durable) if account.keeps else 0
        if number < least:
            return "lost", f"{least} was acknowledged, and {found} is there"
        if number > most:
            return "invented", f"{least} was the newest, and {found} is there"
        return None


def _words(line: bytes) -> list[str]:
    return line[:MAX_LINE].decode("ascii", "backslashreplace").split()
