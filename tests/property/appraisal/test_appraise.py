"""No evidence makes the appraisal raise, and none but the true evidence is trusted."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.appraisal.appraise import appraise
from tandem.appraisal.report import write_report
from tandem.appraisal.rules import OPTIONAL, Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.deep_quote import DeepQuote, frame_answer
from tests.unit.appraisal.forge import NONCE, NOW, Forge

FORGE = Forge()
POLICY = FORGE.policy()
ANSWER = FORGE.answer()
GIVEN = FORGE.given()
BYTE_FIELDS = [
    field.name for field in fields(DeepQuote) if isinstance(getattr(ANSWER, field.name), bytes)
]


@given(st.sampled_from(BYTE_FIELDS), st.integers(0), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_anywhere_is_not_trusted(name: str, at: int, change: int) -> None:
    # Given true evidence with one byte changed
    value = bytearray(getattr(ANSWER, name) or b"\0")
    value[at % len(value)] ^= change
    changes: dict[str, Any] = {name: bytes(value)}
    answer = replace(ANSWER, **changes)

    # When it is appraised
    verdict = appraise(frame_answer(answer.encode()), POLICY, NONCE, NOW, GIVEN)

    # Then it is not trusted, every rule has its finding, and the report can be written
    assert verdict.tier > Tier.AFFIRMING
    found = {each.rule for each in verdict.findings}
    assert {rule.title for rule in Rule if rule not in OPTIONAL} <= found
    assert len(found) == len(verdict.findings)
    assert "<script" not in write_report(verdict, NONCE, NOW)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_part_of_any_value_is_never_an_exception(data: Any) -> None:
    # Given true evidence with one part replaced by any value of its type
    name = data.draw(st.sampled_from([field.name for field in fields(DeepQuote)]))
    old = getattr(ANSWER, name)
    kinds = {
        bytes: st.binary(max_size=200),
        int: st.integers(0, (1 << 64) - 1),
        str: st.text(max_size=20),
        tuple: st.lists(st.binary(min_size=32, max_size=32), max_size=25).map(tuple),
        dict: st.dictionaries(st.integers(0, 1 << 40), st.binary(min_size=32, max_size=32)),
    }
    new = data.draw(kinds[type(old)])
    answer = replace(ANSWER, **{name: new})

    # When it is appraised
    verdict = appraise(frame_answer(answer.encode()), POLICY, NONCE, NOW, GIVEN)

    # Then there is a verdict, and trust only where nothing that counts changed
    assert verdict.tier > Tier.AFFIRMING or new == old


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_have_a_verdict(evidence: bytes) -> None:
    # Given any bytes
    # When they are appraised
    verdict = appraise(evidence, POLICY, NONCE, NOW)

    # Then they are not trusted
    assert verdict.tier is Tier.CONTRAINDICATED


@given(st.sampled_from(["host_log", "ima_log"]), st.integers(0), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_of_a_hosts_log_is_not_trusted(which: str, at: int, change: int) -> None:
    # Given true evidence, and a host's log with one byte changed
    value = bytearray(getattr(GIVEN, which))
    value[at % len(value)] ^= change
    given = replace(GIVEN, **{which: bytes(value)})

    # When it is appraised
    verdict = appraise(frame_answer(ANSWER.encode()), POLICY, NONCE, NOW, given)

    # Then it is not trusted
    assert verdict.tier is Tier.CONTRAINDICATED
