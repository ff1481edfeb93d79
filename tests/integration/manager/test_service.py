"""The Manager as builder, vTPM and verifier meet it, on a pTPM that signs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tandem.channel import Channel, Closed, expect
from tandem.errors import HostError, Refused, TandemError
from tandem.evidence.attest import parse_quote
from tandem.evidence.certificates import issued_by, parse_certificate
from tandem.evidence.deep_quote import leaf_hash
from tandem.evidence.merkle import root_of_path
from tandem.evidence.pair_record import parse_pair_record, record_digest
from tandem.evidence.pcr_values import pcr_digest
from tandem.evidence.tpm_types import parse_public, parse_signature
from tandem.settings import UID_BASE
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    AskDeepQuote,
    AskStatus,
    CommitState,
    DeepQuoted,
    HostStatus,
    PairOpened,
)
from tandem.wire.messages import MANAGER_LIMIT
from tests.integration.manager.running_manager import (
    RunningManager,
    alive,
    open_pair,
    wait_until,
)

DIGEST = b"q" * 32
ASK = AskDeepQuote(vtpm_quote_digest=DIGEST)
NOBODY = 65534


def ask_as_nobody(manager: RunningManager) -> str:
    """Ask for the status as another user, in a child, and give the code that it gets."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(str(manager.paths.manager_socket))
            client = Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)
            client.ask(AskStatus(), HostStatus)
        except TandemError as error:
            os.write(writing, error.code.encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as file:
        return file.read().decode()


def verify(host_ak: bytes, quoted: DeepQuoted, record: bytes) -> None:
    """Check a deep quote's half of the pTPM from its bytes alone."""
    key = parse_public(host_ak).key
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signature = parse_signature(quoted.signature)
    assert isinstance(signature.value, tuple)
    key.verify(
        utils.encode_dss_signature(*signature.value), quoted.attest, ec.ECDSA(hashes.SHA256())
    )
    attested = parse_quote(quoted.attest)
    leaf = leaf_hash(quoted.salt, record_digest(record), DIGEST)
    root = root_of_path(leaf, quoted.leaf_index, quoted.tree_size, quoted.path)
    assert attested.qualifying_data == root
    assert attested.pcr_digest == pcr_digest(quoted.pcrs)


def test_a_launch_from_open_to_deep_quote(manager: RunningManager) -> None:
    # Given a new vTPM
    vtpm = manager.vtpm("web")
    assert (vtpm.welcome.state_version, len(vtpm.welcome.key)) == (0, 32)
    # When it is certified, prepared, saved and quoted
    prepared = vtpm.prepare()
    vtpm.commit(1)
    quoted = vtpm.channel.ask(ASK, DeepQuoted)
    # Then the pTPM's signature covers this very record and this very quote
    verify(prepared.host_ak, quoted, prepared.record)
    with pytest.raises(InvalidSignature):
        verify(prepared.host_ak, DeepQuoted(**vars(quoted) | {"attest": b"x"}), prepared.record)
    # And the certificates lead to the host's CA, whose key is in the pTPM
    record = parse_pair_record(prepared.record)
    certificate = parse_certificate(prepared.ak_certificate)
    assert certificate.pair_record_digest == record_digest(prepared.record)
    authority = manager.authority()
    issuer = parse_certificate(prepared.issuer_certificate)
    assert issued_by(certificate, issuer)
    assert issued_by(issuer, authority)
    assert issued_by(authority, authority)
    assert (record.vtpm_id, record.launch_number) == (vtpm.welcome.vtpm_id, 1)


def test_fifty_deep_quotes_at_once_cost_few_ptpm_quotes(manager: RunningManager) -> None:
    # Given fifty vTPMs
    vtpms = [manager.vtpm(f"web-{number}", ephemeral=True) for number in range(50)]
    prepared = [vtpm.prepare() for vtpm in vtpms]
    # When they all ask for a deep quote before any is answered
    for vtpm in vtpms:
        vtpm.channel.send(ASK)
    quotes = [expect(vtpm.channel.receive()[0], DeepQuoted) for vtpm in vtpms]
    # Then each holds, and the pTPM quoted far fewer times
    for made, quoted in zip(prepared, quotes, strict=True):
        verify(made.host_ak, quoted, made.record)
    status = manager.status()
    assert status.deep_quotes == 50
    assert status.ptpm_quotes < 10


def test_a_record_is_taken_from_the_connection_and_from_nothing_else(
    manager: RunningManager,
) -> None:
    # Given two vTPMs, each with a record
    mine, theirs = manager.vtpm("mine"), manager.vtpm("theirs")
    prepared, other = mine.prepare(), theirs.prepare()
    # When one has a quote of its own signed
    quoted = mine.channel.ask(ASK, DeepQuoted)
    # Then it cannot be shown with the other's record
    verify(prepared.host_ak, quoted, prepared.record)
    with pytest.raises(AssertionError):
        verify(other.host_ak, quoted, other.record)


def test_a_vtpm_in_use_is_refused(manager: RunningManager) -> None:
    # Given a vTPM that serves
    vtpm = manager.vtpm("web")
    # When it is asked for again
    with pytest.raises(Refused) as raised:
        manager.connect().ask(open_pair("web"), PairOpened)
    # Then it is refused until its process has ended
    assert raised.value.code == "TDM-VTPM-IN-USE"
    vtpm.channel.close()
    assert manager.vtpm("web").opened.launch_number == 2


def test_messages_fit_a_xen_ring_page(manager: RunningManager) -> None:
    # Given the longest names that there are
    vtpm = manager.vtpm("w" * 63)
    # When the largest answer is made
    prepared = vtpm.prepare()
    # Then it has room left
    size = sum(len(each) for each in vars(prepared).values())
    assert size < MANAGER_LIMIT - 200


def test_the_manager_answers_root_alone(manager: RunningManager) -> None:
    # Given a socket that somebody made too open
    path = manager.paths.manager_socket
    for each in (path, path.parent, path.parent.parent):
        each.chmod(0o777)
    # When another user asks
    code = ask_as_nobody(manager)
    # Then it is refused by its credentials
    assert code == "TDM-MANAGER-NOT-ALLOWED"


def test_the_socket_is_closed_to_other_users(manager: RunningManager) -> None:
    # Given a running Manager
    # When its socket's mode is looked at
    mode = manager.paths.manager_socket.stat().st_mode
    # Then only its owner may connect
    assert mode & 0o077 == 0


def test_manager_and_ptpm_run_without_privileges(manager: RunningManager) -> None:
    # Given both processes
    for pid in (manager.pid, manager.swtpm()):
        # When the kernel is asked about them
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        # Then they are a user of their own without any capability or group
        assert set(status["Uid"].split()) == {str(UID_BASE)}
        assert set(status["Gid"].split()) == {str(UID_BASE)}
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    # And the Manager can neither gain privileges nor be read by others of its user
    assert "NoNewPrivs:\t1" in Path(f"/proc/{manager.pid}/status").read_text()
    assert Path(f"/proc/{manager.pid}/mem").stat().st_uid == 0


def test_no_secret_leaves_the_manager_but_in_welcome(manager: RunningManager) -> None:
    # Given a vTPM that knows its key
    vtpm = manager.vtpm("web")
    vtpm.prepare()
    vtpm.commit(1)
    key = vtpm.welcome.key
    # When everything is read that the Manager leaves where others may look
    processes = [f"/proc/{pid}/{name}" for pid in (manager.pid, manager.swtpm())
                 for name in ("cmdline", "environ")]  # fmt: skip
    files = [path for path in manager.paths.root.rglob("*") if path.is_file()]
    left = b"".join(path.read_bytes() for path in (*map(Path, processes), *files))
    # Then the key is nowhere, in no form
    assert b"pair.opened" in left
    assert key not in left
    assert key.hex().encode() not in left


def test_the_ptpm_has_no_path_and_no_port(manager: RunningManager) -> None:
    # Given the embedded pTPM
    pid = manager.swtpm()
    # When its sockets are looked up
    inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    unix = Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]
    named = [line for line in unix
             if len(line.split()) > 7 and f"socket:[{line.split()[6]}]" in inodes]  # fmt: skip
    # Then none has a name that anybody could connect to, and none is a network's
    assert named == []
    sockets = {each for each in inodes if each.startswith("socket:")}
    known = {f"socket:[{line.split()[6]}]" for line in unix}
    assert sockets <= known


