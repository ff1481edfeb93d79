"""A host whose disk an attacker copies and puts back: real Manager, real vTPMs, real pTPM.

And the usual design beside it, for controls: plain swtpm on a directory, and a store of digests of
such directories that is guarded by nothing, or by a bare counter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from peers.faulty_tpm import NV_EXTEND, Fault, FaultyTpm
from peers.shared_swtpm import SharedTpm, shared_swtpm
from tandem.channel import Channel, expect
from tandem.errors import Refused
from tandem.vtpm.provisioning import EK_RSA_TEMPLATE
from tandem.wire import tpm_commands
from tandem.wire.manager_rpc import (
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    Attend,
    Attended,
    Hello,
    OpenPair,
    PairOpened,
    Welcome,
)
from tandem.wire.tpm_commands import StartupType
from tandem.wire.zygote_rpc import VtpmEnded
from tests.attacks.tpm import Tpm, done
from tests.integration.manager.running_manager import SECONDS, RunningManager, tandem, wait_until
from tests.integration.vtpm.pair_harness import PairUnderTest, ZygoteUnderTest, open_request

NV_INCREMENT = 0x134  # TPM_CC (Part 2, 6.5.2)
COUNTER = 0x01500010
COUNTER_ATTRIBUTES = 0x02040014  # NO_DA, AUTHREAD, AUTHWRITE, TPM_NT_COUNTER (TPMA_NV, 13.4)
COUNTER_SIZE = 8


def define_counter(tpm: Tpm) -> None:
    """Make an NV counter of the guest, as it counts on for its own rollback protection."""
    public = tpm_commands.nv_public(COUNTER, COUNTER_ATTRIBUTES, COUNTER_SIZE)
    done(tpm, tpm_commands.nv_define_space(tpm_commands.OWNER, public))


def increment(tpm: Tpm, times: int) -> None:
    """TPM2_NV_Increment (Part 3, 31.8)."""
    for _ in range(times):
        authorization = [tpm_commands.password()]
        done(tpm, tpm_commands.command(NV_INCREMENT, (COUNTER, COUNTER), b"", authorization))


def count(tpm: Tpm) -> int:
    """Read the counter."""
    read = tpm_commands.nv_read(COUNTER, COUNTER, COUNTER_SIZE, 0, tpm_commands.password())
    return int.from_bytes(done(tpm, read).parameters[2 : 2 + COUNTER_SIZE])


def endorsement_key(tpm: Tpm) -> bytes:
    """Give the public area of the EK, as the standard template makes it of this TPM's seed."""
    made = tpm_commands.create_primary(tpm_commands.ENDORSEMENT, EK_RSA_TEMPLATE)
    response = done(tpm, made, with_handle=True)
    done(tpm, tpm_commands.flush_context(response.handle))
    return response.parameters[: 2 + int.from_bytes(response.parameters[:2])]


class Guest:
    """A guest's own view of its vTPM."""

    def __init__(self, pair: PairUnderTest) -> None:
        self._pair = pair

    @property
    def pid(self) -> int:
        """Its vTPM's process."""
        return self._pair.pid

    def transceive(self, command: bytes) -> bytes:
        return self._pair.execute(command)


