"""`tandem host`: what a person sees, also when something is missing, wrong or full."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.appraisal.enrolment import check_proof, make_credential, write_challenge
from tandem.errors import HostError
from tandem.evidence.certificates import same_key
from tandem.evidence.enrolment import parse_proof
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.host_export import parse_host_export
from tandem.evidence.pcr_values import replay
from tests.integration.manager.running_manager import RunningManager, refusal, tandem


@pytest.fixture
def new(work: Path, request: pytest.FixtureRequest) -> Path:
    return work / f"new-{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def small_disk(work: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Give a disk of so many KiB."""
    place = work / "small"
    place.mkdir(exist_ok=True)
    options = f"size={request.param}k,mode=0711"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def left(host: Path) -> list[str]:
    """Name what is in a host's directory."""
    return sorted(path.name for path in host.iterdir()) if host.exists() else []


def test_a_new_host_says_that_it_has_no_hardware_root(template: Path, new: Path) -> None:
    # Given an empty place
    # When a host is made there
    done = tandem(new, "host", "init")
    # Then everything printed says what stands for the pTPM, and nothing else is printed
    assert done.returncode == 0
    assert "no hardware root" in done.stdout
    assert done.stderr == ""


def test_a_host_is_made_once(template: Path) -> None:
    # Given a host
    before = left(template)
    # When it is made again
    done = tandem(template, "host", "init", "--json")
    # Then it is refused and unchanged
    assert refusal(done) == ("TDM-HOST-EXISTS", 5)
    assert left(template) == before


@pytest.mark.parametrize(
    ("options", "code", "status"),
    [
        (("--pcrs", "0"), "TDM-SEAL-UNMEASURED-PCR", 5),
        (("--pcrs", "8,17"), "TDM-SEAL-UNMEASURED-PCR", 5),
        (("--pcrs", "8,99"), "TDM-HOST-PCRS-BAD", 2),
        (("--ptpm", "/dev/null"), "TDM-HOST-PCRS-NEEDED", 2),
        (("--ptpm", "/dev/null", "--pcrs", "0"), "TDM-PTPM-NOT-A-TPM", 2),
        (("--ptpm", "/dev/no-tpm", "--pcrs", "0"), "TDM-PTPM-NOT-OPENED", 3),
    ],
)
def test_an_init_that_is_refused_leaves_nothing_behind(
    new: Path, options: tuple[str, ...], code: str, status: int
) -> None:
    # Given an empty place
    # When a host is to be made there that cannot be
    done = tandem(new, "host", "init", "--json", *options)
    # Then the error has its code and status, and the place is empty
    assert refusal(done) == (code, status)
    assert left(new) == []


def test_a_file_named_as_ptpm_is_not_written_to(new: Path, work: Path) -> None:
    # Given a file
    precious = work / "precious"
    precious.write_bytes(b"precious")
    # When somebody names it as the pTPM
    done = tandem(new, "host", "init", "--json", "--ptpm", str(precious), "--pcrs", "0")
    # Then it is refused, and still what it was
    assert refusal(done) == ("TDM-PTPM-NOT-A-TPM", 2)
    assert precious.read_bytes() == b"precious"


def test_a_machine_without_swtpm_says_how_to_get_it(new: Path, work: Path) -> None:
    # Given a machine without it
    empty = work / "no-programs"
    empty.mkdir(exist_ok=True)
    # When a host is made there
    done = tandem(new, "host", "init", "--json", PATH=str(empty))
    # Then the error names the package
    assert refusal(done) == ("TDM-NO-SWTPM", 3)
    assert "apt-get install swtpm" in json.loads(done.stderr)["hint"]
    assert left(new) == []


def test_a_place_that_the_manager_cannot_reach_is_refused(work: Path) -> None:
    # Given a directory closed to everybody but root
    closed = work / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)
    # When a host is made in it
    done = tandem(closed / "host", "host", "init", "--json")
    # Then the error says so before anything is made
    assert refusal(done) == ("TDM-HOST-UNREACHABLE", 3)
    assert left(closed / "host") == []


