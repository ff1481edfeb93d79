"""A real Manager on an embedded pTPM, in a host directory copied from one that was made once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tandem.channel import Channel, expect
from tandem.cli.manager_client import ManagerClient
from tandem.cli.services import Service
from tandem.evidence.certificates import Certificate
from tandem.evidence.host_export import parse_host_export
from tandem.evidence.tpm_types import Algorithm, Attribute
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tandem.hypervisor.descriptors import connect
from tandem.settings import HostPaths
from tandem.wire.manager_rpc import (
    BUILDER_ANSWERS,
    BUILDER_REQUESTS,
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    AskStatus,
    Attend,
    Attended,
    CertifyEks,
    CommitState,
    EkCertificates,
    Hello,
    HostStatus,
    OpenPair,
    PairOpened,
    Prepare,
    Prepared,
    StateCommitted,
    Welcome,
)

ROOT = Path(__file__).parents[3]
SECONDS = 20.0
ATTRIBUTES = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.ADMIN_WITH_POLICY
    | Attribute.RESTRICTED
    | Attribute.DECRYPT
)
RSA_KEY = rsa.generate_private_key(65537, 2048).public_key()  # one for all tests: it takes long


def ready() -> bool:
    """Tell whether this machine can run it."""
    return os.geteuid() == 0 and shutil.which("swtpm_setup") is not None


def tandem(host: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command, with changes to its environment, whatever comes of it."""
    return subprocess.run(
        [sys.executable, "-m", "tandem", "--host", str(host), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **changes},
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> tuple[str, int]:
    """Give the code that a command printed with --json, and its exit status."""
    record: dict[str, Any] = json.loads(done.stderr)
    return record["code"], done.returncode


@dataclass
class Vtpm:
    """A vTPM's side of its key channel, and the keys that it claims."""

    channel: Channel
    opened: PairOpened
    welcome: Welcome
    ek: bytes
    ak_key: ec.EllipticCurvePrivateKey

    def prepare(self) -> Prepared:
        """Have everything made that a vTPM needs before its guest; a new one is certified first."""
        if not self.welcome.state_version:
            ask = CertifyEks(rsa=self.ek, ecc=ecc_ek())
            self.channel.ask(ask, EkCertificates)
        ak = vtpm_ak_public(self.ak_key.public_key())
        prepare = Prepare(ek=self.ek, ak=ak, reset_count=1, restart_count=0)
        return self.channel.ask(prepare, Prepared)

    def commit(self, version: int) -> None:
        """Have a state recorded."""
        self.send_commit(version)
        self.receive_commit()

    def send_commit(self, version: int) -> None:
        """Ask for a state to be recorded, and wait for nothing."""
        self.channel.send(CommitState(version=version, digest=version.to_bytes(32)))

    def receive_commit(self) -> None:
        """Wait until a state is recorded."""
        expect(self.channel.receive()[0], StateCommitted)


class RunningManager:
    """One host directory; its Manager is started and ended as often as a test likes."""

    def __init__(self, directory: Path) -> None:
        self.paths = HostPaths(directory)
        self.service = Service(name="manager", paths=self.paths)
        self.channels: list[Channel] = []

    def start(self) -> None:
        self.service.start()

    def authority(self) -> Certificate:
        """Give the default group's CA certificate, as verifiers enrol it."""
        with ManagerClient(self.paths.root) as client:
            return parse_host_export(client.export()).authorities["default"]

    def stop(self) -> None:
        self.service.stop()
        os.waitpid(-1, os.WNOHANG)

    def kill(self) -> None:
        """End it as power loss does."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))

    @property
    def pid(self) -> int:
        pid = self.service.running()
        assert pid is not None
        return pid

    def connect(self) -> Channel:
        sock = connect(self.paths.run, "manager.sock", kind=socket.SOCK_SEQPACKET)
        sock.settimeout(SECONDS)
        channel = Channel(sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)
        self.channels.append(channel)
        return channel

    def status(self) -> HostStatus:
        return self.connect().ask(AskStatus(), HostStatus)

    def attend(self) -> None:
        """Say for a builder that no pair is left of before the Manager's start."""
        self.connect().ask(Attend(), Attended)

    def vtpm(self, name: str, *, ephemeral: bool = False, group: str = "default") -> Vtpm:
        """Open a launch, and greet the Manager as its vTPM."""
        builder = self.connect()
        builder.ask(Attend(), Attended)  # there is no pair of before its start
        builder.send(open_pair(name, ephemeral=ephemeral, group=group))
        message, descriptors = builder.receive_any()
        opened = expect(message, PairOpened)
        [descriptor] = descriptors
        sock = socket.socket(fileno=descriptor)
        sock.settimeout(SECONDS)
        channel = Channel(sock, sends=VTPM_REQUESTS, receives=VTPM_ANSWERS)
        self.channels.append(channel)
        return Vtpm(
            channel=channel,
            opened=opened,
            welcome=channel.ask(Hello(), Welcome),
            ek=rsa_ek(),
            ak_key=ec.generate_private_key(ec.SECP256R1()),
        )

    def swtpm(self) -> int:
        """Give the process id of the embedded pTPM."""
        [child] = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(child)

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        if self.service.running() is not None:
            self.stop()


def open_pair(name: str, *, ephemeral: bool = False, group: str = "default") -> OpenPair:
    return OpenPair(
        guest=name,
        vtpm=name,
        group=group,
        ephemeral=ephemeral,
        launch_log_digest=b"l" * 32,
        hypervisor="qemu 7.2",
        builder="tandem 0.1",
        manifest_digest=b"m" * 32,
        manifest_version=1,
        library="main",
        signers=("a key",),
        successors=("a key",),
        threshold=1,
    )


def rsa_ek() -> bytes:
    """Give the TPMT_PUBLIC of an EK after the TCG's template L-1."""
    modulus = RSA_KEY.public_numbers().n.to_bytes(256)
    scheme = Algorithm.NULL.to_bytes(2) + (2048).to_bytes(2) + bytes(4)
    return _storage_key(Algorithm.RSA) + scheme + _sized(modulus)


def ecc_ek() -> bytes:
    """Give the TPMT_PUBLIC of an EK after the TCG's template L-2."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    scheme = Algorithm.NULL.to_bytes(2) + (3).to_bytes(2) + Algorithm.NULL.to_bytes(2)
    point = _sized(numbers.x.to_bytes(32)) + _sized(numbers.y.to_bytes(32))
    return _storage_key(Algorithm.ECC) + scheme + point


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def _storage_key(kind: Algorithm) -> bytes:
    head = kind.to_bytes(2) + Algorithm.SHA256.to_bytes(2) + ATTRIBUTES.to_bytes(4)
    aes = Algorithm.AES.to_bytes(2) + (128).to_bytes(2) + Algorithm.CFB.to_bytes(2)
    return head + _sized(bytes(32)) + aes


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data
