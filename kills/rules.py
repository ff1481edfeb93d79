"""What must hold of a host's processes at any time.  Pure: lives and a time in, violations out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from kills.processes import Role, Seen

LIMIT: Final = 1.0  # seconds: DESIGN, I4
LAUNCH_SECONDS: Final = 60.0  # within which a vTPM gets its guest while its builder lives
MADE_BY: Final = {  # whose death is to be followed, beside pairs
    Role.ZYGOTE: "its builder",
    Role.SPARE: "its zygote",
    Role.PTPM: "its Manager",
    Role.OTHER: "the process that started it",
}


@dataclass(frozen=True, kw_only=True)
class Life:
    """One process from its first look on; times are seconds of one monotonic clock."""

    seen: Seen
    born: float
    left: float | None  # when it was killed, or else ended
    died: float | None  # when it was seen to be gone
    orphaned: float | None  # when the process that it depends on died; a vTPM's is its builder


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A rule that was broken, and by whom; each is told once."""

    rule: str
    pid: int
    what: str


def violations(lives: Sequence[Life], now: float) -> Iterator[Violation]:
    """Give each rule that is broken now."""
    namespaces: dict[int, list[Life]] = defaultdict(list)
    for life in lives:
        namespaces[life.seen.namespace].append(life)
    for life in lives:
        if life.died is None and _is_over(life.left, now):
            yield _found("outlives-its-kill", life, f"killed over {LIMIT:.0f} s ago")
    for members in namespaces.values():
        yield from _pair(members, now)
    yield from _strays(lives, now)
    yield from _one_place(lives)


def _pair(members: Sequence[Life], now: float) -> Iterator[Violation]:
    """I1, I4: one guest for a vTPM, and neither outlives the other."""
    vtpms = [life for life in members if life.seen.role is Role.VTPM]
    guests = [life for life in members if life.seen.role is Role.HYPERVISOR]
    if len(guests) > 1:
        yield _found("second-guest", guests[1], "a vTPM got a second guest")
    for guest in guests:
        yield from _outlived("guest-outlives-vtpm", guest, vtpms, now)
    for vtpm in vtpms:
        if guests:
            yield from _outlived("vtpm-outlives-guest", vtpm, guests, now)
        elif vtpm.died is None and _is_over(vtpm.orphaned, now):
            yield _found("vtpm-without-guest", vtpm, "its builder died, and it never had a guest")
        elif vtpm.died is None and now - vtpm.born > LAUNCH_SECONDS:
            yield _found("vtpm-without-guest", vtpm, f"no guest came in {LAUNCH_SECONDS:.0f} s")


def _outlived(rule: str, living: Life, others: Sequence[Life], now: float) -> Iterator[Violation]:
    ended = [other.left for other in others]
    if living.died is None and None not in ended and _is_over(max(ended, default=None), now):  # type: ignore[type-var]
        yield _found(rule, living, f"the other half is gone for over {LIMIT:.0f} s")


def _strays(lives: Sequence[Life], now: float) -> Iterator[Violation]:
    """No process is left of what made it."""
    for life in lives:
        maker = MADE_BY.get(life.seen.role)
        if maker and life.died is None and _is_over(life.orphaned, now):
            yield _found("stray", life, f"{maker} is gone for over {LIMIT:.0f} s")


def _one_place(lives: Sequence[Life]) -> Iterator[Violation]:
    """I5: no state is in use in two places."""
    users: dict[tuple[int, int], Life] = {}
    for life in lives:
        if life.died is not None:
            continue
        for state in life.seen.states:
            other = users.setdefault(state, life)
            if other is not life:
                yield _found("two-places", life, f"process {other.seen.pid} uses that state too")


def _is_over(since: float | None, now: float) -> bool:
    return since is not None and now - since > LIMIT


def _found(rule: str, life: Life, what: str) -> Violation:
    name = f"{life.seen.role} {life.seen.guest}".strip()
    return Violation(rule=rule, pid=life.seen.pid, what=f"{name} {life.seen.pid}: {what}")
