"""`make bench`: every benchmark, one table, and `.cache/bench.json` for programs."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench import broker, deaths, guest_boot, manager, many_starts, vtpm
from bench.figures import Figure, merge_into, table
from demo import good_run
from demo.stage import Stage
from tandem.evidence.envelope import open_envelope, parse_public_key
from tandem.evidence.guest_entry import GuestEntry
from tandem.evidence.manifest import PAYLOAD_TYPE, parse_manifest

UEFI: Final = "uefi"
# What is booted, and the row it makes.
BOOTED: Final = {good_run.GUEST: "guest_boot_ms_more", UEFI: "guest_boot_uefi_ms_more"}
BOOTS: Final = 7
DEATHS: Final = 25
ROUNDS: Final = 3  # of many guests at once
MANAGER: Final = (sys.executable, "-m", "tandem.manager")


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--image", type=Path, required=True, help="directory of the guest image")
    parser.add_argument("--output", type=Path, default=Path(".cache/bench.json"))
    parser.add_argument("--boots", type=int, default=BOOTS, help="boots of each side")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", dir="/var/tmp") as directory:
        work = Path(directory)
        work.chmod(0o711)
        stage = Stage(host=work / "host", work=work, image=arguments.image.resolve())
        figures = [*vtpms(stage), *managers(work), *brokers(), *guests(stage, arguments.boots)]
    print(table(figures))
    merge_into(arguments.output, figures)
    return 0


def vtpms(stage: Stage) -> list[Figure]:
    """Measure vTPMs alone, on a real Manager."""
    say("vTPM: creation, start, memory, round trips")
    stage.tandem("host", "init", "--approval-key", stage.work / "approval.key")
    return vtpm.figures(stage.host, MANAGER)


def managers(work: Path) -> list[Figure]:
    """Measure the Manager on a pTPM that is slowed down."""
    say("Manager: deep quotes, commits, starts and records, beside one pTPM command for each")
    return manager.figures(work / "manager")


def brokers() -> list[Figure]:
    """Measure the broker on a host of its own."""
    say("broker: commands of one program, beside tpm2-abrmd")
    return broker.figures()


def guests(stage: Stage, runs: int) -> list[Figure]:
    """Measure guests of the builder's, each beside the same one started by hand."""
    stage.tandem("host", "up")
    try:
        sign_library(stage)
        say(f"guests: {runs} boots of each side, direct and UEFI")
        figures = [boots(stage, entry, name, runs) for entry, name in BOOTED.items()]
        say(f"{DEATHS} deaths of each half, and {many_starts.GUESTS} guests at once")
        figures += deaths.figures(
            deaths.Deaths(stage.host, good_run.GUEST),
            deaths.PlainDeaths(stage.work / "deaths"),
            DEATHS,
        )
        return figures + many_starts.figures(
            many_starts.ManyStarts(stage.host, good_run.GUEST), ROUNDS
        )
    finally:
        stage.tandem("host", "down")


def boots(stage: Stage, entry: str, name: str, runs: int) -> Figure:
    """Measure the boot of one entry, as the row `name`."""
    ours = guest_boot.TandemBoots(stage.host, entry)
    theirs = guest_boot.PlainBoots(
        entry_of(stage, entry), stage.host / "library", stage.work / f"plain-{entry}"
    )
    found = guest_boot.figure(name, ours, theirs, runs)
    more = statistics.median(found.tandem) - statistics.median(found.peer)
    builder = statistics.median(ours.builder_milliseconds)
    say(f"{entry}: boots {more:.0f} ms later, after {builder:.0f} ms of the builder's own")
    return found


def sign_library(stage: Stage) -> None:
    """Sign a library with the demo's guest, and the same kernel under UEFI firmware."""
    good_run.sign_library(stage)
    source = stage.host / "library" / "library.toml"
    direct = source.read_text()
    uefi = direct.replace(f"[entries.{good_run.GUEST}]", f'[entries.{UEFI}]\nboot = "uefi"')
    source.write_text(f"{direct}\n{uefi}")
    stage.tandem("library", "sign", source, "--key", stage.work / "library.key")


def entry_of(stage: Stage, name: str) -> GuestEntry:
    """Read the entry that both sides boot."""
    envelope = (stage.host / "library" / "library.dsse.json").read_bytes()
    key = parse_public_key((stage.work / "library.key.pub").read_bytes())
    manifest = parse_manifest(open_envelope(envelope, PAYLOAD_TYPE, [key]).payload)
    entry = manifest.entries[name]
    if not isinstance(entry, GuestEntry):
        raise TypeError(f"{name} is a guest")
    return entry


def say(text: str) -> None:
    """Print progress beside the table."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
