"""60: a link in the place where a vTPM's state is made, so that root writes or reads elsewhere.

Attacker: a local user, or a vTPM's own user, who can write to a directory on the way.
Control: swtpm; its state directory is exchanged for a link to a victim's, whose TPM it then serves
(CVE-2020-28407: older ones followed links to files, too).
Shows: the builder opens a vTPM's directory and the slots in it without following links
(TDM-PAIR-DIRECTORY, TDM-STATE-UNREADABLE), gives nobody a file that has a second name, and is the
only one to write above.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.builder.directories import Directories
from tandem.errors import HostError, Refused
from tests.attacks.disk import AttackedHost, endorsement_key

SOMEBODY = 0x54441000  # a vTPM's user


@pytest.fixture
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return Directories(tmp_path / "pairs", tmp_path / "vtpm")


def test_control_a_link_leads_to_the_victims_tpm(tmp_path: Path) -> None:
    # Given a victim's vTPM, and an attacker who may write where his own is to be made
    victim, own = tmp_path / "victim", tmp_path / "own"
    victim.mkdir()
    with shared_swtpm(victim) as tpm:
        before = endorsement_key(tpm)

    # When he puts a link there
    own.symlink_to(victim)
    with shared_swtpm(own) as tpm:
        served = endorsement_key(tpm)

    # Then he is served the victim's
    assert served == before


def test_a_vtpms_directory_is_no_link(directories: Directories, tmp_path: Path) -> None:
    # Given a victim's directory, and a link to it in the place of another vTPM's
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    (tmp_path / "vtpm" / "own").symlink_to(victim)

    # When a launch opens it
    with pytest.raises(HostError) as raised:
        directories.open_vtpm("own", "pair", SOMEBODY, ephemeral=False)

    # Then it is refused, and the victim's has its owner and mode
    assert raised.value.code == "TDM-PAIR-DIRECTORY"
    assert (victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == (0, 0o755)


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_no_file_elsewhere_is_given_away(
    directories: Directories, tmp_path: Path, link: str
) -> None:
    # Given a vTPM's directory in which its user left a link to a file of root's
    secret = tmp_path / "secret"
    secret.write_text("root's")
    own = tmp_path / "vtpm" / "own"
    own.mkdir()
    getattr(own / "state.0", link)(secret)

    # When the next launch is given the directory
    directories.open_vtpm("own", "pair", SOMEBODY, ephemeral=False)

    # Then the file is root's as before
    assert secret.stat().st_uid == 0
    assert own.stat().st_uid == SOMEBODY


def test_a_slot_is_no_link(host: AttackedHost, tmp_path: Path) -> None:
    # Given a vTPM, and a link in the place of its state
    with host.guest():
        pass
    victim = tmp_path / "victim"
    victim.write_text("somebody's file")
    slot = host.host / "vtpm" / "web" / "state.0"
    kept = slot.read_bytes()
    slot.unlink()
    slot.symlink_to(victim)

    # When it is launched
    with pytest.raises(Refused) as raised, host.guest():
        pass

    # Then it is refused, and nothing was read from there or written
    assert raised.value.code == "TDM-STATE-UNREADABLE"
    assert victim.read_text() == "somebody's file"
    slot.unlink()
    slot.write_bytes(kept)
