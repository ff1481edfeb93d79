"""The broker's channel of a real Manager: what comes of it, and what the Manager never notices."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.faulty_tpm import FaultyTpm
from tandem.appraisal.enrolment import make_credential
from tandem.broker.broker import Broker
from tandem.broker.channel import ManagerChannel, ManagerGone
from tandem.broker.client import Client
from tandem.broker.connection import Connection
from tandem.broker.manager_link import open_channel
from tandem.cli.manager_client import ManagerClient
from tandem.errors import Refused
from tandem.evidence.host_export import parse_host_export
from tandem.manager.tpm_templates import AK_HANDLES, CHAIN_INDICES, ROOT_HANDLE
from tandem.wire.broker_rights import parse_rights
from tandem.wire.manager_rpc import CHANNEL_LIMIT, DeepQuoted
from tandem.wire.tpm_commands import OWNER, get_capability, sized
from tandem.wire.tpm_requests import code_of
from tests import gated_tpm as tpm
from tests.gated_tpm import ask, body, handle_of
from tests.integration.manager.running_manager import RunningManager, ready, tandem
from tests.integration.manager.test_service import ASK

pytestmark = pytest.mark.skipif(not ready(), reason="needs root and swtpm")
RIGHTS = '[uid.0]\nextend = [8, 16]\nnv = ["0x01500000-0x0150000f"]\n'
REFUSED = 0x000B0000
LOCALITY = 0x907
ROUNDS = 30
KINDS = (0x80000000, 0x02000000, 0x03000000)  # transient objects, loaded and saved sessions


@pytest.fixture(name="channel")
def _channel(stopped: RunningManager) -> Iterator[socket.socket]:
    """The broker's end of its channel, held by whoever took the broker over."""
    stopped.paths.broker_rights.write_text(RIGHTS)
    stopped.start()
    with open_channel(stopped.paths.manager_socket) as channel:
        channel.settimeout(20)
        yield channel


@pytest.fixture(name="client")
def _client(channel: socket.socket) -> Connection:
    """A client of an honest broker."""
    rights = parse_rights(RIGHTS).of(0)
    assert rights is not None
    broker = Broker(ManagerChannel(channel).execute)
    return broker.connect(Client(uid=0, rights=rights))


def test_the_managers_keys_and_index_are_out_of_the_brokers_reach(
    channel: socket.socket,
) -> None:
    # Given a hostile broker, and the Manager's root, AK and anchor, which are in the pTPM
    execute = ManagerChannel(channel).execute

    # When it names them in raw commands
    reads = [execute(ask("ReadPublic", handle)) for handle in (ROOT_HANDLE, *AK_HANDLES)]
    reads.append(execute(ask("NV_ReadPublic", CHAIN_INDICES[0])))
    reads.append(execute(ask("Load", ROOT_HANDLE, parameters=sized(bytes(8)) * 2)))
    reads.append(execute(ask("Quote", AK_HANDLES[0], parameters=bytes(8))))
    reads.append(execute(ask("NV_UndefineSpace", OWNER, CHAIN_INDICES[0])))
    evict = ROOT_HANDLE.to_bytes(4)
    reads.append(execute(ask("EvictControl", OWNER, ROOT_HANDLE, parameters=evict)))
    listed = [execute(get_capability(1, first, 254)) for first in (0x81000000, 0x01800000)]

    # Then each is refused before the pTPM, and none is listed
    assert {code_of(each) >> 16 for each in reads} == {0x000B}
    for answer in listed:
        assert CHAIN_INDICES[0].to_bytes(4) not in answer
        assert ROOT_HANDLE.to_bytes(4) not in answer


def test_registers_that_the_host_is_sealed_to_are_extended_by_nobody(
    channel: socket.socket,
) -> None:
    # Given rights that grant a register to which the master key is sealed, by mistake
    execute = ManagerChannel(channel).execute
    values = (1).to_bytes(4) + b"\x00\x0b" + bytes(32)

    # When the broker extends it, and one that is nobody's
    sealed = execute(ask("PCR_Extend", 8, parameters=values))
    free = execute(ask("PCR_Extend", 16, parameters=values))

    # Then only the latter is extended
    assert code_of(sealed) == REFUSED | LOCALITY
    assert code_of(free) == 0


def test_there_is_one_broker(channel: socket.socket, stopped: RunningManager) -> None:
    # Given a broker that has its channel
    assert code_of(ManagerChannel(channel).execute(ask("GetRandom", parameters=b"\x00\x04"))) == 0

    # When another asks for one
    with pytest.raises(Refused) as refusal:
        open_channel(stopped.paths.manager_socket)

    # Then it is refused, and has it once the first is gone
    assert refusal.value.code == "TDM-BROKER-RUNNING"
    channel.close()
    with open_channel(stopped.paths.manager_socket) as second:
        assert code_of(ManagerChannel(second).execute(tpm.start_hash())) == 0


def test_nothing_is_left_of_a_broker_that_ends(
    channel: socket.socket, stopped: RunningManager
) -> None:
    # Given a Manager whose broker is killed again and again
    channel.close()
    for _ in range(ROUNDS):
        # When it fills its slots, puts sessions aside, and ends without a word
        with open_channel(stopped.paths.manager_socket) as each:
            execute = ManagerChannel(each).execute
            keys = [execute(tpm.load_hmac_key(b"key")) for _ in range(2)]
            saved = [
                execute(tpm.save(handle_of(execute(tpm.start_policy_session())))) for _ in range(3)
            ]
            kept = [execute(tpm.start_policy_session()) for _ in range(3)]

            # Then the next one finds every slot free: 180 sessions were started, of 64 at once
            assert {code_of(answer) for answer in (*keys, *saved, *kept)} == {0}


