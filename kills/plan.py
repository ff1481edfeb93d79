"""What is killed when, and what guests are asked meanwhile: drawn from a seed alone.  Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kills.guests import Wish
from kills.processes import HALVES, Role

SERVICES: Final = (Role.BUILDER, Role.MANAGER, Role.BROKER, Role.ZYGOTE)
LONGEST_GAP: Final = 0.7  # seconds between two moments of a burst: a start or a restart is within
MOST_MOMENTS: Final = 8
SHARES: Final = {0.0: 3, 0.2: 4, 0.5: 2, 1.0: 1}  # of targets, by weight; 0: one target alone


@dataclass(frozen=True, kw_only=True)
class Target:
    """A process by what it is; who it is shows at the moment itself."""

    role: Role
    guest: str = ""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """After a pause, everything of these is killed at once."""

    pause: float
    targets: tuple[Target, ...]


@dataclass(frozen=True, kw_only=True)
class Burst:
    """Moments in a row, the next one before all is well again; wishes come beside them."""

    moments: tuple[Moment, ...]
    wishes: tuple[tuple[str, float, Wish], ...]  # guest, pause, wish


def draw(seed: str, guests: Sequence[str]) -> Burst:
    """Draw a burst; the same seed gives the same one."""
    chance = random.Random(seed)  # noqa: S311 - to be drawn again, not to be secret
    all_targets = [Target(role=role) for role in SERVICES]
    all_targets += [Target(role=role, guest=guest) for guest in guests for role in HALVES]
    moments = [_moment(chance, all_targets) for _ in range(chance.randint(1, MOST_MOMENTS))]
    seconds = sum(moment.pause for moment in moments)
    return Burst(
        moments=tuple(moments),
        wishes=tuple(
            (guest, chance.uniform(0.0, seconds), chance.choice(list(Wish))) for guest in guests
        ),
    )


def _moment(chance: random.Random, targets: Sequence[Target]) -> Moment:
    [share] = chance.choices(list(SHARES), weights=list(SHARES.values()))
    chosen = [target for target in targets if chance.random() < share]
    return Moment(
        pause=chance.uniform(0.0, LONGEST_GAP),
        targets=tuple(chosen or [chance.choice(targets)]),
    )
