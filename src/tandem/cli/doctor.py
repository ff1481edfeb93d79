"""`tandem doctor`: what a host has, what it lacks, and how to get it."""

from __future__ import annotations

import argparse
import ctypes.util
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import Final

from tandem.cli.output import add_json
from tandem.errors import HostError
from tandem.hypervisor import accelerator
from tandem.hypervisor.qemu_args import EXECUTABLE
from tandem.hypervisor.vtpm_proxy import PROXY
from tandem.settings import UID_BASE

EXAMPLES: Final = """\
examples:
  tandem doctor
  tandem doctor --json | jq '.[] | select(.standing == "lacks")'
"""
PYTHON: Final = (3, 11)
FREE_MIB: Final = 512
HOST_PART: Final = "pip install 'tandem[host]'"
NAMESPACES: Final = ("pid", "user")
DEVICES: Final = ("tpm-crb", "virtserialport")


class Standing(StrEnum):
    """How a finding stands."""

    OK = auto()
    NOTE = auto()  # works, with less
    LACKS = auto()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at."""

    name: str
    standing: Standing
    found: str
    remedy: str = ""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor",
        help="say what this host lacks and how to get it",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at everything; status 3 when something that is needed is not there."""
    findings = list(examine(Path(args.host)))
    if args.json:
        print(json.dumps([asdict(each) for each in findings], sort_keys=True))
    else:
        print("\n".join(as_line(each) for each in findings))
    lacking = any(each.standing is Standing.LACKS for each in findings)
    return HostError.exit_status if lacking else 0


def examine(host: Path) -> Iterator[Finding]:
    """Look at one thing after the other."""
    looks: tuple[Callable[[], Finding], ...] = (
        root, python, physical_tpm, vtpm_proxy, qemu, kvm, pid_namespaces, kernel,
    )  # fmt: skip
    for look in looks:
        yield look()
    yield library("tpms", "libtpms0", "every vTPM")
    yield library("tss2-esys", "libtss2-dev", "the Manager's way to the pTPM")
    yield program("swtpm", "swtpm", "the embedded pTPM of a host without hardware")
    yield program("swtpm_setup", "swtpm-tools", "making the embedded pTPM, and the benchmarks")
    yield module("tpm2_pytss", "the Manager")
    yield module("pyseccomp", "confining each vTPM")
    yield module("qemu.qmp", "leading QEMU")
    yield space(host)


def as_line(finding: Finding) -> str:
    """Lay one finding out for a person."""
    line = f"{finding.standing.value:5}  {finding.name:16} {finding.found}"
    return f"{line}\n       {'':16} -> {finding.remedy}" if finding.remedy else line


def root() -> Finding:
    """Services start as root and drop it."""
    return _finding(
        "root", os.geteuid() == 0, "this is root", "not root", "run it with sudo: services need it"
    )


def python() -> Finding:
    """Python 3.11 or later."""
    name = ".".join(map(str, sys.version_info[:3]))
    return _finding("python", sys.version_info >= PYTHON, name, name, "install Python 3.11")


def library(name: str, package: str, use: str) -> Finding:
    """A shared library that is loaded."""
    found = ctypes.util.find_library(name)
    return _finding(
        name, bool(found), str(found), f"missing: {use} needs it", f"apt-get install {package}"
    )


def physical_tpm() -> Finding:
    """A hardware root; without it everything works and proves less."""
    if Path("/dev/tpm0").exists():
        return Finding(name="pTPM", standing=Standing.OK, found="/dev/tpm0")
    return Finding(
        name="pTPM",
        standing=Standing.NOTE,
        found="no /dev/tpm0: an embedded swtpm stands in, without a hardware root",
        remedy="enable the TPM in the firmware's setup, then `tandem host init --ptpm /dev/tpm0`",
    )


