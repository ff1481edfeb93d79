"""Commits: who waits for whom, and what is anchored when; strict, and with a window."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import cast

import pytest

from tandem.log import Log
from tandem.manager.clients import Client, Clients
from tandem.manager.commits import Commits
from tandem.manager.pacing import CEILING, Pacing
from tandem.manager.store import NotAnchored, NotWritten, Store
from tandem.values import Secret
from tests.unit.manager.software_host import MemoryAnchor

WINDOW = 60


class Answers:
    """Stands in the place of the connections: who was answered what."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, object]] = []

    def wait(self, client: str) -> None:
        """Nothing more is read from it; nothing is, here."""

    def answer(self, client: str, message: object) -> None:
        self.sent.append((client, message))


class Book:
    """A store with an anchor in memory, and its commits."""

    def __init__(self, directory: Path, window: float, budget: int = 100_000) -> None:
        self.anchor = MemoryAnchor()
        self.path = directory / "store.sqlite"
        self.store = Store.create(self.path, Secret(bytes(32)), self.anchor)
        self.store.stage("host", b"0")
        self.store.commit()
        self.answers = Answers()
        self.printed = io.StringIO()
        self.commits = Commits(
            self.store,
            cast("Clients", self.answers),
            Log("manager", self.printed),
            pacing=Pacing(window=window),
            budget=budget,
        )

    def write(self, client: str, content: bytes, *, may_wait: bool) -> None:
        self.store.stage(client, content)
        self.commits.answer_after(cast("Client", client), content, may_wait=may_wait)

    def turn(self, later: float = 0) -> None:
        """Do what the loop does until nothing is due, `later` seconds from now."""
        while True:
            now = time.monotonic() + later
            due = self.commits.due(now)
            if due is None or due > now:
                return
            self.commits.run(now)


@pytest.fixture
def strict(tmp_path: Path) -> Book:
    return Book(tmp_path, window=0)


@pytest.fixture
def window(tmp_path: Path) -> Book:
    return Book(tmp_path, window=WINDOW)


def test_strict_answers_all_who_wait_after_one_extend(strict: Book) -> None:
    # Given two that wait
    strict.write("a", b"1", may_wait=True)
    strict.write("b", b"2", may_wait=False)
    extends = strict.anchor.extends
    # When a turn ends
    strict.turn()
    # Then both are answered, after one extend
    assert strict.answers.sent == [("a", b"1"), ("b", b"2")]
    assert strict.anchor.extends == extends + 1


def test_a_window_answers_at_once_and_extends_at_its_end(window: Book) -> None:
    # Given a window in which several states were written
    extends = window.anchor.extends
    for number in range(5):
        window.write("a", b"%d" % number, may_wait=True)
        window.turn()
    # When its end is not there yet, and when it is
    window.turn(later=WINDOW / 2)
    before = window.anchor.extends
    window.turn(later=WINDOW + 1)
    window.turn(later=2 * WINDOW)
    # Then all were answered without an extend, and one was enough
    assert len(window.answers.sent) == 5
    assert (before, window.anchor.extends) == (extends, extends + 1)
    assert not window.store.unanchored


def test_an_identity_never_waits_for_the_end_of_a_window(window: Book) -> None:
    # Given a state that may wait, and something that may not
    window.write("a", b"1", may_wait=True)
    window.turn()
    extends = window.anchor.extends
    window.write("b", b"2", may_wait=False)
    # When a turn ends
    window.turn()
    # Then both are anchored
    assert (window.anchor.extends, window.store.unanchored) == (extends + 1, False)


def test_a_guests_end_closes_the_window(window: Book) -> None:
    # Given a state that may wait
    window.write("a", b"1", may_wait=True)
    window.turn()
    # When a pair ends
    window.commits.urge()
    window.turn()
    # Then it is anchored
    assert not window.store.unanchored


def test_a_start_takes_the_place_of_every_other_state_of_a_window(window: Book) -> None:
    # Given a copy of the store that is as good as the newest one
    window.write("a", b"1", may_wait=True)
    window.turn()
    window.store.close()
    copied = window.path.read_bytes()
    window.path.write_bytes(copied)
    store = Store.load(window.path, Secret(bytes(32)), window.anchor)
    # When the Manager starts
    value = window.anchor.value
    commits = Commits(
        store,
        cast("Clients", window.answers),
        Log("manager", window.printed),
        pacing=Pacing(window=WINDOW),
        budget=1,
    )
    commits.start()
    # Then the pTPM was extended, even where nothing was changed
    assert window.anchor.value != value
    assert window.anchor.version == store.number


