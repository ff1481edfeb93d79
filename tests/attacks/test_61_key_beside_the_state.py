"""61: the key of an encrypted vTPM state lies beside the state, or in some other file.

Attacker: who takes the disk, or a backup of it.
Control: swtpm with `--key`: the key file "needs to stay with those files" (swtpm(8)); who copies
both has the vTPM.
Shows: a vTPM's key is sealed by the pTPM, comes from the Manager over a channel, and is in no file,
argument, environment or log; with all files and another TPM, nothing opens
(TDM-PTPM-FOREIGN-KEYS).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.plain import wait_for_path
from peers.shared_swtpm import HOST, SharedTpm, free_ports
from tandem.errors import Refused
from tests.attacks.disk import AttackedHost, copy, endorsement_key

KEY = "01" * 32


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def identity_of(directory: Path) -> bytes:
    """Run swtpm with the key that is there; gives its endorsement key."""
    port, pid = free_ports(), directory / "pid"
    pid.unlink(missing_ok=True)
    process = subprocess.Popen([
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}"),
        *("--key", f"file={directory / 'key'},mode=aes-256-cbc,format=hex"),
        *("--server", f"type=tcp,bindaddr={HOST},port={port}", "--pid", f"file={pid}"),
        *("--ctrl", f"type=tcp,bindaddr={HOST},port={port + 1}"),
        *("--flags", "not-need-init,startup-clear"),
    ])  # fmt: skip
    try:
        wait_for_path(pid)
        return endorsement_key(SharedTpm(port))
    finally:
        process.kill()
        process.wait()


def test_control_who_copies_the_directory_has_the_vtpm(tmp_path: Path) -> None:
    # Given an encrypted vTPM, with its key where such keys are
    own = tmp_path / "vtpm"
    own.mkdir()
    (own / "key").write_text(KEY)
    before = identity_of(own)

    # When a thief copies the directory
    copy(own, tmp_path / "stolen")

    # Then he has the vTPM
    assert identity_of(tmp_path / "stolen") == before


def test_a_vtpms_key_is_nowhere_to_be_read(host: AttackedHost) -> None:
    # Given a vTPM that has the key from the Manager and has written state, as all see them
    with host.guest("db") as guest:
        pids = {"Manager": host.manager.pid, "vTPM": guest.pid}
        seen = {
            f"{name} {part}": (Path("/proc") / str(pid) / part).read_bytes()
            for name, pid in pids.items()
            for part in ("cmdline", "environ")
        }
        endorsement_key(guest)

    # When its key, which the next launch is given again, is searched, as bytes and as text
    key = host.key_of("db")
    files = [each for each in host.host.rglob("*") if each.is_file()]
    seen |= {str(each): each.read_bytes() for each in files}
    forms = [key, key.hex().encode(), key.hex().upper().encode()]
    found = [place for place, content in seen.items() for form in forms if form in content]

    # Then it is in none of the files and logs, nor in what is seen of either process
    assert any(files)
    assert found == []


def test_all_files_do_not_make_a_second_host(host: AttackedHost) -> None:
    # Given a thief, with a Tandem of his own and a copy of all files
    with host.guest() as guest:
        before = endorsement_key(guest)
    host.manager.stop()
    with AttackedHost() as thief:
        thief.manager.stop()
        thief.take_over(host)

        # When he starts it on his TPM
        with pytest.raises(Refused) as raised:
            thief.manager.start()

    # Then it does not open, and on its own host it does
    assert raised.value.code == "TDM-PTPM-FOREIGN-KEYS"
    host.manager.start()
    with host.guest() as guest:
        assert endorsement_key(guest) == before
