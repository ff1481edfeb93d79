"""Whatever a host sends, the attester answers lines and breaks at nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tandem.attester.request import Request
from tandem.attester.serve import LineReader, answer


def evidence(request: Request) -> dict[str, str]:
    return {"answer": request.nonce.hex()}


@given(line=st.one_of(st.binary(max_size=2000), st.text().map(str.encode)))
def test_any_line_at_all_has_an_answer(line: bytes) -> None:
    # Given any bytes at all
    # When they are taken as a request
    record = json.loads(answer(line, evidence))

    # Then the answer is evidence or says what is wrong
    assert record.keys() in ({"answer"}, {"error"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(nonce=JSON | st.just("00" * 32), user_data=JSON | st.just(""), pcrs=JSON)
def test_any_value_in_any_field_has_an_answer(
    nonce: object, user_data: object, pcrs: object
) -> None:
    # Given a request whose fields hold anything
    line = json.dumps({"nonce": nonce, "user_data": user_data, "pcrs": pcrs}).encode()

    # When it is taken
    record = json.loads(answer(line, evidence))

    # Then the answer is evidence or says what is wrong
    assert record.keys() in ({"answer"}, {"error"})


@given(
    lines=st.lists(st.binary(min_size=1, max_size=40).filter(bytes.isalnum), max_size=5),
    cut=st.integers(min_value=1, max_value=16),
)
def test_lines_arrive_whole_however_the_port_splits_them(lines: list[bytes], cut: int) -> None:
    # Given several lines as one stream, in pieces of any size
    stream = b"".join(line + b"\n" for line in lines)
    pieces = [stream[start : start + cut] for start in range(0, len(stream), cut)]

    # When the reader takes them
    reader = LineReader()
    found = [line for piece in pieces for line in reader.feed(piece)]

    # Then the same lines come out in the same order
    assert found == lines
