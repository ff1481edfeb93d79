"""Which states of the host open its secrets: approved, recovered from, and sealed to anew."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tandem.errors import Refused
from tandem.evidence.host_approval import approve, parse_approval_private_key, write_approval
from tandem.evidence.host_state import StateDocument, parse_state, write_state
from tandem.settings import UID_BASE
from tests.integration.manager.host_runs import done, refused, run
from tests.integration.manager.running_manager import RunningManager


def test_a_coming_state_is_approved_before_it_comes(
    manager: RunningManager, key: Path, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a running host, and the version of Tandem that is installed next
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(changed))
        # When its state is approved while the old one runs
        done(manager, "approve", "--key", str(key), "--predicted")
    manager.stop()
    # Then both versions start
    manager.start()
    manager.stop()
    monkeypatch.setenv("PYTHONPATH", str(changed))
    manager.start()
    assert manager.status().open_pairs == 0


def test_without_approval_the_error_names_both_ways(
    stopped: RunningManager, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a version of Tandem that nobody approved
    monkeypatch.setenv("PYTHONPATH", str(changed))
    # When the host is started
    with pytest.raises(Refused) as raised:
        stopped.start()
    # Then it is refused, and says what changed and what to do
    assert raised.value.code == "TDM-HOST-STATE-CHANGED"
    assert "PCR 9" in raised.value.problem
    assert "tandem host approve" in raised.value.hint
    assert "tandem host recover" in raised.value.hint


def test_a_state_is_signed_elsewhere_and_brought_in(
    stopped: RunningManager,
    key: Path,
    changed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a state that was recorded on the host, and signed on a machine without it
    monkeypatch.setenv("PYTHONPATH", str(changed))
    state, approval = tmp_path / "state.json", tmp_path / "approval.json"
    done(stopped, "state", "-o", str(state))
    here = RunningManager(tmp_path / "no-host-here")
    done(here, "approve", "--key", str(key), "--state", str(state), "-o", str(approval))
    # When the approval is brought in
    done(stopped, "approve", "--approval", str(approval))
    # Then the host starts
    stopped.start()


def test_a_state_recorded_on_one_host_serves_another(
    manager: RunningManager, key: Path, tmp_path: Path
) -> None:
    # Given a state that a machine alike recorded, whose master key is of another generation
    state, approval = tmp_path / "state.json", tmp_path / "approval.json"
    done(manager, "state", "-o", str(state))
    done(manager, "rotate", "--key", str(key))
    signing = ("approve", "--key", str(key), "--state", str(state))
    found = run(manager, *signing, "--json")
    assert json.loads(found.stderr)["code"] == "TDM-APPROVAL-FOR-ANOTHER"
    # When it is approved for this one's
    assert done(manager, *signing, "--generation", "2")["generation"] == 2
    # Then it counts, here as from elsewhere; a generation that there is none does not
    done(manager, *signing, "--generation", "2", "-o", str(approval))
    done(manager, "approve", "--approval", str(approval))
    found = run(manager, *signing, "--generation", "0", "--json")
    assert json.loads(found.stderr)["code"] == "TDM-APPROVAL-BAD"


def test_what_a_manager_and_the_idle_ptpm_say_of_the_state_is_the_same(
    stopped: RunningManager,
) -> None:
    # Given the state as the pTPM holds it while no Manager runs
    idle = run(stopped, "state").stdout
    # When a Manager is asked, and it is predicted
    stopped.start()
    # Then all three agree
    assert run(stopped, "state").stdout == idle
    assert run(stopped, "state", "--predicted").stdout == idle


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"generation": 2}, "TDM-APPROVAL-FOR-ANOTHER"),
        ({"subject": "group/host"}, "TDM-APPROVAL-FOR-ANOTHER"),
        ({"registers": (8,)}, "TDM-APPROVAL-OTHER-REGISTERS"),
        ({"signer": "another"}, "TDM-APPROVAL-NOT-SIGNED"),
    ],
)
def test_an_approval_that_does_not_count_is_not_brought_in(
    stopped: RunningManager, key: Path, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    # Given an approval of the present state that is for another, or by another
    document = parse_state(run(stopped, "state").stdout.encode())
    fields = json.loads(write_state(document))
    if "registers" in change:
        for bank in fields["state"].values():
            del bank["9"]
    fields |= {name: change[name] for name in ("generation", "subject") if name in change}
    signer = parse_approval_private_key(key.read_bytes())
    if "signer" in change:
        signer = ec.generate_private_key(ec.SECP256R1())
    asked = parse_state(json.dumps(fields).encode())
    approval = tmp_path / "approval.json"
    approval.write_bytes(write_approval(approve(StateDocument(**vars(asked)), signer)))
    # When it is brought in
    found = run(stopped, "approve", "--approval", str(approval), "--json")
    # Then it is refused by name
    assert json.loads(found.stderr)["code"] == code


def test_an_unplanned_change_is_recovered_from(
    manager: RunningManager,
    recovery_key: str,
    changed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a host with a vTPM, on which another version of Tandem was installed unannounced
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    manager.stop()
    monkeypatch.setenv("PYTHONPATH", str(changed))
    assert refused(manager.start) == "TDM-HOST-STATE-CHANGED"
    # When it is recovered with the key from the paper, sloppily typed
    new_key = tmp_path / "new.key"
    sloppy = recovery_key.lower().replace("-", " ")
    record = done(manager, "recover", "--approval-key", str(new_key), typed=f"{sloppy}\n")
    # Then it starts, with the same vTPM, and the new key approves from now on
    manager.start()
    again = manager.vtpm("web").welcome
    assert (again.key, again.state_version) == (vtpm.welcome.key, 1)
    done(manager, "approve", "--key", str(new_key), "--predicted")
    # And the former recovery key opens nothing any more
    manager.stop()
    found = run(manager, "recover", "--json", "--approval-key", str(new_key), typed=recovery_key)
    assert json.loads(found.stderr)["code"] == "TDM-RECOVERY-KEY-WRONG"
    assert record["recovery_key"] != recovery_key


def test_a_recovery_does_not_bring_an_older_store_back(
    manager: RunningManager, recovery_key: str, tmp_path: Path
) -> None:
    # Given a copy of the store from before the newest commit
    manager.vtpm("web")
    manager.stop()
    store = manager.paths.manager / "store.sqlite"
    shutil.copy2(store, tmp_path / "kept")
    manager.start()
    manager.vtpm("other")
    manager.stop()
    shutil.copyfile(tmp_path / "kept", store)
    # When the host is recovered on it
    arguments = ("recover", "--json", "--approval-key", str(tmp_path / "new.key"))
    found = run(manager, *arguments, typed=recovery_key)
    # Then that is refused as a rollback, and no key was left for it
    assert json.loads(found.stderr)["code"] == "TDM-ROLLBACK-STORE"
    assert not (tmp_path / "new.key").exists()


@pytest.mark.parametrize("typed", ["", "no key\n", "A" * 63])
def test_what_is_no_recovery_key_is_refused(
    stopped: RunningManager, typed: str, tmp_path: Path
) -> None:
    # Given a host
    # When something else is typed in place of its recovery key
    arguments = ("recover", "--json", "--approval-key", str(tmp_path / "new.key"))
    found = run(stopped, *arguments, typed=typed)
    # Then it is refused before anything is changed, and it is not repeated
    assert json.loads(found.stderr)["code"].startswith("TDM-RECOVERY-KEY-M")
    assert not typed.strip() or typed.strip() not in found.stderr
    stopped.start()


def test_a_terminal_does_not_show_the_recovery_key(
    stopped: RunningManager, recovery_key: str, tmp_path: Path
) -> None:
    # Given a terminal
    ours, theirs = pty.openpty()
    arguments = ["recover", "--approval-key", str(tmp_path / "new.key")]
    command = [sys.executable, "-m", "tandem", "--host", str(stopped.paths.root), "host"]
    # When the host is recovered there
    process = subprocess.Popen(
        [*command, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    while b"not shown" not in shown:
        shown += os.read(ours, 1000)
    time.sleep(0.2)
    os.write(ours, recovery_key.encode() + b"\n")
    while b"recovered" not in shown:
        shown += os.read(ours, 1000)
    assert process.wait(20) == 0
    os.close(ours)
    # Then what was typed is not on it
    assert recovery_key.encode() not in shown


def test_a_new_master_key_voids_what_opened_the_former(
    manager: RunningManager, key: Path, recovery_key: str, tmp_path: Path
) -> None:
    # Given a running host with a vTPM, and copies of its identity, approvals and store
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    kept = shutil.copytree(manager.paths.manager, tmp_path / "kept")
    ak = manager.status().host_ak_name
    # When it gets a new master key
    record = done(manager, "rotate", "--key", str(key))
    # Then it serves on as the same host, and its vTPMs too
    assert (record["generation"], manager.status().host_ak_name) == (2, ak)
    vtpm.commit(2)
    manager.stop()
    manager.start()
    assert manager.vtpm("web").welcome.state_version == 2
    manager.stop()
    # And nothing of the former generation opens anything
    names = sorted(path.name for path in manager.paths.manager.iterdir())
    assert names == ["approvals", "identity.cbor", "store.2.sqlite"]
    shutil.rmtree(manager.paths.manager)
    shutil.copytree(kept, manager.paths.manager)
    for path in (manager.paths.manager, *manager.paths.manager.rglob("*")):
        os.chown(path, UID_BASE, UID_BASE)
    assert refused(manager.start) == "TDM-ROLLBACK-GENERATION"
    found = run(manager, "recover", "--json", "--approval-key", str(key), typed=recovery_key)
    assert json.loads(found.stderr)["code"] == "TDM-ROLLBACK-GENERATION"


def test_a_former_approval_does_not_open_the_next_generation(
    manager: RunningManager, key: Path, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a state that was approved, and withdrawn by a new master key
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", str(changed))
        done(manager, "approve", "--key", str(key), "--predicted")
    kept = {path.name: path.read_bytes() for path in manager.paths.approvals.iterdir()}
    done(manager, "rotate", "--key", str(key))
    manager.stop()
    # When somebody puts the approval back, under any name, and boots that state
    for number, content in enumerate(kept.values()):
        (manager.paths.approvals / f"2-{number:016x}.json").write_bytes(content)
    monkeypatch.setenv("PYTHONPATH", str(changed))
    # Then it does not open
    assert refused(manager.start) == "TDM-HOST-STATE-CHANGED"


def test_only_the_approval_key_renews_the_master_key(
    manager: RunningManager, tmp_path: Path
) -> None:
    # Given another key
    other = tmp_path / "other.key"
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    other.write_bytes(pem)
    # When the master key is to be renewed with it
    found = run(manager, "rotate", "--json", "--key", str(other))
    # Then that is refused, and the host serves and starts as it did
    assert json.loads(found.stderr)["code"] == "TDM-APPROVAL-NOT-SIGNED"
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    manager.stop()
    manager.start()
    assert manager.vtpm("web").welcome.state_version == 1


@pytest.mark.parametrize("rollback", ["strict", "window"])
def test_guests_write_on_while_the_master_key_is_renewed(
    work: Path, key: Path, rollback: str, template: Path
) -> None:
    # Given a host whose vTPMs write without a pause
    manager = RunningManager(work / f"writing-{rollback}")
    options = ("--rollback", rollback, "--approval-key", str(key))
    assert run(manager, "init", *options).returncode == 0
    manager.start()
    vtpms = [manager.vtpm(f"web-{number}") for number in range(4)]
    written, ending = [0] * len(vtpms), threading.Event()

    def keep_writing(number: int) -> None:
        vtpms[number].prepare()
        while not ending.is_set():
            vtpms[number].commit(written[number] + 1)
            written[number] += 1

    writers = [threading.Thread(target=keep_writing, args=(each,)) for each in range(len(vtpms))]
    for writer in writers:
        writer.start()
    # When the master key is renewed, again and again
    generations = [done(manager, "rotate", "--key", str(key))["generation"] for _ in range(3)]
    ending.set()
    for writer in writers:
        writer.join()
    # Then nothing that was acknowledged is lost, also when power is
    manager.kill()
    manager.start()
    found = [manager.vtpm(f"web-{number}").welcome.state_version for number in range(len(vtpms))]
    manager.close()
    assert generations == [2, 3, 4]
    assert found == written
    assert min(written) > 3
