"""The embedded pTPM: swtpm as a child of the Manager, for hosts without a TPM of their own.

It is reached over an inherited socketpair, so there is no path or port that anybody else could
connect to.  It ends with the Manager: by the kernel, for swtpm 0.7 does not reliably notice that
its connection is gone while it answers, and then runs on for ever with its state locked.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

from tandem.errors import HostError
from tandem.privileges import end_with_parent

STATE: Final = "tpm2-00.permall"  # all of its NV memory
SETUP_SECONDS: Final = 60
END_SECONDS: Final = 5


def manufacture(directory: Path, uid: int) -> None:
    """Make a TPM with an EK certificate of its own small CA, all of it below `directory`."""
    directory.mkdir(mode=0o700)
    authority = directory / "ca"
    authority.mkdir(mode=0o700)
    (directory / "localca.conf").write_text(
        f"statedir = {authority}\nsigningkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\ncertserial = {authority}/certserial\n"
    )
    (directory / "localca.options").write_text(
        "--platform-manufacturer Tandem\n--platform-version 1\n--platform-model embedded\n"
    )
    setup = directory / "setup.conf"
    setup.write_text(
        f"create_certs_tool = {_program('swtpm_localca')}\n"
        f"create_certs_tool_config = {directory}/localca.conf\n"
        f"create_certs_tool_options = {directory}/localca.options\n"
        "active_pcr_banks = sha256,sha384\n"
    )
    for path in (directory, *directory.iterdir()):
        os.chown(path, uid, uid)
    _run_setup(directory, setup, uid)


def start(directory: Path, log: Path, uid: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Run the TPM, started with TPM2_Startup(CLEAR); gives the process and its data socket.

    `log` is opened as root, so it lies where `uid` cannot put a link in its place.  A Manager that
    was never root lets it print where it prints itself.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    command = [
        *(_program("swtpm"), "socket", "--tpm2", "--fd", str(theirs.fileno())),
        *("--tpmstate", f"dir={directory},mode=0600", "--terminate"),
        *("--flags", "not-need-init,startup-clear"),
    ]
    try:
        process = _run(command, theirs, log, uid)
    except OSError as error:
        ours.close()
        raise HostError(
            "TDM-EMBEDDED-TPM-START",
            f"the embedded TPM cannot be started: {error.filename or log}: {error.strerror}",
            hint="make room on the disk, and see that the host's directory can be written",
        ) from error
    return process, ours


def _run(command: list[str], theirs: socket.socket, log: Path, uid: int) -> subprocess.Popen[bytes]:
    is_root = os.geteuid() == 0
    with theirs, log.open("wb") if is_root else nullcontext() as output:
        return subprocess.Popen(  # noqa: S603 - a fixed program, and paths of this host
            command,
            pass_fds=[theirs.fileno()],
            user=uid if is_root else None,
            group=uid if is_root else None,
            extra_groups=[] if is_root else None,
            stdin=subprocess.DEVNULL,
            stdout=output or sys.stderr,
            stderr=output or sys.stderr,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - Manager and `host init` have one thread
        )


def end(process: subprocess.Popen[bytes], sock: socket.socket) -> None:
    """Let the TPM end, after the command that it may be busy with, and close its connection."""
    with suppress(OSError):  # it ended already
        sock.shutdown(socket.SHUT_WR)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    sock.close()


def sync(directory: Path) -> None:
    """Have the TPM's state survive a power cut: swtpm 0.7 renames a new file, and syncs nothing.

    Without that the store, which is synced, is ahead of its anchor after a power cut, and refused.
    """
    for path in (directory / STATE, directory):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _run_setup(directory: Path, setup: Path, uid: int) -> None:
    command = [
        *(_program("swtpm_setup"), "--tpm2", "--tpm-state", str(directory), "--createek"),
        *("--create-ek-cert", "--create-platform-cert", "--config", str(setup)),
        *("--pcr-banks", "sha256,sha384"),
    ]
    process = subprocess.Popen(  # noqa: S603 - a fixed program, and paths of this host
        command,
        user=uid,
        group=uid,
        extra_groups=[],
        env={"PATH": os.defpath, "HOME": str(directory), "TMPDIR": str(directory)},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # its swtpm, which outlives it, is in its process group
    )
    try:
        said, _ = process.communicate(timeout=SETUP_SECONDS)
    except subprocess.TimeoutExpired as error:
        _end_group(process)
        raise _not_made(f"nothing within {SETUP_SECONDS} s", directory, uid) from error
    except BaseException:  # an interrupt
        _end_group(process)
        raise
    if process.returncode != 0:
        lines = [line for line in said.splitlines() if line]
        raise _not_made("; ".join(lines)[-500:], directory, uid)


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a process that nobody waited for yet, and all that it started."""
    with suppress(ProcessLookupError):  # nothing is left of the group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _not_made(said: str, directory: Path, uid: int) -> HostError:
    return HostError(
        "TDM-EMBEDDED-TPM-SETUP",
        f"swtpm_setup could not make the embedded TPM: {said!a}",
        hint=f"make room on the disk, let uid {uid} reach {directory}, and install the package "
        "swtpm-tools",
    )


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise HostError(
            "TDM-NO-SWTPM",
            f"{name} is not installed; it is the TPM of a host without a hardware one",
            hint="apt-get install swtpm swtpm-tools, or give the host its own: --ptpm /dev/tpm0",
        )
    return found
