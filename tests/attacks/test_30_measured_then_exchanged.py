"""30: a file is measured, and exchanged before it is loaded.

Attacker: whoever writes the directory that guests boot from, at the right moment.
Control: a builder that hashes a path and hands the path to QEMU: the good digest is in the register
and the evil kernel runs.
Shows: each input is copied once into sealed memory, hashed there, and loaded from there; whenever
it is exchanged, what runs is what was measured, or nothing runs (TDM-INPUT-DIFFERS).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.good_run import GUEST
from demo.stage import Stage
from peers.bare_machine import plain_machine
from peers.tiny_kernel import tiny_kernel
from tandem.builder.inputs import SEALS, InputStore
from tandem.errors import Refused
from tandem.evidence.manifest_file import ManifestFile
from tests.attacks.quoting_tpm import measure, quoted

STARTS = 6
RACE_SECONDS = 30.0
EITHER = {"TDM-INPUT-DIFFERS", "as signed"}
F_GET_SEALS = 1034  # fcntl.h
REGISTER = 9
GOOD, EVIL = tiny_kernel("good"), tiny_kernel("evil")


def test_control_the_good_digest_is_quoted_by_the_evil_kernel(
    control: Path, tmp_path: Path
) -> None:
    # Given a builder that hashes the kernel's path, as the library has it
    kernel = tmp_path / "kernel"
    kernel.write_bytes(GOOD)
    digest = hashlib.sha256(kernel.read_bytes()).digest()

    # When the file is exchanged before QEMU opens the same path
    (tmp_path / "other").write_bytes(EVIL)
    (tmp_path / "other").rename(kernel)
    with plain_machine(control, "-kernel", str(kernel), "-append", "quiet") as plain:
        plain.machine.run_until(b"booted evil.")
        measure(plain.machine, {REGISTER: digest})  # what the builder measured
        quote = quoted(plain.machine, (REGISTER,))

    # Then the evil kernel runs, and stock tools accept the good one's register
    assert quote.passes_checkquote(tmp_path)
    expected = hashlib.sha256(bytes(32) + hashlib.sha256(GOOD).digest()).digest()
    assert quote.quote.pcr_digest == hashlib.sha256(expected).digest()


@contextmanager
def exchanging(path: Path, other: bytes, how: str) -> Iterator[None]:
    """Exchange a file again and again: by another one, or in place."""
    original, over = path.read_bytes(), threading.Event()

    def work() -> None:
        while not over.is_set():
            for content in (other, original):
                if how == "renamed":
                    new = path.with_suffix(".new")
                    new.write_bytes(content)
                    new.rename(path)
                else:
                    descriptor = os.open(path, os.O_WRONLY)
                    os.pwrite(descriptor, content, 0)
                    os.close(descriptor)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()
        path.write_bytes(original)


@pytest.mark.parametrize("how", ["renamed", "written"])
def test_what_is_handed_over_is_what_was_measured(tmp_path: Path, how: str) -> None:
    # Given a library's kernel that somebody exchanges all the time
    (tmp_path / "vmlinuz").write_bytes(GOOD)
    signed = ManifestFile(
        path="vmlinuz",
        size=len(GOOD),
        sha256=hashlib.sha256(GOOD).digest(),
        sha384=hashlib.sha384(GOOD).digest(),
    )
    outcomes: set[str] = set()
    deadline = time.monotonic() + RACE_SECONDS
    with exchanging(tmp_path / "vmlinuz", EVIL, how):
        # When the builder opens it, many times, until it has met both
        while outcomes != EITHER and time.monotonic() < deadline:
            inputs = InputStore()
            try:
                opened = inputs.open(tmp_path, signed)
            except Refused as refusal:
                outcomes.add(refusal.code)
                inputs.close()
                continue
            content = os.pread(opened.descriptor, len(GOOD) + 1, 0)
            seals = seals_of(opened.descriptor)
            os.close(opened.descriptor)
            inputs.close()

            # Then it is refused by name, or is the signed one and sealed against change
            assert content == GOOD
            assert seals & SEALS == SEALS
            outcomes.add("as signed")
    assert outcomes == EITHER


def test_a_running_guest_has_loaded_what_was_measured(stage: Stage) -> None:
    # Given a host whose library's initrd somebody exchanges all the time
    path = stage.host / "library" / "initramfs.cpio"
    good = path.read_bytes()
    digest = hashlib.sha256(good).hexdigest()
    seen = set()
    with exchanging(path, good[:-4] + b"evil", "renamed"):
        # When its guest is started again and again
        for _ in range(STARTS):
            done = stage.tandem("guest", "start", GUEST, expect=None)
            if done.returncode:
                assert done.returncode == Refused.exit_status, done.stderr
                assert "TDM-INPUT-DIFFERS" in done.stderr
                continue
            [pair] = stage.ask("guest", "show", GUEST)
            seen |= loaded(pair["hypervisor_pid"], len(good))
            stage.tandem("guest", "stop", GUEST, "--kill")

    # Then each that ran holds the signed initrd in sealed memory, and no other
    stage.tandem("guest", "start", GUEST)
    [pair] = stage.ask("guest", "show", GUEST)
    seen |= loaded(pair["hypervisor_pid"], len(good))
    stage.tandem("guest", "stop", GUEST, "--kill")
    assert seen == {digest}


def loaded(pid: int, size: int) -> set[str]:
    """Give the digests of the memory files of a size that a hypervisor has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link).startswith("/memfd:") and link.stat().st_size == size:
            found.add(hashlib.sha256(link.read_bytes()).hexdigest())
    return found


def seals_of(descriptor: int) -> int:
    """F_GET_SEALS of a memory file."""
    return fcntl.fcntl(descriptor, F_GET_SEALS)
