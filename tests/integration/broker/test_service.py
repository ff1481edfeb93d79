"""The broker as a process: its doors, who comes in, and what deaths do to whom."""

from __future__ import annotations

import grp
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import free_ports, receive
from tandem.cli.services import Service
from tandem.errors import TandemError
from tandem.settings import UID_BASE, HostPaths
from tandem.wire import tpm_commands
from tests.attacks.tpm import RC_SUCCESS, done, get_random, make_primary, read_public, run
from tests.integration.broker.running_broker import (
    OTHER_UID,
    RIGHTS,
    UNKNOWN_UID,
    RunningBroker,
    acting_as,
    run_tools,
    running_broker,
)
from tests.integration.manager.running_manager import alive, wait_until

TPM12_STARTUP = bytes.fromhex("00c10000000c000000990001")
TPM12_BADTAG = bytes.fromhex("00c40000000a0000001e")


def log_of(broker: RunningBroker) -> str:
    return broker.service.log.read_text()


def pid_of(broker: RunningBroker) -> int:
    pid = broker.service.running()
    assert pid is not None
    return pid


def test_it_runs_as_its_own_user_without_privileges(broker: RunningBroker) -> None:
    # Given a running broker
    # When its process is looked at
    status = Path(f"/proc/{pid_of(broker)}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())

    # Then it is its own user in each way, and can gain nothing
    assert fields["Uid"].split() == 4 * [str(UID_BASE + 1)]
    assert fields["Gid"].split() == 4 * [str(UID_BASE + 1)]
    assert fields["Groups"].strip() == ""
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert int(fields["CapEff"], 16) == 0


def test_a_user_without_rights_is_hung_up_on_and_named_in_the_log(broker: RunningBroker) -> None:
    # Given a user whom broker.toml does not name
    # When a command comes from it
    client = broker.client(uid=UNKNOWN_UID)
    with pytest.raises(ConnectionError), client:
        client.transceive(get_random())

    # Then the log says who it was
    wait_until(lambda: f'"uid": {UNKNOWN_UID}' in log_of(broker))


def test_a_tpm_1_2_client_is_told_so(broker: RunningBroker) -> None:
    # Given TPM_Startup as TrouSerS sends it
    with broker.client() as client:
        # When it is sent
        answer = client.transceive(TPM12_STARTUP)

    # Then a TPM 1.2 answers TPM_BADTAG, and the log says what to use instead
    assert answer == TPM12_BADTAG
    assert "tpm12.refused" in log_of(broker)
    assert "tpm2-tools" in log_of(broker)


def test_a_command_in_pieces_is_one_command(broker: RunningBroker) -> None:
    # Given a command that arrives byte by byte
    with broker.client() as client:
        for byte in get_random():
            client.send(bytes([byte]))

        # When it is whole
        # Then it is answered once
        assert client.receive()[6:10] == bytes(4)


def test_nonsense_closes_that_connection_alone(broker: RunningBroker) -> None:
    # Given a client, and another that sends a size that no command has
    with broker.client() as client, broker.client() as broken:
        broken.send(b"\x80\x01\xff\xff\xff\xff" + bytes(40))

        # When both wait for answers
        refusal = broken.receive()

        # Then one is told so and hung up on, and the other is served
        assert refusal[6:10] == bytes.fromhex("000b0142")
        with pytest.raises(ConnectionError):
            broken.receive()
        done(client, get_random())


def test_a_client_that_reads_no_answers_holds_up_nobody(broker: RunningBroker) -> None:
    # Given a client that sends command after command and reads nothing
    with broker.client() as deaf, broker.client() as client:
        deaf._sock.setblocking(False)
        for _ in range(2000):
            try:
                deaf.send(get_random(32))
            except (BlockingIOError, ConnectionError):
                break

        # When another asks
        # Then it is answered
        done(client, get_random())


def test_a_client_that_dies_in_a_command_leaves_nothing(broker: RunningBroker) -> None:
    # Given a client with keys and sessions, and a command under way
    client = broker.client()
    for _ in range(5):
        make_primary(client)
    done(client, tpm_commands.start_policy_session(), with_handle=True)
    client.send(get_random())

    # When it goes without a word
    client.close()

    # Then nothing of it stays in the pTPM
    broker.wait_until_nothing_is_left()


@pytest.fixture
def own() -> Iterator[RunningBroker]:
    """A host of a test's own, to kill things on."""
    with running_broker() as running:
        yield running


def test_the_brokers_death_does_not_hurt_the_manager(own: RunningBroker) -> None:
    # Given a client with a key in the pTPM
    client = own.client()
    make_primary(client)
    broker, manager = pid_of(own), own.manager.pid

    # When the broker is killed
    os.kill(broker, signal.SIGKILL)
    wait_until(lambda: not alive(broker))

    # Then the Manager lives, flushed what was left, and a new broker serves
    own.wait_until_nothing_is_left()
    own.require_a_working_manager()
    assert own.manager.pid == manager
    own.service.start()
    with own.client() as next_client:
        done(next_client, get_random())


def test_the_managers_death_ends_the_broker(own: RunningBroker) -> None:
    # Given a client
    client = own.client()
    done(client, get_random())
    broker = pid_of(own)

    # When the Manager is killed
    own.manager.kill()

    # Then the broker ends, says why, and both start again
    wait_until(lambda: not alive(broker))
    assert "TDM-BROKER-MANAGER-GONE" in log_of(own)
    own.start()
    with own.client() as next_client:
        done(next_client, get_random())


def test_there_is_one_broker_of_a_host(broker: RunningBroker) -> None:
    # Given a running broker
    # When another is started
    second = Service(name="broker", paths=HostPaths(broker.host))
    with pytest.raises(TandemError) as refused:
        second.start()

    # Then it is refused, and the first serves on
    assert refused.value.code == "TDM-BROKER-RUNNING"
    with broker.client() as client:
        done(client, get_random())


def test_without_a_manager_there_is_no_broker(own: RunningBroker) -> None:
    # Given a host whose Manager does not run
    own.service.stop()
    own.manager.stop()

    # When the broker is started
    with pytest.raises(TandemError) as refused:
        own.service.start()

    # Then it says what is missing
    assert refused.value.code == "TDM-MANAGER-ABSENT"


@pytest.fixture
def with_tcp(own: RunningBroker) -> dict[str, int]:
    """Let the host's broker listen on loopback, too."""
    first = free_ports(4)
    ports = {"mssim": first, "swtpm": first + 2}
    lines = "".join(f"{name} = {port}\n" for name, port in ports.items())
    rights = own.manager.paths.broker_rights
    rights.write_text(f"[listen]\n{lines}{rights.read_text()}")
    own.service.stop()
    own.service.start()
    return ports


TOOLS = """
tpm2_getrandom --hex 8
tpm2_createprimary -Q -C o -G ecc -c primary.ctx
echo -n secret | tpm2_create -Q -C primary.ctx -i- -u sealed.pub -r sealed.priv
tpm2_load -Q -C primary.ctx -u sealed.pub -r sealed.priv -c sealed.ctx
[ "$(tpm2_unseal -c sealed.ctx)" = secret ]
[ "$(tpm2_hash -C n --hex -g sha256 <primary.ctx)" = "$(sha256sum <primary.ctx | cut -d' ' -f1)" ]
"""


def test_stock_tools_come_by_the_unix_socket(broker: RunningBroker, tmp_path: Path) -> None:
    # Given a broker
    # When stock tools speak the simulator's protocol on its socket, and then through a command
    # Then they work both ways
    for number, tcti in enumerate((broker.tcti, broker.command_tcti)):
        work = tmp_path / str(number)
        work.mkdir()
        run_tools(tcti, TOOLS, work)


@pytest.mark.parametrize("tcti", ["mssim", "swtpm"])
def test_stock_tools_come_by_tcp_unmodified(
    own: RunningBroker, with_tcp: dict[str, int], tmp_path: Path, tcti: str
) -> None:
    # Given a broker with doors on loopback
    # When stock tools use libtss2's own TCTI for it
    # Then they work, as on a simulator
    run_tools(f"{tcti}:host=127.0.0.1,port={with_tcp[tcti]}", TOOLS, tmp_path)


def test_a_tcp_client_is_who_owns_the_other_end(
    own: RunningBroker, with_tcp: dict[str, int]
) -> None:
    # Given a door on loopback
    def ask(uid: int) -> bytes:
        with acting_as(uid):
            connection = socket.socket()
            connection.connect(("127.0.0.1", with_tcp["swtpm"]))
        with connection:
            connection.sendall(get_random())
            return receive(connection)

    # When users with rights and without them come
    # Then the kernel says who is who
    assert ask(0)[6:10] == bytes(4)
    assert ask(OTHER_UID)[6:10] == bytes(4)
    with pytest.raises(ConnectionError):
        ask(UNKNOWN_UID)


def test_a_bad_rights_file_starts_no_broker(own: RunningBroker) -> None:
    # Given a broker.toml that grants what is the Manager's
    own.service.stop()
    own.manager.paths.broker_rights.write_text('[default]\nnv = ["0x01800540-0x01800560"]\n')

    # When the broker is started
    with pytest.raises(TandemError) as refused:
        own.service.start()

    # Then it says which place of the file is wrong
    assert refused.value.code == "TDM-BROKER-RIGHTS"
    assert "[default] nv" in refused.value.problem


def test_a_group_may_be_all_who_reach_the_socket(own: RunningBroker) -> None:
    # Given a broker.toml that names a group
    own.service.stop()
    rights = own.manager.paths.broker_rights
    rights.write_text(f'[listen]\ngroup = "daemon"\n{RIGHTS}')

    # When the broker is started
    own.service.start()

    # Then the socket is that group's, and another user is kept out by the kernel
    status = own.manager.paths.broker_socket.stat()
    assert (status.st_gid, status.st_mode & 0o777) == (grp.getgrnam("daemon").gr_gid, 0o660)
    with pytest.raises(PermissionError):
        own.client(uid=OTHER_UID)


def test_a_group_that_is_none_starts_no_broker(own: RunningBroker) -> None:
    # Given a broker.toml that names a group which the host does not have
    own.service.stop()
    own.manager.paths.broker_rights.write_text('[listen]\ngroup = "no-such-group"\n')

    # When the broker is started
    with pytest.raises(TandemError) as refused:
        own.service.start()

    # Then it says so
    assert refused.value.code == "TDM-BROKER-GROUP"


def test_two_users_keys_are_apart(broker: RunningBroker) -> None:
    # Given a key of one user
    with broker.client() as one, broker.client(uid=OTHER_UID) as other:
        key = make_primary(one)

        # When the other names its handle
        # Then there is nothing
        assert run(other, read_public(key)).code != RC_SUCCESS
