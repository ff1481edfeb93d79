"""The vTPMs of a host by name, as the store has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.errors import Refused
from tandem.manager import records
from tandem.manager.vtpms import Vtpms, new_vtpm, revoked_serials
from tests.unit.manager.software_host import NOW, SIGNERS, software_host

LATER = int(NOW.timestamp()) + 3600


@pytest.fixture
def vtpms(tmp_path: Path) -> Vtpms:
    """Give the vTPMs of a host that has one, `web`, with serial numbers."""
    host, _ = software_host(tmp_path)
    fresh = new_vtpm(guest="web", group="default", signers=SIGNERS)
    serials = {b"\3": LATER, b"\4": LATER - 7200}
    host.vtpms.keep("web", replace(fresh, ek_serials=(b"\1", b"\2"), ak_serials=serials))
    host.store.commit()
    return host.vtpms


def test_a_change_that_was_not_written_is_forgotten(vtpms: Vtpms) -> None:
    # Given a vTPM that was destroyed, and another that was made, with a disk that took neither
    vtpms.destroy("web", NOW)
    vtpms.keep("new", new_vtpm(guest="new", group="default", signers=SIGNERS))
    vtpms._store._staged.clear()
    # When both are asked for
    vtpms.look()
    # Then the first is there as before, and the second is not
    assert vtpms.group_of("web") == "default"
    assert vtpms.group_of("new") is None
    assert list(vtpms.of("default")) == ["web"]


def test_a_vtpm_that_never_came_to_be_leaves_its_name(vtpms: Vtpms) -> None:
    # Given a first launch whose commit the disk did not take
    vtpms.keep("new", new_vtpm(guest="new", group="default", signers=SIGNERS))
    vtpms._store._staged.clear()
    # When its name is asked for
    # Then it is free
    assert vtpms.group_of("new") is None


def test_what_was_revoked_is_listed_while_it_could_be_believed(vtpms: Vtpms) -> None:
    # Given a destroyed vTPM with EK certificates, one AK certificate in force and one that ended
    vtpms.destroy("web", NOW)
    # When the group's list is made
    revoked = revoked_serials(vtpms._store, "default", NOW)
    # Then it has what has not ended by itself, and another group's list has nothing
    assert revoked == dict.fromkeys((b"\1", b"\2", b"\3"), int(NOW.timestamp()))
    assert revoked_serials(vtpms._store, "red", NOW) == {}


def test_a_vtpm_anew_has_nothing_of_the_old_one_but_its_place(vtpms: Vtpms) -> None:
    # Given a vTPM
    _, before = vtpms.get("web")
    # When it is made anew
    vtpms.make_anew("web", NOW)
    # Then guest, group and library are the same, and nothing else is
    _, after = vtpms.get("web")
    assert (after.guest, after.group, after.signers) == ("web", "default", ("a key",))
    assert not {after.vtpm_id, after.key} & {before.vtpm_id, before.key}
    assert (after.launches, after.state_version, after.ek_serials) == (0, 0, ())
    # And the tombstone names its successor
    [name] = vtpms._store.names(records.tombstone_prefix("default"))
    content = vtpms._store.get(name)
    assert content is not None
    assert records.decode(records.TombstoneRecord, content).successor == after.vtpm_id


def test_an_unknown_vtpm_is_refused_by_name(vtpms: Vtpms) -> None:
    # Given a name that no vTPM has
    # When it is destroyed
    with pytest.raises(Refused) as raised:
        vtpms.destroy("nobody", NOW)
    # Then that is refused
    assert raised.value.code == "TDM-VTPM-UNKNOWN"