def test_a_ptpm_that_dies_is_reported_and_ends_what_needs_it(manager: RunningManager) -> None:
    # Given a vTPM, and a pTPM that ends
    vtpm, pid = manager.vtpm("web"), manager.pid
    vtpm.prepare()
    swtpm = manager.swtpm()
    os.kill(swtpm, 9)
    wait_until(lambda: not alive(swtpm))
    # When a deep quote is asked for, and soon after a change is to be made durable
    with pytest.raises(HostError) as raised:
        vtpm.channel.ask(ASK, DeepQuoted)
    with pytest.raises(Closed):
        vtpm.channel.ask(CommitState(version=1, digest=bytes(32)), DeepQuoted)
    # Then the first hears why, and the Manager ends rather than acknowledge the second
    assert raised.value.code == "TDM-PTPM-GONE"
    wait_until(lambda: not alive(pid))
    assert "TDM-PTPM-GONE" in manager.service.log.read_text()
    # And the next start goes on from there
    manager.start()
    assert manager.vtpm("web").welcome.state_version in (0, 1)


def test_sigterm_ends_manager_and_ptpm(manager: RunningManager) -> None:
    # Given a running Manager with a pair
    manager.vtpm("web")
    pids = manager.pid, manager.swtpm()
    # When it is stopped
    manager.stop()
    # Then neither is left
    wait_until(lambda: not any(map(alive, pids)))


def test_the_ca_certificate_is_what_openssl_accepts(manager: RunningManager, work: Path) -> None:
    # Given the CA's certificate, an issuing key's and an AK's
    prepared = manager.vtpm("web").prepare()
    names = {
        "ca": manager.authority().der,
        "issuer": prepared.issuer_certificate,
        "ak": prepared.ak_certificate,
    }
    for name, der in names.items():
        pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        (work / f"{name}.pem").write_bytes(pem)
    # When another implementation verifies them
    done = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-CAfile", work / "ca.pem"),
            *("-untrusted", work / "issuer.pem", work / "ak.pem"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    # Then it agrees
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_log_is_one_json_object_a_line(manager: RunningManager) -> None:
    # Given a Manager that served
    manager.vtpm("web")
    manager.stop()
    # When its log is read
    events = [json.loads(line)["event"] for line in manager.service.log.read_text().splitlines()]
    # Then each line is an event with a name
    assert events[0] == "host.opened"
    assert "pair.opened" in events
