"""Whatever a hypervisor asks in whatever order, a started guest's TPM is never started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.vtpm.session import Phase, Session, decide, starting
from tandem.wire.control import BODIES, EMPTY_BODY, Command, Request

START = "start"


@st.composite
def requests(draw: st.DrawFn) -> Request:
    command = draw(st.sampled_from(Command))
    body = BODIES.get(command, EMPTY_BODY)
    return Request(
        command=command, fields=body.unpack(draw(st.binary(min_size=body.size, max_size=body.size)))
    )


@given(walk=st.lists(st.one_of(st.just(START), requests()), max_size=30))
def test_a_guest_starts_its_tpm_once_at_most(walk: list[Request | str]) -> None:
    # Given a fresh vTPM
    session = Session(buffer_size=4096, smallest_buffer=2808, largest_buffer=4096)
    starts = 0

    # When anything at all is asked, and Startup tried at any moment
    for step in walk:
        if isinstance(step, Request):
            session = decide(session, step).session
        elif (began := starting(session)) is not None:
            session, starts = began, starts + 1

        # Then there is one launch at most, at locality 0 or 1, in a buffer that the engine has
        assert starts <= 1
        assert session.locality in (0, 1)
        assert 2808 <= session.buffer_size <= 4096
        assert starts == 0 or session.phase in (Phase.STARTED, Phase.HALTED, Phase.ENDED)