def test_the_managers_rare_work_goes_on_beside_a_full_broker(
    client: Connection, stopped: RunningManager
) -> None:
    # Given a client that fills every slot that the broker has
    keys = [handle_of(client.execute(tpm.load_hmac_key(bytes([n])))) for n in range(4)]
    sessions = [handle_of(client.execute(tpm.start_policy_session())) for _ in range(5)]

    # When the Manager activates a credential, which takes two objects and a session
    with ManagerClient(stopped.paths.root) as manager:
        export = parse_host_export(manager.export())
        challenge = make_credential(export.ek, export.ak.name, b"secret", os.urandom)
        activated = manager.activate(challenge.credential_blob, challenge.encrypted_secret)

    # Then it succeeds, and the client notices nothing
    assert activated.credential == b"secret"
    for number, key in enumerate(keys):
        made = body(client.execute(tpm.hmac_of(key, b"data")))
        assert made == sized(hmac.digest(bytes([number]), b"data", "sha256"))
    for session in sessions:
        assert code_of(client.execute(ask("PolicyGetDigest", session))) == 0


def test_deep_quotes_and_commits_go_on_while_a_client_works(
    client: Connection, stopped: RunningManager
) -> None:
    # Given a vTPM, and a client that hashes, loads and signs without end
    vtpm = stopped.vtpm("web")
    vtpm.prepare()
    done, wrong = threading.Event(), []

    def work() -> None:
        while not done.is_set():
            key = handle_of(client.execute(tpm.load_hmac_key(b"key")))
            sequence = handle_of(client.execute(tpm.start_hash()))
            client.execute(tpm.update_hash(sequence, b"data"))
            made = body(client.execute(tpm.hmac_of(key, b"data")))
            digest = body(client.execute(tpm.complete_hash(sequence)))[2:34]
            client.execute(tpm.flush(key))
            if digest != hashlib.sha256(b"data").digest() or made[2:] != hmac.digest(
                b"key", b"data", "sha256"
            ):
                wrong.append(digest)

    thread = threading.Thread(target=work)
    thread.start()

    # When the vTPM saves and quotes meanwhile
    try:
        for version in range(1, 21):
            vtpm.commit(version)
            vtpm.channel.ask(ASK, DeepQuoted)
    finally:
        done.set()
        thread.join()

    # Then everybody had what was asked for
    assert not wrong


def test_a_broker_that_sends_anything_is_answered_or_ended(
    channel: socket.socket, stopped: RunningManager
) -> None:
    # Given a hostile broker
    # When it sends packets that are no commands, of every length
    for size in (1, 9, 10, 100, 4096, CHANNEL_LIMIT, CHANNEL_LIMIT + 100):
        channel.send(os.urandom(size))
        answer = channel.recv(CHANNEL_LIMIT)

        # Then each is refused
        assert code_of(answer) in (0x1E, REFUSED | 0x142)

    # When it sends many and reads nothing
    channel.setblocking(False)
    with pytest.raises((BlockingIOError, BrokenPipeError)):
        _flood(channel)

    # Then the Manager serves everybody else
    assert stopped.status().open_pairs == 0


def test_a_killed_manager_leaves_nothing_in_a_tpm_that_lives_on(work: Path) -> None:
    # Given a Manager on a TPM that outlives it, and a broker with objects and sessions there
    with FaultyTpm(work / "living-tpm") as ptpm:
        host = work / "on-a-living-tpm"
        key = str(work / "living.key")
        made = tandem(host, "host", "init", "--ptpm", ptpm.ptpm, "--approval-key", key)
        assert made.returncode == 0, made.stderr
        manager = RunningManager(host)
        manager.start()
        with open_channel(manager.paths.manager_socket) as channel:
            execute = ManagerChannel(channel).execute
            execute(tpm.load_hmac_key(b"key"))
            for _ in range(5):
                execute(tpm.save(handle_of(execute(tpm.start_policy_session()))))
            held = [_handles(ptpm, first) for first in KINDS]

            # When the Manager is killed, and started again
            manager.kill()
        manager.start()

        # Then nothing of it is left
        assert [len(each) for each in held] == [1, 0, 5]
        assert [_handles(ptpm, first) for first in KINDS] == [[], [], []]
        manager.close()


def test_a_broker_hears_that_the_manager_is_gone(
    channel: socket.socket, stopped: RunningManager
) -> None:
    # Given a broker with a channel
    execute = ManagerChannel(channel).execute
    assert code_of(execute(ask("GetRandom", parameters=b"\x00\x04"))) == 0

    # When the Manager ends
    stopped.stop()

    # Then the next command says so
    with pytest.raises(ManagerGone):
        execute(ask("GetRandom", parameters=b"\x00\x04"))


def _handles(ptpm: FaultyTpm, first: int) -> list[int]:
    """List what a TPM holds, as only its owner sees it."""
    answer = ptpm.transceive(get_capability(1, first, 254))
    count = int.from_bytes(answer[15:19])
    return [int.from_bytes(answer[19 + 4 * at : 23 + 4 * at]) for at in range(count)]


def _flood(channel: socket.socket) -> None:
    request = ask("GetRandom", parameters=b"\x00\x20")
    for _ in range(100_000):
        channel.send(request)
