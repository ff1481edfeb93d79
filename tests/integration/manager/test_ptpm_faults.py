"""A pTPM that is busy, locked, hung, reset or gone: tried again, reported or given up, never lost.

A real Manager on `peers.faulty_tpm`, a swtpm that does what the test says.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.faulty_tpm import CREATE_PRIMARY, EVERY, LOAD, NV_EXTEND, QUOTE, Fault, FaultyTpm
from tandem.channel import Closed, expect
from tandem.errors import HostError, TandemError
from tandem.manager import tcti
from tandem.wire.manager_rpc import AskDeepQuote, AskExport, DeepQuoted, ExportPage
from tests.integration.manager.running_manager import (
    RunningManager,
    Vtpm,
    ready,
    refusal,
    tandem,
)

HOST_ERROR = 3
WATCH_SECONDS = 15.0  # within which an idle Manager looks at its pTPM

pytestmark = pytest.mark.skipif(not ready(), reason="needs root and swtpm-tools")


@pytest.fixture
def tpm(work: Path, request: pytest.FixtureRequest) -> Iterator[FaultyTpm]:
    """Give a TPM without faults yet."""
    directory = work / f"tpm-{abs(hash(request.node.nodeid)):x}"
    with FaultyTpm(directory) as faulty:
        yield faulty
    shutil.rmtree(directory)


@pytest.fixture
def host(tpm: FaultyTpm) -> Iterator[RunningManager]:
    """Give a host on that TPM; its Manager runs."""
    manager = RunningManager(tpm.directory / "host")
    key = tpm.directory / "approval.key"
    made = tandem(
        manager.paths.root,
        *("host", "init", "--ptpm", tpm.ptpm, "--approval-key", str(key)),
    )
    assert made.returncode == 0, made.stderr
    manager.start()
    yield manager
    manager.close()


def deep_quote(vtpm: Vtpm) -> DeepQuoted:
    return vtpm.channel.ask(AskDeepQuote(vtpm_quote_digest=bytes(32)), DeepQuoted)


def ended(manager: RunningManager) -> tuple[int, str]:
    """Wait for the Manager's end; give its exit status and its last words."""
    pid = manager.pid
    _, status = os.waitpid(pid, 0)
    said = (manager.paths.run / "manager.log").read_text().strip().splitlines()
    return os.waitstatus_to_exitcode(status), " ".join(said[-2:])


def version_after_restart(manager: RunningManager, name: str) -> int:
    """Start the Manager again and ask which state of a vTPM is its newest."""
    manager.start()
    return manager.vtpm(name).welcome.state_version


@pytest.mark.parametrize("fault", [Fault.RETRY, Fault.YIELDED, Fault.TESTING, Fault.NV_RATE])
def test_a_busy_ptpm_is_asked_again_and_nobody_notices(
    tpm: FaultyTpm, host: RunningManager, fault: Fault
) -> None:
    # Given vTPMs, and a pTPM that is too busy for each kind of command, three times
    vtpms = [host.vtpm(f"web-{number}") for number in range(5)]
    vtpms[0].prepare()
    tpm.inject(fault, times=3, code=NV_EXTEND)
    tpm.inject(fault, times=3, code=QUOTE)
    # When all commit at once, and one asks for a deep quote
    for vtpm in vtpms:
        vtpm.send_commit(1)
    for vtpm in vtpms:
        vtpm.receive_commit()
    deep_quote(vtpms[0])
    # Then each was answered, the pTPM was asked again, and the metrics say how often
    assert tpm.met() == 6
    shown = tandem(host.paths.root, "host", "metrics").stdout
    assert 'tandem_ptpm_busy_total{command="nv_extend"} 3' in shown
    # And a restart finds what was acknowledged
    host.stop()
    assert version_after_restart(host, "web-4") == 1


def test_a_busy_ptpm_at_the_start_is_waited_for(tpm: FaultyTpm, host: RunningManager) -> None:
    # Given a pTPM that tests itself after power on
    host.stop()
    tpm.inject(Fault.TESTING, times=5)
    # When the Manager starts
    host.start()
    # Then it serves
    assert host.status().open_pairs == 0


def test_a_ptpm_that_stays_busy_is_reported_and_serves_again(
    tpm: FaultyTpm, host: RunningManager
) -> None:
    # Given a pTPM that is busy for longer than the Manager tries
    vtpm = host.vtpm("web")
    vtpm.prepare()
    tpm.inject(Fault.YIELDED, times=1000, code=QUOTE)
    # When a deep quote is asked for
    with pytest.raises(HostError) as raised:
        deep_quote(vtpm)
    # Then the answer names it, within the bound; and once the pTPM has time, it serves
    assert raised.value.code == "TDM-PTPM-BUSY"
    tpm.clear()
    deep_quote(vtpm)


