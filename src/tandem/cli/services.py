"""The host's services as processes: started apart from this one, known by process id and start."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.errors import HostError
from tandem.readiness import wait_until_ready
from tandem.settings import DEFAULT_HOST, HostPaths

MODULES: Final = {  # in starting order
    "manager": "tandem.manager",
    "broker": "tandem.broker",
    "builder": "tandem.builder",
}
BOOTED_BY_SYSTEMD: Final = Path("/run/systemd/system")  # sd_booted(3)
KEPT_VARIABLES: Final = ("PYTHONPATH",)
READY_SECONDS: Final = 60.0
END_SECONDS: Final = 60.0
STARTED_FIELD: Final = 19  # starttime, counted after the name, proc_pid_stat(5)


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service of a host."""

    name: str
    paths: HostPaths

    @property
    def log(self) -> Path:
        """What the service prints."""
        return self.paths.run / f"{self.name}.log"

    @property
    def _record(self) -> Path:
        return self.paths.run / f"{self.name}.pid"

    def running(self) -> int | None:
        """Give the process id, where that very process still runs."""
        try:
            record = json.loads(self._record.read_text())
        except (FileNotFoundError, ValueError):
            return None
        match record:
            case {"pid": int(pid), "started": str(started)} if _started_at(pid) == started:
                return pid
            case _:
                return None

    def supervised(self) -> int | None:
        """Give the process id, where systemd runs the service of this host."""
        if self.paths.root != DEFAULT_HOST or not BOOTED_BY_SYSTEMD.is_dir():
            return None
        unit = f"tandem-{self.name}.service"
        show = ["/usr/bin/systemctl", "show", "--property=MainPID", "--value", unit]
        shown = subprocess.run(show, capture_output=True, text=True, check=False)  # noqa: S603
        return int(shown.stdout) or None if shown.stdout.strip().isdecimal() else None

    def start(self) -> None:
        """Start the service in a session of its own and wait until it takes requests."""
        ready, told = os.pipe()
        command = [sys.executable, "-m", MODULES[self.name], "--host", str(self.paths.root)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - this very Python, a module of ours
                [*command, "--ready-fd", str(told)],
                pass_fds=[told],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(told)
        try:
            self._wait(ready, process)
            self._write_record(process.pid)
        except BaseException:  # its own error, or an interrupt here
            _end(process)
            self._forget_unless_another_runs()
            raise
        finally:
            os.close(ready)

    def stop(self) -> bool:
        """End the service in order; False where it did not run."""
        pid = self.running()
        if pid is None:
            return False
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if self.running() != pid:  # the number is another's already
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            poll = select.poll()  # select(2) takes no descriptor above 1,023
            poll.register(descriptor, select.POLLIN)
            ended = poll.poll(1000 * END_SECONDS)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        if not ended:
            raise HostError(
                "TDM-SERVICE-NOT-ENDED",
                f"the {self.name} (process {pid}) did not end in {END_SECONDS:.0f} s",
                hint=f"see {self.log}",
            )
        self._forget()
        return True

    def _forget_unless_another_runs(self) -> None:
        """Remove what a failed start left; one that failed as the second leaves the first's."""
        places = {
            "manager": self.paths.manager,
            "broker": self.paths.broker_run,
            "builder": self.paths.builder,
        }
        try:
            descriptor = os.open(places[self.name], os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return  # it did not come as far as having one
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what a running one holds
            self._forget()
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)

    def _forget(self) -> None:
        """Remove what named a service that is gone; the Manager, not root, cannot do it itself."""
        sockets = self.paths.run.glob(f"{self.name}.sock*")  # the broker has two
        for path in (self._record, *sockets):
            with suppress(OSError):  # the next start replaces it
                path.unlink(missing_ok=True)

    def _write_record(self, pid: int) -> None:
        """Write which process it is, or raise: `stop` could not find one that is not recorded."""
        record = {"pid": pid, "started": _started_at(pid)}
        try:
            self._record.write_text(json.dumps(record))
        except OSError as error:
            raise HostError(
                "TDM-SERVICE-NOT-RECORDED",
                f"cannot write {self._record}: {error.strerror}",
                hint="make room on the disk of the host's directory",
            ) from error

    def _wait(self, ready: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until the service is ready, or raise why it is not."""
        if wait_until_ready(ready, READY_SECONDS):
            return
        status = _end(process)
        raise HostError(
            "TDM-SERVICE-NOT-STARTED",
            f"the {self.name} did not start (status {status}): {_last_words(self.log)}",
            hint=f"see {self.log}",
        )


def _environment() -> dict[str, str]:
    """Give what a service needs of the caller's environment: where Python finds its modules.

    Whatever else root has in his, tokens among it, is not for processes that parse hostile input.
    """
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {"PATH": os.defpath, "LANG": "C.UTF-8", **kept}


def services(paths: HostPaths) -> list[Service]:
    """Give the host's services in the order in which they start."""
    return [Service(name=name, paths=paths) for name in MODULES]


def _end(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _started_at(pid: int) -> str | None:
    """Give when a process started, in ticks since boot: with its id, that names it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[STARTED_FIELD]


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " ".join(lines[-2:])[-600:]
