"""A virtual machine of Debian that boots systemd, with Tandem installed and a TPM of its own.

Its root is made once by debootstrap and kept in `.cache/systemd-machine`; what changes (Tandem, its
units, and what to do) is on a second disk.  It does that, prints what came of it, and powers off.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = ROOT / ".cache" / "systemd-machine"
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "initramfs-tools"),
    *("linux-image-cloud-amd64", "python3", "swtpm", "swtpm-tools", "libtpms0", "libseccomp2"),
    *("libtss2-esys-3.0.2-0", "libtss2-fapi1", "libtss2-rc0", "libtss2-tctildr0", "libtss2-mu0"),
    *("tpm2-tools", "libtss2-tcti-cmd0", "libtss2-tcti-device0"),
)
SUITE: Final = "bookworm"
SITE: Final = "/opt/tandem/site"  # where the second disk has Python's packages
LEFT_OUT: Final = re.compile(r"_?pytest|mypy|ruff|hypothesis|pip|__editable__|tandem|importlinter")
BASE_FILES: Final = {
    "etc/hostname": "machine\n",
    "etc/fstab": "/dev/vda / ext4 rw 0 1\n/dev/vdb /opt/tandem ext4 ro 0 0\n",
    "usr/local/lib/python3.11/dist-packages/tandem.pth": f"{SITE}\n",
    "usr/local/bin/tandem": "#!/usr/bin/python3 -I\nimport sys\n"
    "from tandem.__main__ import main\nsys.exit(main())\n",
    "etc/systemd/system/steps.service": "[Unit]\nAfter=multi-user.target\n[Service]\n"
    "Type=oneshot\nExecStart=/bin/bash /opt/tandem/steps.sh\nStandardOutput=journal\n"
    "ExecStopPost=/usr/bin/systemctl poweroff --no-block\n",
}
DISK_SIZE: Final = {"base": "3G", "tandem": "600M"}
STEP: Final = re.compile(r"STEP (\S+) (\d+) (\S*)\r?\n")
BOOT_SECONDS: Final = 600


class MachineError(Exception):
    """It could not be made, or did not come to its end; the text says what it printed last."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of one step."""

    status: int
    output: str


def run_steps(steps: Mapping[str, str]) -> dict[str, Done]:
    """Boot the machine and run shell commands there as root, one after the other."""
    base = _base()
    with tempfile.TemporaryDirectory(prefix="tandem-machine-", dir="/var/tmp") as directory:
        work = Path(directory)
        _fill(work / "tandem", steps)
        _disk(work / "tandem", work / "tandem.img", DISK_SIZE["tandem"])
        serial = _boot(base, work)
    found = {
        name: Done(status=int(status), output=base64.b64decode(output).decode(errors="replace"))
        for name, status, output in STEP.findall(serial)
    }
    if list(found) != list(steps):
        raise MachineError(f"it ended after {list(found)[-1:]}: {serial[-2000:]!a}")
    return found


def _base() -> Path:
    """Give the folder with kernel, initrd and root disk; the first time it takes minutes."""
    made_from = hashlib.sha256(repr((SUITE, PACKAGES, BASE_FILES)).encode()).hexdigest()[:16]
    folder = CACHE / made_from
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=CACHE) as directory:
        root, making = Path(directory) / "root", Path(directory) / "made"
        making.mkdir()
        packages = ",".join(PACKAGES)
        _run("debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(root))
        for name, content in BASE_FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        (root / "usr/local/bin/tandem").chmod(0o755)
        (root / "opt/tandem").mkdir()
        wants = root / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / "steps.service").symlink_to("/etc/systemd/system/steps.service")
        for name in ("vmlinuz", "initrd.img"):
            [found] = (root / "boot").glob(f"{name}-*")
            shutil.copy(found, making / name)
        _disk(root, making / "base.img", DISK_SIZE["base"])
        making.rename(folder)
    return folder


def _fill(folder: Path, steps: Mapping[str, str]) -> None:
    """Lay out the second disk: Python's packages, Tandem, its units, and the steps."""
    site, units = folder / "site", folder / "units"
    site.mkdir(parents=True)
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if not LEFT_OUT.match(each.name):
            _run("cp", "-a", str(each), str(site))
    shutil.copytree(ROOT / "src" / "tandem", site / "tandem")
    make = ("make", "-s", "-C", str(ROOT), "install-units", f"DESTDIR={units}")
    _run(*make, "UNIT_PYTHON=/usr/bin/python3")
    lines = ["exec >/dev/ttyS0 2>&1", f"cp -r /opt/tandem/{units.name}/etc /", "cd /root"]
    for name, command in steps.items():
        lines += [
            f"output=$(bash -c {shlex.quote(command)} 2>&1 </dev/null); status=$?",
            f'echo "STEP {name} $status $(echo "$output" | base64 -w 0)"',
        ]
    (folder / "steps.sh").write_text("\n".join(lines) + "\n")


def _boot(base: Path, work: Path) -> str:
    """Boot with a new TPM, wait for the end, and give what the serial console got."""
    (work / "tpm").mkdir()
    socket, serial = work / "tpm" / "socket", work / "serial"
    tpm = subprocess.Popen(
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={work / 'tpm'}"),
            *("--ctrl", f"type=unixio,path={socket}", "--terminate"),
        ]
    )
    try:
        while not socket.exists():
            time.sleep(0.05)
        subprocess.run(_qemu(base, work, socket, serial), check=False, timeout=BOOT_SECONDS)
    except subprocess.TimeoutExpired:
        raise MachineError(f"no end in {BOOT_SECONDS} s: {serial.read_text()[-2000:]!a}") from None
    finally:
        tpm.kill()
        tpm.wait()
    return serial.read_text(errors="replace")


def _qemu(base: Path, work: Path, socket: Path, serial: Path) -> list[str]:
    kernel = "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0"
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "2048"),
        *("-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd.img")),
        *("-append", f"{kernel} systemd.mask=serial-getty@ttyS0.service"),
        *("-drive", f"file={base / 'base.img'},if=virtio,format=raw,snapshot=on"),
        *("-drive", f"file={work / 'tandem.img'},if=virtio,format=raw,readonly=on"),
        *("-chardev", f"socket,id=tpm,path={socket}", "-tpmdev", "emulator,id=tpm,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm", "-serial", f"file:{serial}"),
    ]


def _disk(content: Path, image: Path, size: str) -> None:
    _run("truncate", "-s", size, str(image))
    _run("mkfs.ext4", "-q", "-d", str(content), str(image))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-2000:]
        raise MachineError(f"{command[0]} ended with {done.returncode}: {said}")
