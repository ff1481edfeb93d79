"""Breadth-first search over all interleavings; the first violation met is a shortest one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from model.world import World

Steps = Callable[[World], Iterator[tuple[str, World]]]
Check = Callable[[World], str]


@dataclass(frozen=True, kw_only=True)
class Explored:
    """What a search met; `violation` is empty where every state was in order."""

    states: int
    steps: int
    depth: int  # of the deepest state
    whole: bool  # whether nothing was left to explore
    violation: str = ""
    trace: tuple[str, ...] = ()  # from the beginning to the violation


class Broken(Exception):
    """A step that the lifecycle's table does not know: a violation, met before its state."""


def explore(start: World, steps: Steps, check: Check, *, depth: int | None = None) -> Explored:
    """Visit every state within `depth` steps of `start`, each once."""
    came_from: dict[World, tuple[World, str] | None] = {start: None}
    layer, deep, taken = [start], 0, 0
    while layer and (depth is None or deep < depth):
        following: list[World] = []
        for world in layer:
            try:
                for name, reached in steps(world):
                    taken += 1
                    if reached in came_from:
                        continue
                    came_from[reached] = (world, name)
                    problem = check(reached)
                    if problem:
                        return _violated(came_from, reached, taken, deep + 1, problem)
                    following.append(reached)
            except Broken as broken:
                return _violated(came_from, world, taken, deep, str(broken))
        layer, deep = following, deep + bool(following)
    return Explored(states=len(came_from), steps=taken, depth=deep, whole=not layer)


def _violated(
    came_from: dict[World, tuple[World, str] | None],
    world: World,
    taken: int,
    depth: int,
    problem: str,
) -> Explored:
    trace: list[str] = []
    before = came_from[world]
    while before is not None:
        trace.append(before[1])
        before = came_from[before[0]]
    return Explored(
        states=len(came_from),
        steps=taken,
        depth=depth,
        whole=False,
        violation=problem,
        trace=tuple(reversed(trace)),
    )
