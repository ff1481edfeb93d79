"""A real Manager and broker on a software TPM that a test can look into beside them."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.faulty_tpm import FaultyTpm
from peers.shared_swtpm import receive
from tandem.cli.services import Service
from tandem.hypervisor.descriptors import connect
from tandem.wire import tpm_commands
from tests.attacks.tpm import done, handles
from tests.integration.manager.running_manager import (
    ROOT,
    RunningManager,
    Vtpm,
    tandem,
    wait_until,
)

SECONDS = 60.0
OTHER_UID, BLIND_UID, UNKNOWN_UID = 1000, 1001, 1002
CROWD = range(2000, 2010)
RIGHTS = f"""
[uid.0]
hierarchies = ["owner", "null", "endorsement"]
extend = [16]
nv = ["0x01500000-0x0150001f"]
persistent = ["0x81000100-0x8100010f"]

[uid.{OTHER_UID}]
nv = ["0x01500100-0x0150011f"]

[uid.{BLIND_UID}]
read_registers = false

{"".join(f"[uid.{uid}]" + chr(10) for uid in CROWD)}
"""
TRANSIENT = 0x80000000  # first handles of kinds (TPM_HC, Part 2, 7.5)
LOADED_SESSIONS = 0x02000000
SAVED_SESSIONS = 0x03000000


class BrokerClient:
    """A connection to the broker's socket, which takes raw TPM commands."""

    def __init__(self, host: Path) -> None:
        self._sock = connect(host / "run", "broker.sock")
        self._sock.settimeout(SECONDS)

    def __enter__(self) -> BrokerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def send(self, command: bytes) -> None:
        self._sock.sendall(command)

    def receive(self) -> bytes:
        return receive(self._sock)

    def transceive(self, command: bytes) -> bytes:
        self.send(command)
        return self.receive()


class RunningBroker:
    """One host whose Manager and broker run; the pTPM is `ptpm`, which tests may look into."""

    def __init__(self, host: Path, ptpm: FaultyTpm) -> None:
        self.host = host
        self.ptpm = ptpm
        self.approval_key = host.parent / "approval.key"
        self.manager = RunningManager(host)
        self._probes = itertools.count()
        self.service = Service(name="broker", paths=self.manager.paths)

    def provision(self, rights: str) -> None:
        """Make the host."""
        options = ("--pcrs", "8,9", "--approval-key", str(self.approval_key))
        made = tandem(self.host, "host", "init", "--ptpm", self.ptpm.ptpm, *options)
        assert made.returncode == 0, made.stderr
        self.manager.paths.broker_rights.write_text(rights)

    def start(self) -> None:
        self.manager.start()
        self.service.start()

    def close(self) -> None:
        if self.service.running() is not None:
            self.service.stop()
        self.manager.close()

    def client(self, uid: int = 0) -> BrokerClient:
        """Connect as a user; the kernel tells the broker which."""
        with acting_as(uid):
            return BrokerClient(self.host)

    @property
    def tcti(self) -> str:
        """What stock tools reach the broker by."""
        return f"mssim:path={self.manager.paths.broker_socket}"

    @property
    def command_tcti(self) -> str:
        """What those reach it by whose libtss2 knows no Unix sockets."""
        return f"cmd:{sys.executable} -m tandem --host {self.host} tpm"

    def tools(self, script: str, cwd: Path, *, check: bool = True) -> str:
        """Run a shell script of stock tools; gives what it printed."""
        return run_tools(self.tcti, script, cwd, check=check)

    def open_and_prepare(self, name: str) -> Vtpm:
        """Have the Manager do what a pair's start takes: key, certificates, commit, record."""
        vtpm = self.manager.vtpm(name, ephemeral=True)
        vtpm.prepare()
        return vtpm

    def require_a_working_manager(self) -> None:
        """See that the Manager does what a pair's start takes."""
        self.open_and_prepare(f"probe-{next(self._probes)}").channel.close()

    def left_in_the_tpm(self) -> dict[int, list[int]]:
        """List what occupies slots of the pTPM, as whoever looks from beside sees it."""
        kinds = (TRANSIENT, LOADED_SESSIONS, SAVED_SESSIONS)
        return {kind: handles(self.ptpm, kind) for kind in kinds}

    def wait_until_nothing_is_left(self) -> None:
        """Wait until no slot of the pTPM is in use."""
        wait_until(lambda: not any(self.left_in_the_tpm().values()))


def run_tools(tcti: str, script: str, cwd: Path, *, check: bool = True) -> str:
    """Run a shell script in which stock tools reach a TPM; gives all that it printed."""
    process = start_tools(tcti, script, cwd)
    said, _ = process.communicate()
    if check:
        assert process.returncode == 0, said
    return said


def start_tools(tcti: str, script: str, cwd: Path) -> subprocess.Popen[str]:
    """Start such a script."""
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env=os.environ | {"TPM2TOOLS_TCTI": tcti},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def running_broker(rights: str = RIGHTS, wrong_tries: int = 0) -> Iterator[RunningBroker]:
    """Make a host on a fresh software TPM, and run Manager and broker from a copy of the source.

    A host is sealed to its code: an edit while the tests run would lock it.  `wrong_tries` is what
    the TPM's owner allows before it locks; a software TPM has 3, hardware 10 to 32.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-broker-", dir="/var/tmp") as directory:
        work = Path(directory)
        work.chmod(0o711)
        source = work / "source"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        with pytest.MonkeyPatch.context() as patched, FaultyTpm(work / "ptpm") as ptpm:
            patched.setenv("PYTHONPATH", str(source))
            broker = RunningBroker(work / "host", ptpm)
            broker.provision(rights)
            if wrong_tries:
                done(ptpm, allow_wrong_tries(wrong_tries))
            try:
                broker.start()
                yield broker
            finally:
                broker.close()


def allow_wrong_tries(count: int) -> bytes:
    """TPM2_DictionaryAttackParameters (Part 3, 25.3); each wrong try is forgotten in a second."""
    parameters = b"".join(value.to_bytes(4) for value in (count, 1, 1))
    return tpm_commands.command(0x13A, (0x4000000A,), parameters, [tpm_commands.password()])


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Be another user for what is done in this scope."""
    groups = os.getgroups()
    if uid:
        os.setgroups([])
        os.setegid(uid)
        os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