def vtpm_proxy() -> Finding:
    """Through it the host gets a vTPM of its own; guests do without."""
    if PROXY.exists():
        return Finding(name="vTPM proxy", standing=Standing.OK, found=str(PROXY))
    return Finding(
        name="vTPM proxy",
        standing=Standing.NOTE,
        found=f"no {PROXY}: the host itself gets no vTPM",
        remedy="modprobe tpm_vtpm_proxy, if `tandem host vtpm` is wanted",
    )


def qemu() -> Finding:
    """QEMU 7.2 or later, with the devices that a pair needs."""
    try:
        from tandem.hypervisor.qemu import Qemu  # its module may be one of the things lacking

        identity = Qemu(probe_uid=UID_BASE).identify()
    except ModuleNotFoundError as error:
        return Finding(
            name="qemu",
            standing=Standing.LACKS,
            found=f"not looked at: that needs the Python module {error.name}",
            remedy=HOST_PART,
        )
    except HostError as error:
        return Finding(name="qemu", standing=Standing.LACKS, found=error.problem, remedy=error.hint)
    missing = [device for device in DEVICES if device not in _qemu_says("-device", "help")]
    if "emulator" not in _qemu_says("-tpmdev", "help"):
        missing.append("the tpm-emulator backend")
    return _finding(
        "qemu",
        not missing,
        identity.version,
        f"{identity.version} lacks {', '.join(missing)}",
        "apt-get install qemu-system-x86",
    )


def kvm() -> Finding:
    """Whether guests run at full speed."""
    if not EXECUTABLE.exists() or os.geteuid() != 0:
        return Finding(name="kvm", standing=Standing.NOTE, found="not tried: needs QEMU and root")
    if accelerator.probe(EXECUTABLE, "max", UID_BASE) == "kvm":
        return Finding(name="kvm", standing=Standing.OK, found="runs a guest's instructions")
    return Finding(
        name="kvm",
        standing=Standing.NOTE,
        found="does not run guests here: QEMU's TCG does, slower",
        remedy="enable virtualisation, or nesting where this is a virtual machine itself",
    )


def pid_namespaces() -> Finding:
    """A vTPM and its hypervisor share a PID namespace, so that they end together."""
    missing = [each for each in NAMESPACES if not Path(f"/proc/self/ns/{each}").exists()]
    return _finding(
        "namespaces",
        not missing,
        "pid, user",
        f"this kernel has no {' and no '.join(missing)} namespaces",
        "use a kernel with CONFIG_PID_NS and CONFIG_USER_NS",
    )


def kernel() -> Finding:
    """Something for a guest to boot."""
    images = sorted(Path("/boot").glob("vmlinuz-*"))
    if images:
        return Finding(name="guest kernel", standing=Standing.OK, found=str(images[-1]))
    return Finding(
        name="guest kernel",
        standing=Standing.NOTE,
        found="none in /boot",
        remedy="apt-get install linux-image-cloud-amd64, or name one in the library's source",
    )


def program(name: str, package: str, use: str) -> Finding:
    """A program that is called."""
    path = shutil.which(name)
    return _finding(
        name, bool(path), str(path), f"missing: {use} needs it", f"apt-get install {package}"
    )


def module(name: str, use: str) -> Finding:
    """A Python module of the host's part."""
    there = importlib.util.find_spec(name.partition(".")[0]) is not None
    return _finding(name, there, "installed", f"missing: {use} needs it", HOST_PART)


def space(host: Path) -> Finding:
    """Room below the host directory, or where it would be made."""
    place = next(each for each in (host, *host.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free >> 20
    return _finding(
        "disk space",
        free >= FREE_MIB,
        f"{free} MiB below {place}",
        f"only {free} MiB below {place}",
        f"free {FREE_MIB} MiB, or choose another directory with --host",
    )


def _qemu_says(*arguments: str) -> str:
    command = [str(EXECUTABLE), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 (no shell)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def _finding(name: str, good: bool, found: str, otherwise: str, remedy: str) -> Finding:
    if good:
        return Finding(name=name, standing=Standing.OK, found=found)
    return Finding(name=name, standing=Standing.LACKS, found=otherwise, remedy=remedy)
