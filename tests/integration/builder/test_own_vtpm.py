"""The host's own vTPM where this machine's kernel cannot make its device, and its name."""

from __future__ import annotations

import pytest

from tandem.hypervisor.vtpm_proxy import PROXY
from tests.integration.builder.running_host import RunningHost

ABSENT = pytest.mark.skipif(PROXY.exists(), reason="this kernel has the module loaded")


@ABSENT
def test_without_the_module_the_command_says_so_by_name(host: RunningHost) -> None:
    # Given a host whose kernel has no /dev/vtpmx
    # When its vTPM is started
    refusal = host.refusal("host", "vtpm", "start")
    # Then the error names what is missing and how to load it, and no launch was opened
    assert refusal["code"] == "TDM-HOST-VTPMX-ABSENT"
    assert "modprobe tpm_vtpm_proxy" in refusal["hint"]
    assert host.ask("host", "vtpm", "status") == {"state": "never started"}
    assert not (host.host / "vtpm" / "host").exists()


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        pytest.param("start = true\n", "TDM-HOST-VTPMX-ABSENT", marks=ABSENT),
        ("strat = true\n", "TDM-HOST-VTPM-SETTINGS"),
    ],
)
def test_a_host_whose_vtpm_cannot_start_says_so_and_runs(settings: str, code: str) -> None:
    # Given settings that want a vTPM, or have a typing error
    host = RunningHost()
    try:
        host.tandem("host", "down")
        (host.host / "host-vtpm.toml").write_text(settings)
        # When the host is started
        refusal = host.refusal("host", "up")
        # Then the command fails with the reason, and everything else runs
        assert refusal["code"] == code
        assert all(host.services().values())
        assert host.ask("host", "vtpm", "status")["failure"]["code"] == code
    finally:
        host.close()


def test_a_vtpm_that_does_not_run_cannot_be_stopped(host: RunningHost) -> None:
    # Given a host without a vTPM of its own
    # When it is stopped
    refusal = host.refusal("host", "vtpm", "stop")
    # Then that is refused by name
    assert refusal["code"] == "TDM-HOST-VTPM-NOT-RUNNING"


def test_no_guest_takes_the_name_of_the_hosts_vtpm(host: RunningHost) -> None:
    # Given a library
    # When a guest is to be started under the name that the host's vTPM has at the Manager
    refusal = host.refusal("guest", "start", "host", "--entry", "web")
    # Then it is refused: it would get the host's keys
    assert refusal["code"] == "TDM-GUEST-NAME-RESERVED"