@pytest.mark.parametrize("command", ["status", "export", "activate"])
def test_a_host_that_does_not_run_says_so(stopped: RunningManager, command: str) -> None:
    # Given a host whose Manager does not run
    challenge = stopped.paths.root / "challenge"
    challenge.write_bytes(
        b'{"format":"tandem-challenge-1","credential_blob":"00","encrypted_secret":"00"}'
    )
    arguments = [str(challenge)] if command == "activate" else []
    # When it is asked
    done = tandem(stopped.paths.root, "host", command, *arguments)
    # Then the error says how to start it
    assert done.returncode == 3
    assert "TDM-MANAGER-ABSENT" in done.stderr
    assert "tandem host up" in done.stderr


def test_status_names_what_stands_for_the_ptpm(manager: RunningManager) -> None:
    # Given a running host
    # When its status is asked for
    text = tandem(manager.paths.root, "host", "status").stdout
    record = json.loads(tandem(manager.paths.root, "host", "status", "--json").stdout)
    # Then both forms say that there is no hardware root
    assert "no hardware root" in text
    assert (record["ptpm"], record["hardware_root"]) == ("embedded", False)


def test_the_export_is_one_that_a_verifier_enrols(manager: RunningManager) -> None:
    # Given a running host
    exported = manager.paths.root / "host.json"
    assert tandem(manager.paths.root, "host", "export", "-o", str(exported)).returncode == 0
    data = exported.read_bytes()
    export = parse_host_export(data)
    # When a verifier challenges it
    credential = b"c" * 32
    challenge = make_credential(export.ek, export.ak.name, credential, os.urandom)
    asked = manager.paths.root / "challenge.json"
    asked.write_bytes(write_challenge(challenge))
    done = tandem(manager.paths.root, "host", "activate", str(asked))
    # Then only this host's TPM can answer, and does, with a quote for that export
    proof = parse_proof(done.stdout.encode())
    assert check_proof(export, data, credential, proof).reset_count > 0
    assert sorted(proof.pcrs) == [8, 9]
    # And the EK is the one that its certificate is for
    assert not export.hardware_root
    assert export.ek_certificate is not None
    assert export.ek_certificate.key is not None
    assert same_key(export.ek_certificate.key, export.ek.key)


def test_a_challenge_for_another_ak_is_refused(manager: RunningManager) -> None:
    # Given a challenge for this EK and another AK
    exported = tandem(manager.paths.root, "host", "export").stdout.encode()
    export = parse_host_export(exported)
    challenge = make_credential(export.ek, b"\0\x0b" + bytes(32), b"c" * 32, os.urandom)
    asked = manager.paths.root / "challenge.json"
    asked.write_bytes(write_challenge(challenge))
    # When the host is to answer it
    done = tandem(manager.paths.root, "host", "activate", str(asked))
    # Then it is refused, and the Manager serves on
    assert (done.returncode, "TDM-ACTIVATE-REFUSED" in done.stderr) == (5, True)
    assert manager.status().open_pairs == 0


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("state", "--predicted", "-o", "/nowhere/state"), "TDM-CLI-FILE-NOT-WRITTEN", 3),
        (("approve", "--key", "/nowhere/key"), "TDM-CLI-FILE-UNREADABLE", 3),
        (("approve", "--approval", "/dev/null"), "TDM-APPROVAL-BAD", 4),
        (("approve", "--approval", "/dev/null", "--predicted"), "TDM-APPROVAL-HAS-STATE", 2),
        (("approve",), "TDM-CLI-USAGE", 2),
        (("rotate", "--key", "/nowhere/key"), "TDM-CLI-FILE-UNREADABLE", 3),
        (("recover", "--approval-key", "/nowhere/key"), "TDM-RECOVERY-KEY-MISSING", 2),
        (("backup", "/nowhere/backup"), "TDM-CLI-FILE-NOT-WRITTEN", 3),
        (("backup", "/dev/null"), "TDM-CLI-FILE-EXISTS", 2),
        (("restore", "/nowhere/backup"), "TDM-CLI-SYSTEM", 3),
        (("restore", "/dev/null"), "TDM-BACKUP-DAMAGED", 4),
    ],
)
def test_what_makes_no_sense_is_named_and_changes_nothing(
    stopped: RunningManager, words: tuple[str, ...], code: str, status: int
) -> None:
    # Given a host
    before = {path.name: path.read_bytes() for path in stopped.paths.manager.glob("*.*")}
    # When a command about its secrets makes no sense
    done = tandem(stopped.paths.root, "host", *words, "--json")
    # Then the error names what it is, and nothing was changed
    assert refusal(done) == (code, status)
    assert {path.name: path.read_bytes() for path in stopped.paths.manager.glob("*.*")} == before
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("command", ["recover", "restore"])
def test_what_takes_the_managers_place_waits_for_its_end(
    manager: RunningManager, command: str, tmp_path: Path
) -> None:
    # Given a running host, its backup, and its recovery key
    backup = tmp_path / "backup"
    assert tandem(manager.paths.root, "host", "backup", str(backup)).returncode == 0
    work = manager.paths.root.parent
    typed = json.loads((work / "init.json").read_text())["recovery_key"]
    words = [command, *([str(backup)] if command == "restore" else [])]
    # When it is to be recovered or restored meanwhile
    done = subprocess.run(
        [sys.executable, "-m", "tandem", "--host", str(manager.paths.root), "host", *words,
         "--approval-key", str(work / "approval.key"), "--json"],
        input=typed, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # Then it is refused, and the host serves on
    assert refusal(done) == ("TDM-MANAGER-RUNNING", 3)
    assert manager.status().open_pairs == 0


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("identity.cbor", "TDM-HOST-NOT-INITIALISED", 3),
        ("store.sqlite", "TDM-STORE-MISSING", 3),
    ],
)
def test_up_reports_why_the_manager_did_not_start(
    stopped: RunningManager, name: str, code: str, status: int
) -> None:
    # Given a host with something missing
    (stopped.paths.manager / name).unlink()
    # When it is started
    done = tandem(stopped.paths.root, "host", "up")
    # Then the error is the Manager's own, and nothing runs
    assert (done.returncode, code in done.stderr) == (status, True)
    assert stopped.service.running() is None


