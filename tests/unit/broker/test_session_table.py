"""Sessions are shared out: whoever has the most loses one first, and only what was put aside."""

from __future__ import annotations

from tandem.broker.client import Client, Session
from tandem.broker.session_table import TOTAL_MOST, SessionTable
from tandem.wire.broker_rights import Rights

HERE = object()


def client(uid: int, sessions: int = 12) -> Client:
    return Client(uid=uid, rights=Rights(sessions=sessions))


def filled(**counts: int) -> SessionTable:
    """Make a table with as many sessions of each user, as in `u1=3`, all of them held."""
    table = SessionTable()
    for name, count in counts.items():
        for _ in range(count):
            table.add(Session(handle=0x02000000 + len(table), uid=int(name[1:]), holder=HERE))
    return table


def test_a_client_within_its_share_is_in_nobodys_way() -> None:
    # Given a client with fewer sessions than it may have
    # When it starts another
    # Then nobody has to go
    assert filled(u1=11).in_the_way(client(1)) is None


def test_a_client_with_all_that_it_may_hold_is_refused() -> None:
    # Given a client that holds its share
    table = filled(u1=12)

    # When it starts another
    # Then it is refused, until it put one aside
    assert table.refuses(client(1))
    assert not table.refuses(client(2))
    first, second = [*table][:2]
    table.keep(second)
    table.keep(first)
    assert not table.refuses(client(1))
    assert table.in_the_way(client(1)) is second


def test_a_full_table_takes_from_who_has_most() -> None:
    # Given a table that many clients filled, one of them with more than the others
    table = filled(u1=20, u2=10, u3=TOTAL_MOST - 30)

    # When another client starts its first session
    leaving = table.in_the_way(client(4))

    # Then the greediest one loses its oldest, one that was put aside before one that is held
    assert leaving is not None
    assert leaving.uid == 1
    aside = [each for each in table if each.uid == 1][7]
    table.keep(aside)
    assert table.in_the_way(client(4)) is aside
    assert filled(u1=20, u2=20).refuses(client(1, sessions=30))


def test_a_session_comes_back_to_its_client_once() -> None:
    # Given a session that was put aside twice
    table = filled(u1=1)
    [session] = table
    old = table.keep(session)
    assert table.take_up(session.handle, old, client(1), HERE) is session
    new = table.keep(session)

    # When it is taken up by its old context, by another client, and by its newest
    # Then only the last works, once
    assert table.take_up(session.handle, old, client(1), HERE) is None
    assert table.take_up(session.handle, new, client(2), HERE) is None
    assert table.take_up(session.handle, new, client(1), HERE) is session
    assert table.take_up(session.handle, new, client(1), HERE) is None


def test_a_session_is_flushed_by_who_holds_it_or_put_it_aside() -> None:
    # Given a session that one connection of a client holds
    table = filled(u1=1)
    [session] = table

    # When it is named, also as a session of the other kind, as saved ones are listed
    # Then its holder has it, and everybody of its client once it is put aside
    assert table.named(session.handle, client(1), HERE) is session
    assert table.named(session.handle | 0x01000000, client(1), HERE) is session
    assert table.named(session.handle, client(1), object()) is None
    assert table.named(session.handle, client(2), HERE) is None
    table.keep(session)
    assert table.named(session.handle, client(1), object()) is session


def test_a_lost_session_counts_for_nobody() -> None:
    # Given a client whose sessions were all lost
    table = filled(u1=12)
    for session in [*table]:
        session.lost = True

    # When it starts another
    # Then there is room
    assert table.in_the_way(client(1)) is None
    assert len(table) == 0
