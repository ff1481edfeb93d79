"""Each rule of random kills is broken by what it forbids, and by nothing else."""

from __future__ import annotations

import pytest

from kills.processes import Role, Seen
from kills.rules import LAUNCH_SECONDS, Life, violations

NOW = 100.0
LONG_AGO, JUST_NOW = NOW - 1.5, NOW - 0.5
SLOT = (1, 2)


def life(
    role: Role,
    *,
    pid: int = 10,
    space: int = 1,
    born: float = 90.0,
    left: float | None = None,
    gone: bool = True,
    orphaned: float | None = None,
    states: frozenset[tuple[int, int]] = frozenset(),
) -> Life:
    """A process that left when it says so, and is gone since unless it outlived that."""
    seen = Seen(pid=pid, start_time=1, parent=1, namespace=space, role=role, states=states)
    died = left if gone else None
    return Life(seen=seen, born=born, left=left, died=died, orphaned=orphaned)


def broken(*lives: Life) -> list[str]:
    return [found.rule for found in violations(lives, NOW)]


def test_a_pair_that_lives_breaks_nothing_whoever_else_is_dead() -> None:
    # Given a vTPM with its guest, whose builder is long dead
    # When it is judged
    # Then nothing is wrong
    assert broken(life(Role.VTPM, orphaned=LONG_AGO), life(Role.HYPERVISOR, pid=11)) == []


@pytest.mark.parametrize(
    ("role", "other", "rule"),
    [
        (Role.VTPM, Role.HYPERVISOR, "vtpm-outlives-guest"),
        (Role.HYPERVISOR, Role.VTPM, "guest-outlives-vtpm"),
    ],
)
def test_a_half_that_outlives_the_other_is_told_after_a_second(
    role: Role, other: Role, rule: str
) -> None:
    # Given half a pair
    # When the other half is gone for half a second, then for more than one
    # Then only the latter breaks the rule
    assert broken(life(role), life(other, pid=11, left=JUST_NOW)) == []
    assert broken(life(role), life(other, pid=11, left=LONG_AGO)) == [rule]


def test_a_second_guest_in_one_namespace_is_told() -> None:
    # Given a vTPM whose first guest is gone
    pair = [life(Role.VTPM), life(Role.HYPERVISOR, pid=11, left=LONG_AGO)]
    # When another is seen beside it
    # Then that is told
    assert broken(*pair, life(Role.HYPERVISOR, pid=12)) == ["second-guest"]


def test_a_vtpm_that_never_had_a_guest_ends_with_its_builder() -> None:
    # Given a vTPM whose guest has not come yet
    # When its builder is gone for half a second, for more than one, or lives but never goes on
    # Then only a guest that can still come excuses it
    assert broken(life(Role.VTPM, orphaned=JUST_NOW)) == []
    assert broken(life(Role.VTPM, orphaned=LONG_AGO)) == ["vtpm-without-guest"]
    assert broken(life(Role.VTPM, born=NOW - LAUNCH_SECONDS - 1)) == ["vtpm-without-guest"]


@pytest.mark.parametrize("role", [Role.ZYGOTE, Role.SPARE, Role.PTPM, Role.OTHER])
def test_what_outlives_its_maker_is_a_stray(role: Role) -> None:
    # Given a process that somebody made
    # When its maker is gone for more than a second
    # Then it is a stray; not before
    assert broken(life(role, orphaned=JUST_NOW)) == []
    assert broken(life(role, orphaned=LONG_AGO)) == ["stray"]


def test_one_state_in_two_places_is_told() -> None:
    # Given a living vTPM with its state open
    first = life(Role.VTPM, states=frozenset({SLOT}))
    # When another one, alive or dead, has the same state
    dead = life(Role.VTPM, pid=11, space=2, left=LONG_AGO, states=frozenset({SLOT}))
    alive = life(Role.VTPM, pid=12, space=3, states=frozenset({SLOT}))
    # Then the living one is told
    assert broken(first, dead) == []
    assert broken(first, alive) == ["two-places"]


def test_what_lives_on_after_its_kill_is_told() -> None:
    # Given a process that was killed and is still there a second later
    # When it is judged
    # Then it is told
    assert broken(life(Role.MANAGER, left=LONG_AGO, gone=False)) == ["outlives-its-kill"]
