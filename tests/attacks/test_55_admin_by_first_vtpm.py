"""55: whoever comes first becomes the administrator (R12, DESIGN section 12).

Attacker: a guest.
Control: a model of Xen's vtpmmgr, which has no swtpm to stand for it: the first vTPM of group 0,
known by nothing but its UUID, gets VTPM_FLAG_ADMIN, and vtpm-stubdom forwards the guest's own
packets of the management command set (stubdom/vtpmmgr, vtpm_cmd_handler.c).
Shows: a vTPM's channel has no such message (TDM-MESSAGE-UNKNOWN), and root on the socket is nobody
without the credential (TDM-ADMIN-NOT-SIGNED).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem.channel import Channel, Closed
from tandem.errors import TandemError
from tandem.wire.administration import ACTIONS, AddGroup, DestroyVtpm
from tandem.wire.group_rpc import Administer, Administered, AskChallenge, AskVtpms, Challenge, Names
from tandem.wire.manager_rpc import BUILDER_ANSWERS, BUILDER_REQUESTS
from tests.unit.manager.running_service import RunningService


@dataclass
class Vtpmmgr:
    """Who may manage, as vtpmmgr decides it."""

    flags: dict[str, bool] = field(default_factory=dict)

    def save_hash_key(self, uuid: str) -> None:
        """An unknown UUID makes a slot in group 0; the first one there is the administrator's."""
        self.flags.setdefault(uuid, not self.flags)

    def manage(self, uuid: str) -> str:
        return "done" if self.flags.get(uuid) else "refused"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    running = RunningService(tmp_path)
    yield running
    running.close()


def test_control_the_first_vtpm_manages_the_host() -> None:
    # Given a fresh vtpmmgr, whose administrator has not started his own vTPM yet
    manager = Vtpmmgr()
    # When a guest's vTPM comes first, under a UUID that nobody knows
    manager.save_hash_key("guest")
    manager.save_hash_key("administrator")
    # Then it may manage all groups, and the administrator may not
    assert (manager.manage("guest"), manager.manage("administrator")) == ("done", "refused")


@pytest.mark.parametrize(
    "message",
    [
        AskChallenge(),
        Administer(action=ACTIONS.encode(DestroyVtpm(group="default", vtpm="a")), signature=b""),
    ],
)
def test_the_first_vtpm_of_a_host_is_nobody(service: RunningService, message: object) -> None:
    # Given a fresh host, and its very first vTPM
    builder = service.connect()
    vtpm, _ = service.prepared_vtpm(builder, "first")
    # When it sends what administrators send, over the only channel that it has
    forward = Channel(vtpm.sock, sends=BUILDER_REQUESTS, receives=BUILDER_ANSWERS)
    with pytest.raises(TandemError) as raised:
        forward.ask(message, Administered)
    # Then there is no such message there, and the channel is closed
    assert raised.value.code == "TDM-MESSAGE-UNKNOWN"
    with pytest.raises(Closed):
        forward.receive()
    assert builder.ask(AskVtpms(group="default", after=""), Names).names == ("first",)


def test_being_root_on_the_socket_administers_nothing(service: RunningService) -> None:
    # Given a connection of the host's root, and keys that are nobody's
    builder = service.connect()
    group = AddGroup(
        group="mine", authority=b"", signers=(), vtpms_most=1, running_most=1, commits_most=1
    )
    # When it administers without the right signature
    for action in (group, DestroyVtpm(group="default", vtpm="first")):
        builder.ask(AskChallenge(), Challenge)
        with pytest.raises(TandemError) as raised:
            builder.ask(Administer(action=ACTIONS.encode(action), signature=b""), Administered)
        # Then it is refused: administration has a credential of its own
        assert raised.value.code == "TDM-ADMIN-NOT-SIGNED"