def test_a_ptpm_in_lockout_is_reported_by_name(tpm: FaultyTpm, host: RunningManager) -> None:
    # Given a pTPM in lockout
    vtpm = host.vtpm("web")
    vtpm.prepare()
    tpm.inject(Fault.LOCKOUT, code=QUOTE)
    # When a deep quote is asked for
    with pytest.raises(HostError) as raised:
        deep_quote(vtpm)
    # Then the answer names it, and the Manager goes on
    assert raised.value.code == "TDM-PTPM-LOCKOUT"
    deep_quote(vtpm)


def test_a_ptpm_that_loads_no_key_now_is_not_taken_for_another(
    tpm: FaultyTpm, host: RunningManager
) -> None:
    # Given a pTPM in lockout when a CA key is loaded
    tpm.inject(Fault.LOCKOUT, code=LOAD)
    # When a list is to be signed with it
    found = tandem(host.paths.root, "group", "crl", "default", "--json")
    # Then that is what is said, not that the keys are another TPM's, and then it is signed
    assert refusal(found) == ("TDM-PTPM-LOCKOUT", HOST_ERROR)
    assert tandem(host.paths.root, "group", "crl", "default").returncode == 0


@pytest.mark.parametrize("executed", [False, True])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.CLOSE, "TDM-PTPM-GONE"),
        (Fault.GARBAGE, "TDM-PTPM-GARBLED"),
        (Fault.LOCKOUT, "TDM-PTPM-LOCKOUT"),
    ],
)
def test_a_commit_that_the_ptpm_does_not_confirm_ends_the_manager_and_loses_nothing(
    tpm: FaultyTpm, host: RunningManager, fault: Fault, code: str, executed: bool
) -> None:
    # Given a vTPM with an acknowledged state, and a pTPM that fails the next extend of the chain
    vtpm = host.vtpm("web")
    vtpm.commit(1)
    tpm.inject(fault, code=NV_EXTEND, executed=executed)
    # When the vTPM commits another state
    vtpm.send_commit(2)
    # Then the Manager ends by name, and says nothing that it does not know
    status, said = ended(host)
    assert (status, code in said) == (HOST_ERROR, True), said
    with pytest.raises((Closed, TandemError)):
        vtpm.receive_commit()
    # And the next one goes on with the acknowledged state, or with the one after it: it is durable
    tpm.release()
    assert version_after_restart(host, "web") == 2
    assert tandem(host.paths.root, "host", "status").returncode == 0


def test_a_ptpm_that_vanishes_is_named_to_all_and_comes_back(
    tpm: FaultyTpm, host: RunningManager
) -> None:
    # Given vTPMs that wait for a deep quote together
    vtpms = [host.vtpm(f"web-{number}") for number in range(3)]
    for vtpm in vtpms:
        vtpm.prepare()
        vtpm.commit(1)
    # When the device vanishes under the quote
    tpm.inject(Fault.CLOSE, code=QUOTE)
    for vtpm in vtpms:
        vtpm.channel.send(AskDeepQuote(vtpm_quote_digest=bytes(32)))
    # Then each has an answer that says so, before the Manager ends with it
    for vtpm in vtpms:
        with pytest.raises(HostError) as raised:
            expect(vtpm.channel.receive()[0], DeepQuoted)
        assert raised.value.code == "TDM-PTPM-GONE"
    status, said = ended(host)
    assert (status, "TDM-PTPM-GONE" in said) == (HOST_ERROR, True), said
    # And while it is away a start names what is missing
    with pytest.raises(HostError) as raised:
        host.start()
    assert raised.value.code == "TDM-PTPM-NOT-OPENED"
    # And with the device everything is back
    tpm.release()
    assert version_after_restart(host, "web-2") == 1


def test_a_hung_ptpm_is_given_up_after_a_bound(tpm: FaultyTpm, host: RunningManager) -> None:
    # Given a vTPM with an acknowledged state, and a pTPM that never answers the next extend
    vtpm = host.vtpm("web")
    vtpm.commit(1)
    tpm.inject(Fault.HANG, code=NV_EXTEND)
    started = time.monotonic()
    # When the vTPM commits another state
    vtpm.send_commit(2)
    # Then the Manager gives it up, by name, after the time that such a command may take
    status, said = ended(host)
    took = time.monotonic() - started
    assert (status, "TDM-PTPM-HUNG" in said) == (HOST_ERROR, True), said
    assert tcti.ANSWER_SECONDS <= took < tcti.ANSWER_SECONDS + 5
    # And with a pTPM that answers, the store is exact
    tpm.release()
    assert version_after_restart(host, "web") == 2


