"""Services as processes: one is known by its id and its start, so no other is taken for it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tandem.cli import services
from tandem.cli.services import Service
from tandem.errors import HostError
from tandem.settings import DEFAULT_HOST, HostPaths

SELECT_MOST = 1024  # FD_SETSIZE


@pytest.fixture
def service(tmp_path: Path) -> Service:
    paths = HostPaths(tmp_path)
    paths.run.mkdir()
    paths.manager.mkdir()
    return Service(name="manager", paths=paths)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def record(service: Service, **fields: object) -> None:
    (service.paths.run / "manager.pid").write_text(json.dumps(fields))


def ready_program(service: Service) -> Path:
    """Write a program that says at once that it is ready, and runs on."""
    program = service.paths.root / "python"
    program.write_text(
        '#!/bin/sh\nfor last; do :; done\nprintf "\\1" > /proc/self/fd/$last\nexec sleep 60\n'
    )
    program.chmod(0o755)
    return program


def test_a_service_is_the_process_that_was_started(
    service: Service, sleeper: subprocess.Popen[bytes]
) -> None:
    # Given the record of a process
    record(service, pid=sleeper.pid, started=services._started_at(sleeper.pid))
    # When it is asked for, and stopped
    assert service.running() == sleeper.pid
    assert service.stop()
    # Then it ended, and is not found again
    assert sleeper.wait(5) == -15
    assert service.running() is None


def test_a_service_is_started_and_stopped_with_a_thousand_files_open(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a process that has more files open than select(2) can name, and a service that starts
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    monkeypatch.setattr(sys, "executable", str(ready_program(service)))
    with ExitStack() as files:
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while files.enter_context(open(os.devnull)).fileno() < SELECT_MOST:
            pass
        # When it is started and stopped
        service.start()
        stopped = service.stop()
    # Then it is both
    assert stopped


def test_a_process_with_the_same_number_is_another(
    service: Service, sleeper: subprocess.Popen[bytes]
) -> None:
    # Given a record whose number another process has now
    record(service, pid=sleeper.pid, started="1")
    # When the service is stopped
    stopped = service.stop()
    # Then that process is left alone
    assert not stopped
    assert sleeper.poll() is None


@pytest.mark.parametrize(
    "content",
    ["", "noise", "[]", "{}", '{"pid": "1", "started": 2}', '{"pid": 1}', "null", '{"pid": -1}'],
)
def test_a_record_that_makes_no_sense_names_nobody(service: Service, content: str) -> None:
    # Given a damaged record
    (service.paths.run / "manager.pid").write_text(content)
    # When the service is looked for and stopped
    # Then there is none
    assert service.running() is None
    assert not service.stop()


def test_a_service_that_dies_tells_its_last_words(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a service that cannot run
    monkeypatch.setitem(services.MODULES, "manager", "tandem.there_is_none")
    # When it is started
    with pytest.raises(HostError) as raised:
        service.start()
    # Then the error shows what it printed, and nothing is recorded
    assert raised.value.code == "TDM-SERVICE-NOT-STARTED"
    assert "there_is_none" in raised.value.problem
    assert service.running() is None


def test_a_service_that_cannot_be_recorded_is_ended(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a service that starts, and a record that cannot be written
    monkeypatch.setattr(sys, "executable", str(ready_program(service)))
    (service.paths.run / "manager.pid").mkdir()
    children = set(_children())
    # When it is started
    with pytest.raises(HostError) as raised:
        service.start()
    # Then that is the error, and the process does not run on unknown to anybody
    assert raised.value.code == "TDM-SERVICE-NOT-RECORDED"
    assert set(_children()) == children


def test_a_process_that_waits_to_be_reaped_does_not_run(service: Service) -> None:
    # Given a process that ended and was not waited for
    process = subprocess.Popen(["sleep", "60"])
    record(service, pid=process.pid, started=services._started_at(process.pid))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # When it is looked for
    # Then it does not run
    assert service.running() is None
    process.wait()


def test_services_start_in_their_order(tmp_path: Path) -> None:
    # Given a host
    # When its services are listed
    # Then the Manager, which the builder needs, comes first
    names = [each.name for each in services.services(HostPaths(tmp_path))]
    assert names == ["manager", "broker", "builder"]


def _children() -> list[str]:
    pid = os.getpid()
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_service_of_systemds_is_found_for_the_hosts_own_directory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a machine that systemd booted, where it runs the Manager
    monkeypatch.setattr(services, "BOOTED_BY_SYSTEMD", tmp_path)
    shown = subprocess.CompletedProcess([], 0, stdout="4321\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: shown)
    # When it is asked what runs
    own = Service(name="manager", paths=HostPaths(DEFAULT_HOST)).supervised()
    other = Service(name="manager", paths=HostPaths(tmp_path)).supervised()
    # Then it is the host's of the default directory, for the units name that one
    assert (own, other) == (4321, None)
    shown.stdout = "0\n"
    assert Service(name="manager", paths=HostPaths(DEFAULT_HOST)).supervised() is None
