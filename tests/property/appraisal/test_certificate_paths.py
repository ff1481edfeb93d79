"""A path is found exactly where issuers lead to a root, whatever else is given; no byte is free."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.appraisal.certificate_path import find_ek_path, issuing_problem
from tandem.errors import UntrustedInput
from tandem.evidence import oids
from tandem.evidence.certificates import Certificate, parse_certificate
from tandem.evidence.der_sets import signed_part
from tests.unit.appraisal.certificate_maker import NOW, Maker, ek_maker

SIZE = 5
CAS = [Maker(f"ca-{number}") for number in range(SIZE)]
ISSUED = {
    (below, above): CAS[below].issued_by(CAS[above])
    for below in range(SIZE)
    for above in range(SIZE)
}
LEAF = ek_maker().issued_by(CAS[0])
NODES = st.integers(0, SIZE - 1)
EDGES = st.lists(st.tuples(NODES, NODES), max_size=14, unique=True)


def reachable(edges: list[tuple[int, int]], start: int) -> set[int]:
    found, new = {start}, {start}
    while new:
        new = {above for below, above in edges if below in new} - found
        found |= new
    return found


@given(edges=EDGES, roots=st.sets(NODES))
@settings(max_examples=150, deadline=None)
def test_a_path_is_found_where_and_only_where_one_is(
    edges: list[tuple[int, int]], roots: set[int]
) -> None:
    # Given CAs that certified each other in any way, loops included, and any of them as roots
    intermediates = [ISSUED[edge] for edge in edges]
    trusted = [ISSUED[root, root] for root in sorted(roots)]

    # When the path of an EK certificate by the first of them is looked for
    path = find_ek_path(LEAF, intermediates, trusted, NOW)

    # Then it is found where the issuers lead to a root, each step of it holds, and else there is a
    # reason
    assert path.found == bool(reachable(edges, 0) & roots)
    assert path.found != bool(path.problem)
    if path.found:
        assert path.certificates[0] is LEAF
        assert path.certificates[-1] in trusted
        assert all(_holds(path.certificates, at) for at in range(len(path.certificates) - 1))


@given(which=st.booleans(), at=st.integers(0), change=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore:Parsed a:Warning")
def test_a_changed_byte_of_a_certificate_breaks_the_path(which: bool, at: int, change: int) -> None:
    # Given an EK certificate and the CA above it, one of them with a signed byte changed
    middle = ISSUED[0, 1]
    der = (LEAF if which else middle).der
    signed, data = signed_part(der), bytearray(der)
    data[der.index(signed) + at % len(signed)] ^= change
    try:
        changed = parse_certificate(bytes(data))
    except UntrustedInput:
        return

    # When the path is looked for
    leaf, intermediate = (changed, middle) if which else (LEAF, changed)
    path = find_ek_path(leaf, [intermediate], [ISSUED[1, 1]], NOW)

    # Then there is none
    assert not path.found


def _holds(path: tuple[Certificate, ...], at: int) -> bool:
    problem = issuing_problem(path[at], path[at + 1], below=at, purpose=oids.EK_CERTIFICATE, at=NOW)
    return not problem
