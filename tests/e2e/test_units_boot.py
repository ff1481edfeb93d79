"""The units in a machine that boots systemd: the confinement does not break what it confines."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from systemd_machine import Done, run_steps

BROKER = '-T "cmd:/usr/local/bin/tandem tpm"'
SERVICES = "tandem-manager tandem-broker tandem-builder"
SOCKETS = "tandem-manager.socket tandem-broker.socket tandem-broker-platform.socket"
START = f"systemctl start {SOCKETS} {SERVICES}"
STATE = f"systemctl show -p Id,ActiveState,NRestarts,User {SERVICES}"
WATCHDOG = 10  # seconds, in place of the unit's 30
STEPS = {
    "users": "systemd-sysusers && systemd-tmpfiles --create && useradd ann",
    "device": "udevadm control --reload && udevadm trigger --subsystem-match=tpm"
    " --subsystem-match=tpmrm && udevadm settle && stat -c '%n %a %U' /dev/tpm0 /dev/tpmrm0",
    "init": "tandem host init --ptpm /dev/tpm0 --pcrs 0,1,2,3,4,5,6,7",
    "rights": "printf '[default]\\nread_registers = true\\n' >/var/lib/tandem/broker.toml",
    "quick": "mkdir -p /run/systemd/system/tandem-manager.service.d &&"
    f" printf '[Service]\\nWatchdogSec={WATCHDOG}\\n'"
    " >/run/systemd/system/tandem-manager.service.d/quick.conf && systemctl daemon-reload",
    "start": START,
    "state": STATE,
    "status": "tandem host status --json",
    "log": "tandem host log -o /dev/null",
    "metrics": "tandem host metrics",
    "capabilities": "for each in manager broker; do grep CapEff"
    " /proc/$(systemctl show -P MainPID tandem-$each)/status; done",
    "stranger": "su ann -c 'tandem --host /var/lib/tandem host status'",
    "random": f"su ann -c 'tpm2_getrandom {BROKER} --hex 8'",
    "stock": "su ann -c 'tpm2_getrandom -T mssim:path=/var/lib/tandem/run/broker.sock --hex 8'",
    "clear": f"su ann -c 'tpm2_clear {BROKER}'",
    "past": "su ann -c 'tpm2_getrandom -T device:/dev/tpmrm0 --hex 8'",
    "hang": "kill -STOP $(systemctl show -P MainPID tandem-manager) && for _ in $(seq 60); do"
    " sleep 2; systemctl show -P NRestarts -P ActiveState tandem-manager | xargs"
    " | grep -qx '1 active' && break; done",
    "after-hang": STATE,
    "status-after-hang": "tandem host status --json",
    "stop": f"systemctl stop {SERVICES} {SOCKETS}",
    "ended": STATE,
    "embedded": "rm -r /var/lib/tandem && systemd-tmpfiles --create"
    f" && rm tandem-approval.key && tandem host init && systemctl reset-failed && {START}",
    "status-embedded": "tandem host status --json",
    "fields": "journalctl -o cat TANDEM_EVENT=host.opened SYSLOG_IDENTIFIER=tandem-manager",
    "journal": "journalctl -o cat -u tandem-manager -u tandem-broker -u tandem-builder",
}

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root, debootstrap"
    ),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def done() -> dict[str, Done]:
    """Boot the machine once; each test looks at what came of its steps."""
    return run_steps(STEPS)


def states(done: Done) -> dict[str, dict[str, str]]:
    """Read what `systemctl show` says of each unit."""
    units = [dict(re.findall(r"(\w+)=(.*)", part)) for part in done.output.strip().split("\n\n")]
    return {unit["Id"]: unit for unit in units}


def test_the_services_run_confined_on_a_tpm_of_the_kernels(done: dict[str, Done]) -> None:
    # Given a machine with a TPM behind the kernel's driver
    assert done["device"].output.split() == [
        *("/dev/tpm0", "600", "tandem-manager", "/dev/tpmrm0", "600", "root")
    ]
    # When the host is made and its services are started
    for step in ("users", "init", "rights", "start"):
        assert done[step].status == 0, (done[step].output, done["journal"].output)
    # Then each runs, at the first try, as its user, and Manager and broker without a capability
    for name, unit in states(done["state"]).items():
        assert (unit["ActiveState"], unit["NRestarts"]) == ("active", "0"), name
    assert re.findall(r"CapEff:\t(\w+)", done["capabilities"].output) == ["0" * 16] * 2
    # And the Manager serves, with the log that the firmware left
    assert json.loads(done["status"].output)["hardware_root"] is True
    assert done["log"].status == 0, done["log"].output
    assert 'tandem_ptpm_command_seconds_count{command="readclock"}' in done["metrics"].output


def test_the_journal_knows_the_fields_of_an_event(done: dict[str, Done]) -> None:
    # Given the Manager's first event under systemd
    # When the journal is asked by fields
    line = done["fields"].output.strip().splitlines()[0]
    # Then it is there, whole
    assert json.loads(line)["hardware_root"] is True


def test_users_reach_the_tpm_by_the_broker_alone(done: dict[str, Done]) -> None:
    # Given an unprivileged user
    # When she asks the Manager, the kernel, and the broker
    # Then the first two refuse her, and the broker serves what its rights allow
    assert done["stranger"].status != 0
    assert "Permission denied" in done["stranger"].output
    assert done["past"].status != 0
    for step in ("random", "stock"):
        assert re.fullmatch(r"[0-9a-f]{16}\s*", done[step].output), done[step].output
    assert done["clear"].status != 0


def test_a_hung_manager_is_started_again_by_the_watchdog(done: dict[str, Done]) -> None:
    # Given a Manager whose loop stands still
    assert done["hang"].status == 0
    # When the watchdog's time is over
    unit = states(done["after-hang"])["tandem-manager.service"]
    # Then systemd has killed it and started it again, and it serves
    assert (unit["ActiveState"], unit["NRestarts"]) == ("active", "1")
    assert "Watchdog timeout" in done["journal"].output
    assert json.loads(done["status-after-hang"].output)["hardware_root"] is True


def test_the_services_end_in_order_and_run_an_embedded_tpm_as_well(done: dict[str, Done]) -> None:
    # Given services that were stopped
    assert done["stop"].status == 0
    assert {unit["ActiveState"] for unit in states(done["ended"]).values()} == {"inactive"}
    # When a host without a TPM is made in their place
    assert done["embedded"].status == 0, (done["embedded"].output, done["journal"].output)
    # Then the confined Manager runs its own swtpm
    assert json.loads(done["status-embedded"].output)["ptpm"] == "embedded"
