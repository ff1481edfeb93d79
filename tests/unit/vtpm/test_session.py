"""The table of the control channel, walked whole."""

from __future__ import annotations

import itertools

import pytest

from tandem.vtpm.session import (
    LIVE,
    TABLE,
    Act,
    Phase,
    Session,
    decide,
    not_started,
    starting,
)
from tandem.wire.control import BODIES, EMPTY_BODY, RESPONSE_SIZES, Command, Request

FRESH = Session(buffer_size=4096, smallest_buffer=2808, largest_buffer=4096)
REFUSED = (
    Command.HASH_START, Command.HASH_DATA, Command.HASH_END, Command.GET_STATEBLOB,
    Command.SET_STATEBLOB, Command.STORE_VOLATILE, Command.GET_CONFIG, Command.GET_INFO,
    Command.LOCK_STORAGE,
)  # fmt: skip


def in_phase(phase: Phase) -> Session:
    return Session(phase=phase, buffer_size=4096, smallest_buffer=2808, largest_buffer=4096)


def request(command: Command) -> Request:
    body = BODIES.get(command, EMPTY_BODY)
    return Request(command=command, fields=body.unpack(bytes(body.size)))


def test_an_init_after_the_first_startup_ends_the_pair_from_every_phase_that_can_follow() -> None:
    # Given every phase that a started guest can be in
    reached = {Phase.STARTED}
    for _, (phase, command) in itertools.product(range(3), TABLE):
        if phase in reached:
            reached.add(TABLE[phase, command][0])

    # When INIT comes in each
    steps = {phase: decide(in_phase(phase), request(Command.INIT)) for phase in reached}

    # Then none of them runs again: the pair ends, or has ended
    for phase, step in steps.items():
        assert step.session.phase is Phase.ENDED
        assert step.answer != bytes(4)
        assert step.act is (Act.NOTHING if phase is Phase.ENDED else Act.END_RESET)


def test_init_may_repeat_until_the_guest_starts_its_tpm() -> None:
    # Given a vTPM that was never initialized
    session = FRESH

    # When SeaBIOS's two rounds of STOP and INIT come
    for command in (Command.STOP, Command.INIT, Command.STOP, Command.INIT):
        step = decide(session, request(command))
        assert step.answer == bytes(4)
        session = step.session

    # Then it runs
    assert session.phase is Phase.RUNNING


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("command", REFUSED)
def test_what_could_forge_or_copy_state_is_refused_in_every_phase(
    phase: Phase, command: Command
) -> None:
    # Given any phase
    # When the hypervisor asks for a hash sequence, a state blob or the like
    step = decide(in_phase(phase), request(command))

    # Then nothing changes and the answer is BAD_ORDINAL
    assert step.session == in_phase(phase)
    assert step.answer[:4] == (10).to_bytes(4)
    assert step.act is Act.NOTHING


@pytest.mark.parametrize(("phase", "command"), list(itertools.product(Phase, Command)))
def test_no_answer_is_shorter_than_the_hypervisor_waits_for(phase: Phase, command: Command) -> None:
    # Given any phase and any command
    # When it is decided
    step = decide(in_phase(phase), request(command))

    # Then the answer has the full size, whether it is one or a refusal
    assert len(step.answer) == RESPONSE_SIZES.get(command, 4)


@pytest.mark.parametrize(("locality", "result"), [(0, 0), (1, 0), (2, 61), (3, 61), (4, 61)])
def test_a_guest_has_localities_0_and_1_only(locality: int, result: int) -> None:
    # Given a vTPM that runs
    # When a locality is set
    asked = Request(command=Command.SET_LOCALITY, fields=(locality, 0, 0, 0))
    step = decide(in_phase(Phase.RUNNING), asked)

    # Then only 0 and 1 are accepted, and the others change nothing
    assert step.answer == result.to_bytes(4)
    assert step.session.locality == (locality if result == 0 else 0)


def test_a_second_data_connection_is_refused() -> None:
    # Given a vTPM whose data connection was made
    first = decide(FRESH, request(Command.SET_DATAFD))

    # When another is offered
    second = decide(first.session, request(Command.SET_DATAFD))

    # Then it is not taken
    assert (first.act, second.act) == (Act.CONNECT, Act.NOTHING)
    assert second.answer != bytes(4)


@pytest.mark.parametrize(("wanted", "given"), [(0, 4096), (3968, 3968), (1, 2808), (1 << 20, 4096)])
def test_a_buffer_size_is_clamped(wanted: int, given: int) -> None:
    # Given a stopped vTPM with buffers of 2808 to 4096 bytes
    # When a size is asked for
    step = decide(FRESH, Request(command=Command.SET_BUFFERSIZE, fields=(wanted,)))

    # Then the nearest possible one is given
    assert step.answer == b"".join(n.to_bytes(4) for n in (0, given, 2808, 4096))


def test_the_capabilities_are_qemu_s_minimum_and_cancel_and_no_state_blobs() -> None:
    # Given what QEMU 7.2 wants of a TPM 2.0 at least
    minimum, cancel = 0x348F, 0x20

    # When the capabilities are asked for
    answer = decide(FRESH, request(Command.GET_CAPABILITY)).answer

    # Then the answer is a 64-bit number of exactly those
    assert int.from_bytes(answer) == minimum | cancel


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.RUNNING])
def test_a_launch_begins_only_where_the_tpm_was_initialized(phase: Phase) -> None:
    # Given any phase but the one after INIT
    # When a first Startup comes
    # Then it may not begin
    assert starting(in_phase(phase)) is None


def test_a_failed_startup_can_be_tried_again() -> None:
    # Given a launch that began
    began = starting(in_phase(Phase.RUNNING))
    assert began is not None

    # When its Startup fails
    after = not_started(began)

    # Then another may begin
    assert starting(after) == began
    assert after.phase in LIVE


def test_a_reset_under_a_live_guest_comes_as_far_as_the_init_that_names_it() -> None:
    # Given a vTPM that was stopped under a live guest
    halted = in_phase(Phase.HALTED)

    # When QEMU resets its machine: it sets a buffer size, then initializes the TPM
    sized = decide(halted, Request(command=Command.SET_BUFFERSIZE, fields=(3968,)))
    reset = decide(sized.session, request(Command.INIT))

    # Then the size is answered, and the INIT ends the pair as a reset
    assert sized.answer[:4] == bytes(4)
    assert (reset.session.phase, reset.act) == (Phase.ENDED, Act.END_RESET)