class AttackedHost:
    """One host directory, and who serves it; the attacker has everything but its pTPM."""

    def __init__(self, rollback: str = "strict") -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tandem-attack-", dir="/var/tmp"))
        self._directory.chmod(0o711)
        self.host = self._directory / "host"
        self.key = self._directory / "approval.key"
        self.tpm = FaultyTpm(self._directory / "tpm")
        self.tpm.start()
        made = tandem(
            *(self.host, "host", "init", "--ptpm", self.tpm.ptpm, "--rollback", rollback),
            *("--approval-key", str(self.key)),
        )
        assert made.returncode == 0, made.stderr
        self.manager = RunningManager(self.host)
        self._zygote = ZygoteUnderTest()
        self._attended = 0

    def __enter__(self) -> Self:
        self.manager.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close()
        self._zygote.close()
        self.tpm.end()
        shutil.rmtree(self._directory)

    @contextlib.contextmanager
    def guest(self, vtpm: str = "web") -> Iterator[Guest]:
        """Launch a guest, and end it; raises `Refused` as its vTPM does."""
        pair = PairUnderTest(self._zygote, self._open_pair, self.host / "vtpm" / vtpm, vtpm=vtpm)
        try:
            message, _ = pair.status.receive()
            if isinstance(message, VtpmEnded):
                raise Refused(message.code, message.reason, hint="")
            pair.start_guest()
            pair.connect()
            done(Guest(pair), tpm_commands.startup(StartupType.CLEAR))
            yield Guest(pair)
            pair.kill_guest()
            pair.ended()
        finally:
            pair.close()

    def key_of(self, vtpm: str) -> bytes:
        """Have the Manager give a vTPM's key out, as at each launch of it."""
        sock = self._open_pair(open_request(vtpm))[1]
        with sock:
            sock.settimeout(SECONDS)
            channel = Channel(sock, sends=VTPM_REQUESTS, receives=VTPM_ANSWERS)
            return channel.ask(Hello(), Welcome).key

    def keep(self, *names: str) -> Path:
        """Copy parts of the host's directory, as a backup or a thief does."""
        kept = Path(tempfile.mkdtemp(prefix="kept-", dir=self._directory))
        for name in names:
            copy(self.host / name, kept / name)
        return kept

    def crash_before_the_anchor(self, act: Callable[[], None]) -> None:
        """Kill the Manager in a commit that is durable, before the pTPM has heard of it."""
        self.tpm.inject(Fault.HANG, code=NV_EXTEND)
        act()
        wait_until(lambda: self.tpm.met() > 0)
        self.manager.kill()
        self.tpm.release()
        self.tpm.clear()

    def put_back(self, kept: Path) -> None:
        """Put copies in the place of what is there, owners and all."""
        for part in kept.iterdir():
            shutil.rmtree(self.host / part.name)
            copy(part, self.host / part.name)

    def take_over(self, original: AttackedHost) -> None:
        """Have all that another host keeps on its disk, and lead it to this one's TPM."""
        self.put_back(original.keep("manager", "vtpm"))
        identity = self.host / "manager" / "identity.cbor"
        content = identity.read_bytes()
        theirs, ours = (each.tpm.ptpm.encode() for each in (original, self))
        assert len(theirs) == len(ours)
        assert theirs in content
        identity.write_bytes(content.replace(theirs, ours))

    def _open_pair(self, asked: OpenPair) -> tuple[PairOpened, socket.socket]:
        builder = self.manager.connect()
        if self._attended != self.manager.pid:  # its first builder says that no pair is left
            builder.ask(Attend(), Attended)
            self._attended = self.manager.pid
        builder.send(asked)
        message, descriptors = builder.receive_any()
        opened = expect(message, PairOpened)
        return opened, socket.socket(fileno=descriptors[0])


def copy(source: Path, target: Path) -> None:
    """Copy a directory with owners and times."""
    subprocess.run(["cp", "-a", source, target], check=True)


class ClassicManager:
    """A model of the usual design: it knows the digest of each vTPM's state, on the same disk.

    The digests stop a state that comes back alone.  What guards the digests is the question: here
    it is nothing, as in Xen's vtpmmgr (disk_tpm.c, TPM_disk_check_counter gives 0).
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.image = directory / "image.json"
        self.vtpm = directory / "vtpm"
        self.vtpm.mkdir(parents=True)

    @contextlib.contextmanager
    def guest(self) -> Iterator[SharedTpm]:
        """Launch the guest on plain swtpm, where its state is the one of the image."""
        state = digest_of(self.vtpm)
        if self.image.exists() and json.loads(self.image.read_text()) != state:
            raise Refused("TDM-STATE-OLDER", "the state is not the one of the image", hint="")
        with shared_swtpm(self.vtpm) as tpm:
            yield tpm
        self.image.write_text(json.dumps(digest_of(self.vtpm)))


def digest_of(directory: Path) -> str:
    """Give the digest of a vTPM's state files."""
    states = sorted(directory.glob("tpm2-*.permall"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in states)).hexdigest()