def test_a_damaged_ptpm_is_reported(stopped: RunningManager) -> None:
    # Given an embedded pTPM whose state is damaged
    [state] = stopped.paths.ptpm.glob("*.permall")
    state.write_bytes(b"damaged" * 100)
    # When the host is started
    with pytest.raises(HostError) as raised:
        stopped.start()
    # Then the error says which part it is, and where to look
    assert raised.value.code == "TDM-PTPM-GONE"
    assert "swtpm.log" in raised.value.hint


@pytest.mark.parametrize("small_disk", [8, 32, 64, 92, 108], indirect=True)
def test_a_full_disk_makes_no_host(small_disk: Path) -> None:
    # Given a disk that is full at one step or another
    host = small_disk / "host"
    # When a host is made on it
    done = tandem(host, "host", "init", "--json")
    # Then there is one clear error about the host, and nothing is left
    code, status = refusal(done)
    assert (code.startswith("TDM-"), status) == (True, 3)
    assert left(host) == []


def test_the_hosts_log_is_fetched_whole_and_from_an_offset(manager: RunningManager) -> None:
    # Given a running host with an embedded pTPM
    root = manager.paths.root
    # When its event log is fetched whole, from an offset, and beyond its end
    done = tandem(root, "host", "log", "-o", str(root / "host.log"), "--json")
    part = tandem(root, "host", "log", "--offset", "32", "-o", str(root / "part.log"))
    beyond = tandem(root, "host", "log", "--offset", "99999", "--json")
    # Then both belong together, and the log explains what the host quotes
    whole = (root / "host.log").read_bytes()
    assert json.loads(done.stdout)["sha256"] == hashlib.sha256(whole).hexdigest()
    assert (part.returncode, (root / "part.log").read_bytes()) == (0, whole[32:])
    assert sorted(replay(parse_event_log(whole))["sha256"]) == [8, 9]
    assert "TDM-HOST-LOG-OFFSET" in beyond.stderr


def test_an_ima_list_that_the_kernel_does_not_keep_is_refused(manager: RunningManager) -> None:
    # Given a host whose kernel measures nothing into its pTPM
    # When its IMA list is asked for
    done = tandem(manager.paths.root, "host", "log", "--ima")
    # Then it is refused by name
    assert (done.returncode, "TDM-HOST-LOG-ABSENT" in done.stderr) == (5, True)
