"""The builder's feed of events: numbered, bounded, and never waited on by a slow watcher."""

from __future__ import annotations

import asyncio
import json

from tandem.builder.feed import PAGE, Feed


def event(name: str = "pair.stepped", **fields: object) -> dict[str, object]:
    return {"time": "2026-01-01T00:00:00.000+00:00", "event": name, **fields}


def filled(events: int, kept: int = 1000) -> Feed:
    feed = Feed(kept)
    for number in range(events):
        feed.take(event(guest=f"g{number}"))
    return feed


def test_only_what_concerns_pairs_is_kept() -> None:
    # Given events of the builder's log
    feed = Feed()
    # When one is about a pair and one is about the builder itself
    feed.take(event("builder.ended"))
    feed.take(event("pair.adopted", guest="web"))
    # Then the feed has the one, numbered, as the log has it
    [line] = feed.after(0).lines
    assert json.loads(line) == {"number": 1, **event("pair.adopted", guest="web")}


def test_a_watcher_reads_on_from_the_last_event_that_it_saw() -> None:
    # Given more events than a page holds
    feed = filled(PAGE + 3)
    # When a watcher reads page after page
    first = feed.after(0)
    second = feed.after(first.last)
    # Then each event comes once
    numbers = [json.loads(line)["number"] for line in first.lines + second.lines]
    assert numbers == list(range(1, PAGE + 4))
    assert (first.more, second.more) == (True, False)
    assert feed.after(second.last).lines == ()


def test_a_slow_watcher_is_told_how_many_events_it_missed() -> None:
    # Given a feed that keeps ten events, and 25 that came
    feed = filled(25, kept=10)
    # When somebody reads who saw the first five
    page = feed.after(5)
    # Then he gets the newest ten, and knows of the ten between
    assert json.loads(page.lines[0])["number"] == 16
    assert (page.missed, page.last) == (10, 25)


def test_the_number_of_another_builders_event_starts_from_the_beginning() -> None:
    # Given a builder that began anew
    feed = filled(2)
    # When a watcher asks on from a number that the earlier builder gave
    page = feed.after(700)
    # Then it gets all that there is
    assert (len(page.lines), page.last, page.missed) == (2, 2, 0)


def test_waiting_ends_with_the_next_event() -> None:
    async def scenario() -> list[int]:
        # Given two watchers that have seen everything
        feed = filled(1)
        watchers = [asyncio.create_task(feed.beyond(1)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in watchers)
        # When something happens
        feed.take(event())
        # Then both have it
        return [page.last for page in await asyncio.gather(*watchers)]

    assert asyncio.run(scenario()) == [2, 2]
