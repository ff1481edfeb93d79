"""`make kills`: kill any of a host's processes, at any moment, and see that all comes back.

Each moment kills a random subset of builder, Manager, broker, zygote, vTPMs and hypervisors of a
host on which guests start, write, reboot and stop meanwhile.  What must hold is looked up in the
kernel: see docs/explanation/random-kills.md.

examples:
  make kills N=200                       two hundred moments, a new seed
  make kills N=10000 SEED=7 HOSTS=3      a long campaign, three hosts at once
  python -m kills -n 50 --again 7/1/42   one burst of it, again and again
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from selectors import EVENT_READ, DefaultSelector
from typing import Any, Final

from kills import worker
from kills.report import added_up, lines, summary

MOST_MINUTES: Final = 7 * 24 * 60.0
TELL_SECONDS: Final = 10.0  # between two lines of progress, where they are not overwritten


def main() -> int:
    """Run the campaign; the exit status is 1 where a rule was broken."""
    arguments = parsed()
    if arguments.worker:
        return worker.run(arguments.seed, arguments.n, 60 * arguments.minutes, arguments.again)
    if os.geteuid() != 0:
        print("kills: this needs root: a host's builder does", file=sys.stderr)
        return 3
    begun = time.monotonic()
    campaign = Parent(arguments)
    complete = campaign.run()
    done = summary(added_up(campaign.records), arguments.seed, time.monotonic() - begun)
    print(json.dumps(done) if arguments.json else "\n".join(lines(done)))
    if not complete:
        print("kills: not every host came to its end", file=sys.stderr)
    return 0 if complete and not done["violations"] else 1


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", type=int, default=100, help="moments, at least (100)")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of what is drawn (random)")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="then it ends, too")
    parser.add_argument("--hosts", type=int, default=2, help="at the same time (2)")
    parser.add_argument("--again", default="", metavar="BURST", help="repeat one burst")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.n < 0 or arguments.hosts < 1 or not 0 <= arguments.minutes <= MOST_MINUTES:
        parser.error("-n, --hosts and --minutes count something")
    return arguments


class Parent:
    """Hosts that run at the same time, each with its process; what they say is put together."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._wanted = arguments.n
        self._again = arguments.again
        self._seed = arguments.seed
        self._hosts = arguments.hosts
        self._minutes = arguments.minutes
        self._moments: dict[int, int] = {}
        self._violations = 0
        self._begun = self._told = time.monotonic()
        self.records: list[dict[str, Any]] = []

    def run(self) -> bool:
        """Run all hosts to their ends; False where one did not come to it."""
        signal.signal(signal.SIGINT, lambda *_: self._say("each host ends after its burst"))
        each = -(-self._wanted // self._hosts)
        self._say(f"seed {self._seed}, {self._hosts} hosts, {each} moments each")
        started = [self._start(number, each) for number in range(self._hosts)]
        with DefaultSelector() as selector:
            for number, process in enumerate(started):
                selector.register(process.stdout, EVENT_READ, number)  # type: ignore[arg-type]
            while selector.get_map():
                for key, _ in selector.select():
                    line = key.fileobj.readline()  # type: ignore[union-attr]
                    if line:
                        self._hear(key.data, json.loads(line))
                    else:
                        selector.unregister(key.fileobj)
        statuses = [process.wait() for process in started]
        return not any(statuses) and len(self.records) == self._hosts

    def _start(self, number: int, moments: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "kills", "--worker", "-n", str(moments)]
        command += ["--seed", f"{self._seed}/{number}", "--again", self._again]
        command += ["--minutes", str(self._minutes)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)  # lines come one by one

    def _hear(self, number: int, said: dict[str, Any]) -> None:
        match said:
            case {"moments": int(moments)}:
                self._moments[number] = moments
                self._progress()
            case {"violation": {"rule": rule, "burst": burst, "what": what}}:
                self._violations += 1
                self._say(f"VIOLATION {rule}: {what}; python -m kills --again {burst}")
            case {"kept": directory}:
                self._say(f"kept for you to look at: {directory}")
            case {"done": dict(record)}:
                self.records.append(record)
            case _:
                raise ValueError(f"host {number} said {said}")

    def _progress(self) -> None:
        now, moments = time.monotonic(), sum(self._moments.values())
        overwritten = sys.stderr.isatty()
        if not overwritten and now - self._told < TELL_SECONDS:
            return
        self._told, rate = now, moments / (now - self._begun)
        text = f"{moments:,} of {self._wanted:,} moments, {self._violations} violations"
        if moments:
            left = max(0, self._wanted - moments) / rate / 60
            text += f", {rate:.1f} a second, about {left:.0f} minutes left"
        self._say(text, end="\r" if overwritten else "\n")

    def _say(self, text: str, end: str = "\n") -> None:
        print(f"kills: {text}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
