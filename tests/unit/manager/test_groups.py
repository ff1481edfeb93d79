"""A vTPM stays with its guest and its group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tandem.errors import Refused
from tandem.manager import records
from tandem.manager.pairs import Pairs
from tandem.wire.manager_rpc import OpenPair
from tests.unit.manager.software_host import NOW, open_pair, software_host


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Give the pairs of a host with two groups, and a persistent vTPM `web` of the first."""
    host, _ = software_host(tmp_path)
    host.store.stage(
        records.group_id("second"), records.encode(records.GroupRecord(ca_certificate=b""))
    )
    host.store.commit()
    pairs = Pairs(host, lambda: NOW)
    pair, _ = pairs.open(open_pair())
    pairs.close(pair.pair_id)
    return pairs


@pytest.mark.parametrize(
    ("asked", "owner"),
    [
        (replace(open_pair(), group="second"), "guest web in group default"),
        (open_pair(guest="thief"), "guest web in group default"),
    ],
)
def test_a_vtpm_is_not_lent(pairs: Pairs, asked: OpenPair, owner: str) -> None:
    # Given a vTPM of one guest in one group
    # When another guest, or the same name in another group, asks for it
    with pytest.raises(Refused) as raised:
        pairs.open(asked)
    # Then it is refused and the owner named, and the owner's next launch is the second
    assert raised.value.code == "TDM-VTPM-OF-ANOTHER"
    assert owner in raised.value.problem
    assert pairs.open(open_pair())[1].launch_number == 2
