"""Host states and approvals of any shape: written and read, and never two with one policy."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.evidence.host_approval import (
    approve,
    authorized_policy,
    check_approval,
    parse_approval,
    policy_reference,
    write_approval,
)
from tandem.evidence.host_state import (
    HostState,
    StateDocument,
    parse_state,
    pcr_policy,
    write_state,
)

KEY = ec.generate_private_key(ec.SECP256R1())
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
SUBJECTS = st.just("host") | NAMES.map(lambda name: f"group/{name}")
GENERATIONS = st.integers(1, (1 << 63) - 1)


@st.composite
def states(draw: st.DrawFn) -> HostState:
    registers = draw(st.sets(st.integers(0, 23), min_size=1, max_size=8))
    sizes = {"sha256": 32} | draw(st.sampled_from([{}, {"sha384": 48}]))
    return HostState(
        banks={
            bank: {each: draw(st.binary(min_size=size, max_size=size)) for each in registers}
            for bank, size in sizes.items()
        }
    )


DOCUMENTS = st.builds(StateDocument, subject=SUBJECTS, generation=GENERATIONS, state=states())


@given(DOCUMENTS)
@settings(max_examples=50, deadline=None)
def test_any_state_is_read_as_it_was_written_and_approved(document: StateDocument) -> None:
    # Given any state of any subject and generation
    # When it is written, read, approved, and the approval written and read
    again = parse_state(write_state(document))
    approval = parse_approval(write_approval(approve(again, KEY)))
    # Then it is the same, and its signature holds
    assert again == document
    assert (approval.subject, approval.generation, approval.state) == (
        document.subject,
        document.generation,
        document.state,
    )
    check_approval(approval, KEY.public_key())


@given(states(), states())
def test_two_states_have_two_policies(one: HostState, other: HostState) -> None:
    # Given any two states
    # When their policies are computed
    # Then they are the same for the same state alone, whatever registers and banks they have
    assert (pcr_policy(one) == pcr_policy(other)) == (one == other)
    assert (one.differing(other) == ()) == (one == other)


@given(st.tuples(SUBJECTS, GENERATIONS), st.tuples(SUBJECTS, GENERATIONS))
def test_two_purposes_have_two_references(one: tuple[str, int], other: tuple[str, int]) -> None:
    # Given any two subjects with generations
    key = KEY.public_key()
    # When their references, and the policies of what is sealed for them, are computed
    # Then they are the same for the same purpose alone
    assert (policy_reference(*one) == policy_reference(*other)) == (one == other)
    assert (authorized_policy(key, *one) == authorized_policy(key, *other)) == (one == other)