def test_the_ceiling_makes_a_flood_wait_and_loses_none(strict: Book) -> None:
    # Given as many commits as a second may have
    for number in range(CEILING):
        strict.write("a", b"%d" % number, may_wait=True)
        strict.turn()
    # When one more comes, and a second later
    strict.write("b", b"late", may_wait=True)
    strict.turn()
    waited = len(strict.answers.sent)
    due = strict.commits.due(time.monotonic())
    strict.turn(later=1.0)
    # Then it waits less than that second, and is answered
    assert waited == CEILING
    assert due is not None
    assert 0 < due - time.monotonic() <= 1.0
    assert strict.answers.sent[-1] == ("b", b"late")


def test_too_many_writes_raise_an_alarm_once_an_hour(tmp_path: Path) -> None:
    # Given a pTPM that bears very little
    book = Book(tmp_path, window=0, budget=100)
    # When it is written more often than a new host may
    for number in range(5):
        book.write("a", b"%d" % number, may_wait=True)
        book.turn()
    # Then one alarm says how many, and what is left
    [alarm] = [json.loads(line) for line in book.printed.getvalue().splitlines()]
    assert (alarm["event"], alarm["nv_budget"]) == ("ptpm.wears-out", 100)
    assert alarm["nv_writes"] == 2
    assert book.commits.wear().over_pace


def test_writes_are_counted_over_starts(strict: Book) -> None:
    # Given a store that was written, and the number of its extends
    strict.write("a", b"1", may_wait=False)
    strict.turn()
    strict.store.close()
    # When it is opened anew
    store = Store.load(strict.path, Secret(bytes(32)), strict.anchor)
    # Then the number is there
    assert store.anchors == strict.anchor.extends == 2


def test_a_window_ends_also_where_somebody_writes_in_every_turn(window: Book) -> None:
    # Given a window in which guests write without a pause
    extends = window.anchor.extends
    window.write("a", b"first", may_wait=True)
    window.turn()
    # When its end is past, and there is another state in that very turn
    window.write("a", b"next", may_wait=True)
    window.commits.run(time.monotonic() + WINDOW + 1)
    # Then both are anchored
    assert len(window.answers.sent) == 2
    assert (window.anchor.extends, window.store.unanchored) == (extends + 1, False)


def test_an_answer_that_changes_no_record_costs_no_extend(window: Book) -> None:
    # Given a state in an open window
    window.write("a", b"1", may_wait=True)
    window.turn()
    extends = window.anchor.extends
    # When an ephemeral vTPM, which has no record, commits a state
    window.commits.answer_after(cast("Client", "ephemeral"), b"2", may_wait=True)
    window.turn()
    # Then it is answered, and the window stays open
    assert window.answers.sent[-1] == ("ephemeral", b"2")
    assert (window.anchor.extends, window.store.unanchored) == (extends, True)


def test_a_guests_end_closes_the_window_though_the_disk_is_full(
    window: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a state that may wait, and one that the disk does not take
    window.write("a", b"1", may_wait=True)
    window.turn()
    window.write("b", b"2", may_wait=True)
    with monkeypatch.context() as full:
        full.setattr(window.store._file, "write", not_written)
        # When a pair ends
        window.commits.urge()
        window.commits.run(time.monotonic())
    window.turn()
    # Then what is durable is anchored all the same
    assert (window.answers.sent[-1][0], window.store.unanchored) == ("b", False)


def test_an_anchor_that_fails_within_a_request_ends_the_manager_too(strict: Book) -> None:
    # Given somebody who waits, and a pTPM that refuses the next extend
    strict.write("a", b"1", may_wait=True)
    strict.anchor.broken = True
    # When another's request needs all that waits to be durable, and is told that it is not
    with pytest.raises(NotAnchored):
        strict.commits.settle()
    # Then the loop's next look ends the Manager, whatever the pTPM says by then
    strict.anchor.broken = False
    with pytest.raises(NotAnchored):
        strict.turn(later=1.0)
    assert strict.answers.sent == []


def not_written(*_: object) -> None:
    raise NotWritten("TDM-STORE-NOT-WRITTEN", "the disk is full", hint="make room")
