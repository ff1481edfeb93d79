"""What the zygote does so that no vTPM has to: tables built, caches filled, code specialized.

A vTPM shares its zygote's pages until it writes to them, be it only to count a reference.  So the
zygote rehearses: it goes through the launch of a vTPM with the Manager's answers sent beforehand
and with an engine that is none, often enough for CPython to write to that code no more.  libtpms
has no part in it: it draws its seeds at power-on, and no two vTPMs may share any.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Final

from tandem import channel
from tandem.channel import Channel
from tandem.evidence.event_log import write_launch_log
from tandem.evidence.launch import LaunchEvent, Tag
from tandem.vtpm.libtpms import SUCCESS, Engine
from tandem.vtpm.manager_client import ManagerClient
from tandem.vtpm.preparation import prepare
from tandem.wire import tpm_commands as tpm
from tandem.wire.manager_rpc import (
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    CommitState,
    EkCertificates,
    Prepared,
    StateCommitted,
    Welcome,
)
from tandem.wire.tpm_commands import Rc
from tandem.wire.zygote_rpc import STATUS_REPORTS, ZYGOTE_REQUESTS, SpawnVtpm, VtpmReady

M_MMAP_THRESHOLD: Final = -3  # mallopt(3)
M_ARENA_MAX: Final = -8
LARGE: Final = 128 * 1024  # libtpms writes its state through a buffer of 300 KiB, freed at once
REHEARSALS: Final = 24  # CPython 3.11 specializes code in its first dozen of calls
NOBODY: Final = bytes(16)
ANSWER: Final = tpm.response(Rc.SUCCESS, bytes(25))  # reads as any response that a launch needs

_libc = ctypes.CDLL(None)
_trim = _libc.malloc_trim


class NoEngine(Engine):
    """Takes every command and does nothing."""

    def __init__(self) -> None:
        self.permanent = bytes(32768)
        self.changed = False
        self.outbox = memoryview(ANSWER)
        self._size = [len(ANSWER)]
        self._process = partial(_succeed)
        self._library = SimpleNamespace(TPMLIB_MainInit=_succeed, TPMLIB_Terminate=_succeed)


def _succeed(*_: object) -> int:
    return SUCCESS


def warm_up(engine: Engine) -> None:
    """Prepare this process, so that its children need not."""
    engine.load_algorithms()
    _libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    _libc.mallopt(M_ARENA_MAX, 1)
    for _ in range(REHEARSALS):
        rehearse()


def give_back() -> None:
    """Give memory that is free now back to the kernel."""
    _trim(0)


def rehearse() -> None:
    """Do what a vTPM does until its guest comes: once where it is new, once where it is not."""
    slots = os.memfd_create("state.0"), os.memfd_create("state.1")
    written = _launch(slots, version=0, digest=b"")
    _launch(slots, version=1, digest=written)
    for slot in slots:
        os.close(slot)


def _launch(slots: tuple[int, int], *, version: int, digest: bytes) -> bytes:
    """Make a vTPM (version 0) or start one; give the digest of the state that was written."""
    events = [LaunchEvent(tag=tag, data=b"{}") for tag in (Tag.BUILDER, Tag.KERNEL)]
    spawn = SpawnVtpm(
        pair_id=NOBODY, launch_log=write_launch_log(events), firmware=True, uid=os.getuid()
    )
    ZYGOTE_REQUESTS.decode(ZYGOTE_REQUESTS.encode(spawn))
    ours, theirs = channel.pair()
    manager = Channel(theirs, sends=VTPM_ANSWERS, receives=VTPM_REQUESTS)
    answers = _answers(version, digest)
    for answer in answers:
        manager.send(answer)
    client = ManagerClient(ours)
    welcome = client.hello()
    prepare(spawn, NoEngine(), client, welcome(), slots)
    STATUS_REPORTS.encode(VtpmReady(manufactured=not version, microseconds=0))
    *_, committed = (manager.receive()[0] for _ in answers)
    ours.close()
    manager.close()
    return committed.digest if isinstance(committed, CommitState) else b""


def _answers(version: int, digest: bytes) -> Sequence[object]:
    """Give what the Manager says in a launch."""
    welcome = Welcome(
        pair_id=NOBODY,
        vtpm_id=NOBODY,
        vtpm="vtpm",
        group="group",
        launch_number=1,
        key=bytes(32),
        former_state_key=bytes(32) if version else b"",
        state_key=bytes(32),
        state_version=version,
        state_digest=digest,
    )
    certificates = EkCertificates(rsa=bytes(1100), ecc=bytes(700), chain=bytes(1100))
    prepared = Prepared(
        record=bytes(500),
        ak_certificate=bytes(700),
        issuer_certificate=bytes(600),
        host_ak=bytes(90),
        ticket=bytes(32),
    )
    committed = StateCommitted(version=version + 1)
    return (welcome, *([] if version else [certificates]), prepared, committed)
