"""T8: the host's TPM tools flush, evict or use the Manager's handles, on purpose or not (R11).

Attacker: host administrator, or a careless script of his.
Control: the same tools on the same swtpm, past the broker: the thread's conflict.
Shows: the tools do their work, on handles of their own; the Manager notices nothing, and its keys
cannot be named.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers import raw_client
from tandem.errors import TandemError
from tandem.wire.manager_rpc import AskDeepQuote, DeepQuoted
from tests.attacks.tpm import RC_SUCCESS, read_public, run
from tests.integration.broker.running_broker import (
    RunningBroker,
    run_tools,
    running_broker,
    start_tools,
)

ROOT_KEY, HOST_AK = 0x81015440, 0x81015441
ASK = AskDeepQuote(vtpm_quote_digest=bytes(32))
ROUNDS, LOOPS = 4, 3

# What hosts do with a TPM: keys, sealing, sessions in files, long hashes, a key made persistent.
TOOLS = """
head -c 5000 /dev/zero >long
for round in $(seq {rounds}); do
  tpm2_createprimary -Q -C o -G ecc -c primary.ctx
  tpm2_create -Q -C primary.ctx -u key.pub -r key.priv -i- <<<"sealed $round"
  tpm2_load -Q -C primary.ctx -u key.pub -r key.priv -c key.ctx
  [ "$(tpm2_unseal -c key.ctx)" = "sealed $round" ]
  tpm2_startauthsession -Q -S session.ctx --policy-session
  tpm2_policypcr -Q -S session.ctx -l sha256:23 -L policy
  tpm2_flushcontext session.ctx
  [ "$(tpm2_hash -g sha256 --hex long)" = "$(sha256sum <long | cut -d' ' -f1)" ]
  tpm2_evictcontrol -Q -C o -c primary.ctx {persistent}
  tpm2_evictcontrol -Q -C o -c {persistent}
done
"""
CARELESS = "tpm2_flushcontext -t; tpm2_flushcontext -l; tpm2_flushcontext -s"
EVICT = f"tpm2_evictcontrol -C o -c {ROOT_KEY:#x}; tpm2_evictcontrol -C o -c {HOST_AK:#x}"


@pytest.fixture
def unprotected() -> Iterator[RunningBroker]:
    """A host of its own, whose TPM the tools will reach directly."""
    with running_broker() as running:
        yield running


@contextmanager
def managers_work(host: RunningBroker) -> Iterator[list[TandemError]]:
    """Let the Manager open launches, quote and commit all the time; gives what went wrong."""
    wrong: list[TandemError] = []
    over = threading.Event()

    def work() -> None:
        launch = 0
        while not over.is_set():
            launch += 1
            try:
                vtpm = host.open_and_prepare(f"worker-{launch}")
                for version in range(1, 6):
                    vtpm.channel.ask(ASK, DeepQuoted)
                    vtpm.commit(version)
                vtpm.channel.close()
            except TandemError as error:
                wrong.append(error)
                return

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield wrong
    finally:
        over.set()
        worker.join()


def direct(host: RunningBroker) -> str:
    """Give the TCTI of a tool that opens the host's TPM itself."""
    return f"cmd:{sys.executable} {raw_client.__file__} {host.ptpm.path}"


def loops(tcti: str, work: Path) -> list[subprocess.Popen[str]]:
    """Start tools in loops, each in a folder of its own."""
    started = []
    for number in range(LOOPS):
        folder = work / str(number)
        folder.mkdir()
        script = TOOLS.format(rounds=ROUNDS, persistent=f"{0x81000100 + number:#x}")
        started.append(start_tools(tcti, script, folder))
    return started


def test_control_tools_on_the_managers_tpm_break_or_leak(
    unprotected: RunningBroker, tmp_path: Path
) -> None:
    # Given a Manager at work, and tools that open its TPM themselves
    with managers_work(unprotected) as wrong:
        # When they run beside it
        tools = loops(direct(unprotected), tmp_path)
        for process in tools:
            process.communicate()

    # Then the tools fail, or the Manager does, and slots of the TPM stay taken
    assert wrong or any(process.returncode for process in tools)
    assert any(unprotected.left_in_the_tpm().values())


def test_control_the_managers_keys_are_evicted(unprotected: RunningBroker, tmp_path: Path) -> None:
    # Given a Manager that quotes
    vtpm = unprotected.open_and_prepare("evicted")
    vtpm.channel.ask(ASK, DeepQuoted)

    # When the administrator evicts its keys
    run_tools(direct(unprotected), EVICT, tmp_path)

    # Then it quotes no more
    with pytest.raises(TandemError):
        vtpm.channel.ask(ASK, DeepQuoted)


def test_tools_in_loops_and_the_manager_do_not_meet(broker: RunningBroker, tmp_path: Path) -> None:
    # Given a Manager at work, and tools that reach the pTPM through the broker
    with managers_work(broker) as wrong:
        # When they run beside it
        for process in loops(broker.tcti, tmp_path):
            said, _ = process.communicate()
            assert process.returncode == 0, said

    # Then nothing breaks, and no slot of the pTPM stays taken
    assert not wrong
    broker.wait_until_nothing_is_left()


def test_a_flush_of_everything_flushes_the_clients_own(
    broker: RunningBroker, tmp_path: Path
) -> None:
    # Given a Manager at work
    with managers_work(broker) as wrong:
        # When tools flush every handle that they find, again and again
        for _ in range(10):
            broker.tools(CARELESS, tmp_path)

    # Then the Manager does not notice
    assert not wrong


@pytest.mark.parametrize("handle", [ROOT_KEY, HOST_AK])
def test_the_managers_keys_cannot_be_evicted_or_named(
    broker: RunningBroker, tmp_path: Path, handle: int
) -> None:
    # Given the Manager's keys in the pTPM
    assert run(broker.ptpm, read_public(handle)).code == RC_SUCCESS

    # When a client evicts one, or asks for its name
    said = broker.tools(f"tpm2_evictcontrol -C o -c {handle:#x} || true", tmp_path)
    with broker.client() as client:
        named = run(client, read_public(handle)).code

    # Then both are refused, and the key is there
    assert "ERROR" in said
    assert named != RC_SUCCESS
    assert run(broker.ptpm, read_public(handle)).code == RC_SUCCESS
