"""What the Manager measures of a host whose embedded pTPM nobody else measures into.

A hardware TPM holds what firmware and kernel measured, and the Manager never extends it.  The
embedded one starts empty with each Manager, so the Manager measures what it can see: that is weaker
than a measured boot, and `hardware_root` says so everywhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tandem.evidence.event_log import write_log
from tandem.evidence.host_state import BANKS, HostState
from tandem.evidence.launch import EV_EVENT_TAG, canonical_json
from tandem.evidence.pcr_values import extend
from tandem.installation import source_digest

KERNEL_REGISTER: Final = 8
SOFTWARE_REGISTER: Final = 9
FIRMWARE_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
FIRST_TPM: Final = "tpm0"
IMA_LIST: Final = Path("/sys/kernel/security/ima/binary_runtime_measurements")
HYPERVISOR: Final = Path("/usr/bin/qemu-system-x86_64")

Entry = tuple[int, int, bytes]


def measure_host() -> list[Entry]:
    """Give one entry for the running kernel, and one for the software that builds pairs."""
    system = os.uname()
    kernel = {
        "release": system.release,
        "version": system.version,
        "command_line": _file_digest(Path("/proc/cmdline")),
    }
    software = {
        "tandem": source_digest().hex(),
        "hypervisor": _file_digest(HYPERVISOR) if HYPERVISOR.exists() else "",
    }
    return [
        (KERNEL_REGISTER, EV_EVENT_TAG, canonical_json(kernel)),
        (SOFTWARE_REGISTER, EV_EVENT_TAG, canonical_json(software)),
    ]


def coming_state(entries: list[Entry], registers: Iterable[int]) -> HostState:
    """Give what the registers of an embedded pTPM will hold after these measurements."""
    banks = {bank: _measured(entries, registers, bank) for bank in BANKS}
    return HostState(banks=banks)


def embedded_log(entries: list[Entry]) -> bytes:
    """Give the entries as a TCG crypto-agile event log."""
    return write_log(entries)


def firmware_log() -> bytes:
    """Give the event log of a host with a hardware TPM, as the kernel kept it."""
    return FIRMWARE_LOG.read_bytes() if FIRMWARE_LOG.exists() else b""


def open_ima_list(device: Path) -> int | None:
    """Open the kernel's IMA list, which only root may; None where it explains nothing in here.

    The kernel binds IMA to the machine's first TPM at boot, and extends that alone.
    """
    if device.name != FIRST_TPM or not IMA_LIST.exists():
        return None
    return os.open(IMA_LIST, os.O_RDONLY | os.O_CLOEXEC)


def _measured(entries: list[Entry], registers: Iterable[int], bank: str) -> dict[int, bytes]:
    values = dict.fromkeys(registers, bytes(hashlib.new(bank).digest_size))
    for register, _, data in entries:
        if register in values:
            digest = hashlib.new(bank, data).digest()
            values[register] = extend(values[register], digest, bank)
    return values


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
