"""A vTPM whose state is lost: refused, given up by its administrator, never replaced by itself."""

from __future__ import annotations

import shutil

import pytest

from tests.integration.builder.running_host import RunningHost


@pytest.fixture
def key(host: RunningHost) -> str:
    """The key of the host's own group's administrator."""
    return str(host.directory / "approval.key")


def test_a_lost_state_is_given_up_by_an_explicit_act_alone(host: RunningHost, key: str) -> None:
    # Given a guest that ran, and whose vTPM's state is gone from the disk
    host.start()
    running = host.refusal("vtpm", "anew", "web", "--key", key)
    host.tandem("guest", "stop", "web", "--kill")
    before = host.ask("vtpm", "show", "web")
    shutil.rmtree(host.host / "vtpm" / "web")
    # When it is started, and then given up
    refused = host.refusal("guest", "start", "web")
    given_up = host.ask("vtpm", "anew", "web", "--key", key)
    host.start()
    after = host.ask("vtpm", "show", "web")
    # Then the start is refused first, and made with another vTPM of the same name after that
    assert running["code"] == "TDM-VTPM-IN-USE"
    assert refused["code"].startswith("TDM-STATE-")
    assert (given_up["was"], given_up["is"]) == (before["id"], after["id"])
    assert before["id"] != after["id"]
    assert (after["guest"], after["launches"]) == ("web", 1)
    assert not set(before["ek_certificates"]) & set(after["ek_certificates"])


def test_a_destroyed_vtpm_leaves_nothing_on_the_disk(host: RunningHost, key: str) -> None:
    # Given a guest that ran and ended
    host.start()
    host.tandem("guest", "stop", "web", "--kill")
    # When its vTPM is destroyed
    host.tandem("vtpm", "destroy", "web", "--key", key)
    # Then its state is gone, nobody knows it, and its guest's next start makes another
    assert not (host.host / "vtpm" / "web").exists()
    assert host.ask("vtpm", "list")["vtpms"] == {"default": []}
    host.start()
    assert host.ask("vtpm", "show", "web")["launches"] == 1
