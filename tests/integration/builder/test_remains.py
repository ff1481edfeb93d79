"""What is taken for a process of a pair that nobody knows any more, and ended."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tandem.builder.actions import VTPM_UIDS
from tandem.builder.remains import holders


def test_whoever_reads_a_console_as_root_is_none_of_the_pair(tmp_path: Path) -> None:
    # Given a hypervisor's log that a hypervisor writes, and a collector of root's reads
    log = tmp_path / "hypervisor.log"
    with log.open("wb") as written, log.open("rb") as read:
        hypervisor = subprocess.Popen(["sleep", "60"], stdout=written, user=VTPM_UIDS + 1)
        collector = subprocess.Popen(["sleep", "60"], stdin=read)
    # When the pair's processes are looked for
    found = [each.pid for each in holders(tmp_path)]
    for process in (hypervisor, collector):
        process.kill()
        process.wait()
    # Then the collector is not among them
    assert found == [hypervisor.pid]
