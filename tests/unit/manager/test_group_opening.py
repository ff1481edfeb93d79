"""Groups are opened after the start, one by one; what stays closed is said."""

from __future__ import annotations

import io
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tandem.log import Log
from tandem.manager.group_opening import PAUSE, GroupOpening
from tandem.manager.groups import GroupTerms, found_group
from tests.unit.manager.software_host import NOW, software_host


def test_groups_are_opened_one_by_one_and_a_closed_one_is_named(tmp_path: Path) -> None:
    # Given the host's own group, which is open, one that opens with it, and one nobody approved
    host, _ = software_host(tmp_path)
    tenant = ec.generate_private_key(ec.SECP256R1()).public_key()
    for name, authority in (("own", None), ("red", tenant)):
        terms = GroupTerms(name=name, authority=authority)
        host.groups.keep(name, found_group(host.ptpm, terms, NOW))
    host.store.commit()
    printed = io.StringIO()
    opening = GroupOpening(host.groups, Log("manager", printed))
    # When the loop has time
    first = opening.due(1.0)
    opening.run(1.0)
    second = opening.due(1.0)
    opening.run(2.0)
    # Then each is tried once, with a pause between, and the log names the one that stays closed
    assert first == 0.0
    assert second is not None
    assert second >= PAUSE
    assert opening.due(3.0) is None
    assert [host.groups.is_open(name) for name in ("default", "own", "red")] == [True, True, False]
    [line] = printed.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["group"], said["code"]) == (
        "group.closed",
        "red",
        "TDM-GROUP-CLOSED",
    )


def test_a_group_that_is_removed_before_its_turn_is_no_error(tmp_path: Path) -> None:
    # Given a closed group, and its end
    host, _ = software_host(tmp_path)
    host.groups.keep("own", found_group(host.ptpm, GroupTerms(name="own", authority=None), NOW))
    opening = GroupOpening(host.groups, Log("manager", io.StringIO()))
    host.groups.remove("own")
    # When its turn comes
    opening.run(1.0)
    # Then nothing happens
    assert opening.due(2.0) is None
