"""tpm2-abrmd on a swtpm of its own, on a D-Bus of its own: no system bus, no service manager.

It is unpacked from Debian's packages and not installed: installed, it would start as a service on
the TPM of this machine.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from peers.plain import wait_for_path

UNPACKED: Final = Path(__file__).resolve().parent.parent / ".cache" / "abrmd"
PACKAGES: Final = ("tpm2-abrmd", "libtss2-tcti-tabrmd0")
PROGRAM: Final = UNPACKED / "usr" / "sbin" / "tpm2-abrmd"
LIBRARY: Final = UNPACKED / "usr/lib/x86_64-linux-gnu/libtss2-tcti-tabrmd.so.0"
TCTI: Final = (str(LIBRARY), "bus_type=session")
START_SECONDS: Final = 20.0
BUS: Final = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <policy context="default">
    <allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def abrmd(directory: Path) -> Iterator[None]:
    """Run it; `TCTI` reaches it from this process until the end of the scope."""
    if not PROGRAM.exists():
        _unpack()
    bus = directory / "bus.sock"
    (directory / "bus.conf").write_text(BUS.format(socket=bus))
    tpm = directory / "tpm.sock"
    with (
        (directory / "peer.log").open("ab") as log,
        _running(_swtpm(directory, tpm), log.fileno()),
        _running(["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork"], log.fileno()),
        _bus_address(bus),
        _running(
            [str(PROGRAM), "--session", "--allow-root", f"--tcti=swtpm:path={tpm}"], log.fileno()
        ),
    ):
        _wait_until_it_answers()
        yield


def _unpack() -> None:
    """Download the packages, whose signatures apt checks, and unpack them beside the images."""
    UNPACKED.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED.parent) as folder:
        # As root: apt's own user cannot write into the cache folder.
        apt = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root")
        subprocess.run([*apt, "download", *PACKAGES], cwd=folder, check=True)
        whole = Path(folder, "whole")
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, whole], check=True)
        whole.rename(UNPACKED)


def _swtpm(directory: Path, sock: Path) -> list[str]:
    """Give the command of a swtpm by Unix sockets, as tpm2-abrmd reaches it fastest."""
    state = directory / "state"
    state.mkdir()
    return [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"),
        *("--server", f"type=unixio,path={sock}", "--ctrl", f"type=unixio,path={sock}.ctrl"),
        *("--flags", "not-need-init,startup-clear"),
    ]


@contextlib.contextmanager
def _bus_address(bus: Path) -> Iterator[None]:
    wait_for_path(bus)
    before = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    os.environ["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={bus}"
    try:
        yield
    finally:
        del os.environ["DBUS_SESSION_BUS_ADDRESS"]
        if before is not None:
            os.environ["DBUS_SESSION_BUS_ADDRESS"] = before


@contextlib.contextmanager
def _running(command: list[str], log: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers() -> None:
    """Ask until it is on the bus; a tool that comes too early fails at once."""
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(
        ["tpm2_getrandom", "-T", ":".join(TCTI), "1"], capture_output=True, check=False
    ).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"tpm2-abrmd did not answer in {START_SECONDS} s")
        time.sleep(0.1)