def test_making_an_rsa_key_may_take_longer_than_any_other_command(
    tpm: FaultyTpm, host: RunningManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a pTPM that takes longer for a new key than the Manager waits for other answers
    monkeypatch.setattr(tcti, "ANSWER_SECONDS", 0.2)
    tpm.delay({CREATE_PRIMARY: 0.5})
    way = tcti.DescriptorTcti(host_descriptor(tpm), answer_seconds=0.2)
    # When a primary key is made
    response = way.transceive(CREATE_PRIMARY_RSA)
    # Then it is waited for; another command would have been given up
    assert response[6:10] == bytes(4)
    tpm.delay({EVERY: 0.5})
    with pytest.raises(tcti.PtpmFailed) as raised:
        way.transceive(bytes.fromhex("80010000000c0000017b0008"))
    assert raised.value.code == "TDM-PTPM-HUNG"


def test_no_quote_is_given_after_a_reset_even_of_the_same_registers(
    tpm: FaultyTpm, host: RunningManager
) -> None:
    # Given a host whose vTPM has a deep quote
    vtpm = host.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    before = deep_quote(vtpm)
    # When somebody resets the TPM under the running host, and fills its registers as they were
    tpm.reset()
    with pytest.raises(HostError) as raised:
        deep_quote(vtpm)
    # Then there is no quote, although it would show what a good host's does, and it is named
    assert before.pcrs
    assert raised.value.code == "TDM-PTPM-RESET"
    status, said = ended(host)
    assert (status, "TDM-PTPM-RESET" in said) == (HOST_ERROR, True), said
    # And the next start is by what the registers hold then; nothing is lost
    assert version_after_restart(host, "web") == 1


def test_a_reset_of_an_idle_hosts_tpm_is_noticed(tpm: FaultyTpm, host: RunningManager) -> None:
    # Given a Manager that nobody asks anything
    started = time.monotonic()
    # When its TPM loses its power for a moment, and nobody starts it again
    tpm.reset(started=False, measured=False)
    # Then the Manager ends within seconds, and says why
    status, said = ended(host)
    assert (status, "TDM-PTPM-RESET" in said) == (HOST_ERROR, True), said
    assert time.monotonic() - started < WATCH_SECONDS


def test_an_empty_tpm_after_a_reset_does_not_open_the_store(
    tpm: FaultyTpm, host: RunningManager
) -> None:
    # Given a host whose TPM was reset and is empty
    host.stop()
    tpm.reset(measured=False)
    # When the Manager starts
    with pytest.raises(TandemError) as raised:
        host.start()
    # Then the pTPM does not give it the master key
    assert raised.value.code == "TDM-HOST-STATE-CHANGED"
    # And after a measured start of the machine it does
    tpm.reset()
    host.start()


def test_a_power_cut_at_any_command_of_a_commit_leaves_the_newest_state(
    tpm: FaultyTpm, host: RunningManager
) -> None:
    # Given a vTPM with an acknowledged state
    vtpm = host.vtpm("web")
    vtpm.commit(1)
    # When the machine loses its power while the pTPM takes the next extend
    tpm.inject(Fault.HANG, code=NV_EXTEND, executed=True)
    vtpm.send_commit(2)
    while not tpm.met():
        time.sleep(0.01)
    host.kill()
    tpm.release()
    tpm.reset()
    # Then the next start finds that state, for the pTPM has it
    assert version_after_restart(host, "web") == 2


def test_the_host_is_exported_while_the_ptpm_is_slow(tpm: FaultyTpm, host: RunningManager) -> None:
    # Given a pTPM that takes a while for each command
    tpm.delay({EVERY: 0.05})
    # When the host's identity is asked for
    page = host.connect().ask(AskExport(offset=0), ExportPage)
    # Then it comes, only later
    assert page.total > 0


def host_descriptor(tpm: FaultyTpm) -> int:
    """Give a connection of the test's own to the TPM."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(tpm.path))
    return sock.detach()


CREATE_PRIMARY_RSA = bytes.fromhex(
    "8002 00000043 00000131 40000007"  # TPM2_CreatePrimary below the null hierarchy
    "00000009 40000009 0000 00 0000"  # empty password
    "0004 0000 0000"  # inSensitive
    "001a 0001 000b 00030072 0000 0006 0080 0043 0010 0800 00000000 0000"
    "0000 00000000"
)
