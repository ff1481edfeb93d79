"""No change of any byte of a slot opens as a state."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import Refused
from tandem.values import Secret
from tandem.vtpm.state import StateSlots, VtpmState

KEY, VTPM_ID = Secret(bytes(32)), bytes(16)


@given(position=st.integers(min_value=0), change=st.integers(min_value=1, max_value=255))
def test_a_slot_with_one_byte_changed_is_refused(position: int, change: int) -> None:
    # Given a state in its slot, and one byte of it changed
    slots = [os.memfd_create("slot") for _ in range(2)]
    try:
        store = StateSlots(slots, KEY, VTPM_ID)
        digest = store.write(VtpmState(engine=b"state", ek=b"ek", ak=b"ak"))
        content = bytearray(os.pread(slots[0], 4096, 0))
        content[position % len(content)] ^= change
        os.pwrite(slots[0], content, 0)

        # When it is opened
        with pytest.raises(Refused) as refusal:
            StateSlots(slots, KEY, VTPM_ID).read_newest(1, digest)
    finally:
        for slot in slots:
            os.close(slot)

    # Then it is refused by name
    assert refusal.value.code in {"TDM-STATE-DAMAGED", "TDM-STATE-OLDER"}
