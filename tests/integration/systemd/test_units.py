"""The units as systemd reads them, and how exposed it says that they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from tandem.broker.doors import PLATFORM_NAME
from tandem.settings import BROKER_UID, DEFAULT_HOST, UID_BASE, HostPaths

UNITS = Path(__file__).parents[3] / "systemd"
# Of 10, by `systemd-analyze security`.  The builder is root: it gives each vTPM and hypervisor a
# user and a PID namespace of its own.
EXPOSURE_MOST = {"manager": 2.0, "broker": 2.0, "builder": 3.0}

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs the package systemd"
)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def unit(name: str) -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.read(UNITS / name)
    return parser


def test_systemd_understands_every_unit() -> None:
    # Given the units
    units = sorted(map(str, [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]))
    # When systemd verifies them
    said = run("systemd-analyze", "verify", *units)
    # Then it has nothing to say
    assert len(units) == 6
    assert said == ""


@pytest.mark.parametrize("name", sorted(EXPOSURE_MOST))
def test_a_service_is_exposed_no_more_than_its_duties_need(name: str) -> None:
    # Given a service
    # When systemd reckons its exposure
    said = run(
        "systemd-analyze", "security", "--offline=true", str(UNITS / f"tandem-{name}.service")
    )
    # Then it is within the limit
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", said)
    assert found is not None
    assert float(found[1]) <= EXPOSURE_MOST[name]


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-sysusers writes a whole root")
def test_users_have_the_numbers_that_files_carry(tmp_path: Path) -> None:
    # Given an empty system
    (tmp_path / "etc").mkdir()
    # When its users are made
    run("systemd-sysusers", f"--root={tmp_path}", str(UNITS / "tandem.sysusers"))
    # Then Manager and broker have the numbers of tandem.settings, and nobody logs in as them
    rows = [line.split(":") for line in (tmp_path / "etc" / "passwd").read_text().splitlines()]
    assert {row[0]: int(row[2]) for row in rows} == {
        "tandem-manager": UID_BASE,
        "tandem-broker": BROKER_UID,
    }
    assert all(row[6].endswith("nologin") for row in rows)


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-tmpfiles gives directories to users")
def test_directories_of_a_boot_are_made_and_what_the_last_one_left_is_not_there(
    tmp_path: Path,
) -> None:
    # Given a host whose sockets of an earlier boot are still there
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", str(UNITS / "tandem.sysusers"))
    host = HostPaths(tmp_path / DEFAULT_HOST.relative_to("/"))
    host.run.mkdir(parents=True)
    host.manager.mkdir()
    host.manager_socket.touch()
    # When the machine boots
    command = ["systemd-tmpfiles", f"--root={tmp_path}", "--boot", "--remove", "--create"]
    run(*command, str(UNITS / "tandem.tmpfiles"))
    # Then `run` is there without them, the broker has its directory, and the rest is untouched
    assert [each.name for each in host.run.iterdir()] == ["broker"]
    assert host.broker_run.stat().st_uid == BROKER_UID
    assert host.manager.is_dir()


def test_units_and_settings_agree() -> None:
    # Given the units and the settings
    host = HostPaths(DEFAULT_HOST)
    # When their paths and names are compared
    # Then the sockets are where clients look for them
    manager, broker = unit("tandem-manager.socket"), unit("tandem-broker.socket")
    assert manager["Socket"]["ListenSequentialPacket"] == str(host.manager_socket)
    assert manager["Socket"]["FileDescriptorName"] == "manager"
    assert broker["Socket"]["ListenStream"] == str(host.broker_socket)
    platform = unit("tandem-broker-platform.socket")
    assert platform["Socket"]["ListenStream"] == str(host.broker_platform_socket)
    assert platform["Socket"]["FileDescriptorName"] == PLATFORM_NAME
    assert f'OWNER="{UID_BASE}"' in (UNITS / "tandem.rules").read_text()
    # And each service is watched, started again, and told the same host
    for name in EXPOSURE_MOST:
        service = unit(f"tandem-{name}.service")["Service"]
        assert service["Type"] == "notify"
        assert service["WatchdogSec"] == "30"
        assert service["Restart"] == "on-failure"
        assert service["ExecStart"].endswith(f"-m tandem.{name} --host {DEFAULT_HOST}")


def test_units_are_installed_for_the_python_that_has_tandem(tmp_path: Path) -> None:
    # Given a Python that Tandem is installed in
    python = "/opt/tandem/bin/python"
    # When the units are installed for it
    make = ("make", "-C", str(UNITS.parent), "install-units", f"DESTDIR={tmp_path}")
    run(*make, f"UNIT_PYTHON={python}")
    # Then each service is started by it
    installed = sorted((tmp_path / "etc/systemd/system").glob("*.service"))
    assert [each.name for each in installed] == [
        f"tandem-{name}.service" for name in sorted(EXPOSURE_MOST)
    ]
    assert all(f"ExecStart={python} -I -m tandem." in each.read_text() for each in installed)


def test_a_python_that_services_do_not_see_is_refused(tmp_path: Path) -> None:
    # Given a Python below a home directory
    # When the units are to be installed for it
    make = ("make", "-C", str(UNITS.parent), "install-units", f"DESTDIR={tmp_path}")
    command = [*make, "UNIT_PYTHON=/home/me/.venv/bin/python"]
    done = subprocess.run(command, capture_output=True, check=False)
    # Then nothing is installed, and the reason is said
    assert done.returncode != 0
    assert b"do not see" in done.stderr
    assert list(tmp_path.iterdir()) == []
