"""A guest chooses its registers, its log and the words in it: none of them buys a verdict."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.appraisal.firmware import appraise_firmware
from tandem.appraisal.verdict import Tier
from tandem.evidence.event_log import EV_NO_ACTION, STARTUP_LOCALITY, Event, parse_event_log
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE
from tandem.evidence.pcr_values import replay
from tandem.evidence.prediction import REGISTERS
from tandem.evidence.uefi_boot import variable_data
from tests.unit.appraisal.test_firmware import EVENTS, LOG, PREDICTION, QUOTED, log_of

KINDS = (0x80000001, 0x80000003, 0x80000007, 0x800000E0, 0x0D, 0x04, 0x06, 0x80000006)
WORDS = (
    b"",
    variable_data(EFI_GLOBAL_VARIABLE, "SecureBoot", b"\1"),
    variable_data(IMAGE_SECURITY_DATABASE, "db", b"key"),
    bytes.fromhex("ec223b8f00000000"),
    "quiet\0".encode("utf-16-le"),
)
SEEN = tuple(event.digests["sha256"] for event in EVENTS)
EXTENDED = st.builds(
    Event,
    offset=st.just(0),
    register=st.sampled_from(REGISTERS),
    kind=st.sampled_from(KINDS),
    digests=st.fixed_dictionaries(
        {"sha256": st.sampled_from((*SEEN, *(hashlib.sha256(each).digest() for each in WORDS)))}
    ),
    data=st.sampled_from(WORDS) | st.binary(max_size=80),
)
STARTED = st.builds(
    Event,
    offset=st.just(0),
    register=st.just(0),
    kind=st.just(EV_NO_ACTION),
    digests=st.just({"sha256": bytes(32)}),
    data=st.sampled_from([STARTUP_LOCALITY + bytes([each]) for each in (0, 3, 4)]),
)
PLACES = st.integers(0, len(EVENTS))


@given(
    left_out=st.sets(PLACES, max_size=2),
    added=st.lists(st.tuples(PLACES, EXTENDED | STARTED), max_size=2),
    renamed=st.dictionaries(PLACES, st.tuples(st.sampled_from(KINDS), st.sampled_from(WORDS)),
                            max_size=2),
    told=st.sampled_from(("all", "nothing", "the predicted boot's")),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_only_the_predicted_registers_are_affirmed(
    left_out: set[int],
    added: list[tuple[int, Event]],
    renamed: dict[int, tuple[int, bytes]],
    told: str,
) -> None:
    # Given a boot in which events were left out and added, and a log that calls some by other names
    events = []
    for place, event in enumerate(EVENTS):
        events += [extra for at, extra in added if at == place]
        kind, data = renamed.get(place, (event.kind, event.data))
        if place not in left_out:
            events.append(replace(event, kind=kind, data=data))
    log = log_of(tuple(events))
    replayed = replay(parse_event_log(log))["sha256"]
    values = {each: replayed.get(each, bytes(32)) for each in REGISTERS}

    # When its registers are appraised with that log, without one, or with another's
    given_log = {"all": log, "nothing": None, "the predicted boot's": LOG}[told]
    findings = appraise_firmware(PREDICTION, values, given_log, True)

    # Then all is affirmed if the registers are those that were predicted, and else it is not
    affirmed = {each.tier for each in findings} == {Tier.AFFIRMING}
    assert affirmed == (values == QUOTED)
