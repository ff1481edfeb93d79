"""Pure: every session that the broker holds in the TPM, whose each is, and who loses one first.

A TPM has 64 of them for everybody.  A client that has its share is refused more, or loses the one
that it put aside longest ago; nobody else loses any for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from tandem.broker.client import Client, Session
from tandem.wire.tpm_capabilities import same_session

TOTAL_MOST: Final = 40  # of the 48 that the gate lets the broker have


class SessionTable:
    """Sessions by handle, in the order in which they were last held or put aside."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}
        self._contexts = 0

    def __iter__(self) -> Iterator[Session]:
        return (session for session in self._sessions.values() if not session.lost)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, session: Session) -> None:
        """Note a new session, and forget those that were lost."""
        self._sessions = {each.handle: each for each in self}
        self._sessions[session.handle] = session

    def by_handle(self, handle: int) -> Session | None:
        """Give the session that has a handle."""
        return self._sessions.get(handle)

    def remove(self, session: Session) -> None:
        """Note that a session is gone."""
        if self._sessions.get(session.handle) is session:
            del self._sessions[session.handle]

    def of(self, client: Client) -> list[Session]:
        """Give the sessions of a client, on whichever connection."""
        return [session for session in self if session.uid == client.uid]

    def kept(self, client: Client) -> list[Session]:
        """Give those that a client put aside as saved contexts, the oldest first."""
        return [session for session in self.of(client) if session.holder is None]

    def named(self, handle: int, client: Client, holder: object) -> Session | None:
        """Give the session that a connection may flush: its own, or one that was put aside."""
        found = same_session(handle, (each.handle for each in self.of(client)))
        session = None if found is None else self._sessions[found]
        return session if session is not None and session.holder in (holder, None) else None

    def keep(self, session: Session) -> int:
        """Put a session aside; gives the number of the context that brings it back."""
        self._contexts += 1
        session.holder = None
        session.kept_as = self._contexts
        self._sessions[session.handle] = self._sessions.pop(session.handle)
        return session.kept_as

    def take_up(self, handle: int, number: int, client: Client, holder: object) -> Session | None:
        """Give a session back to its client; None where this is not its newest context."""
        session = self._sessions.get(handle)
        if session is None or session.uid != client.uid or session.holder is not None:
            return None
        if session.kept_as != number:
            return None
        session.holder = holder
        return session

    def refuses(self, client: Client) -> bool:
        """Whether a client has its share, and holds all of it."""
        return self._has_share(client) and not self.kept(client)

    def in_the_way(self, client: Client) -> Session | None:
        """Give the session that has to go before this client starts another, if any."""
        if self._has_share(client):
            return self.kept(client)[0]
        if len(self) < TOTAL_MOST:
            return None
        greediest, _ = self._most_held()
        theirs = [session for session in self if session.uid == greediest]
        return next((each for each in theirs if each.holder is None), theirs[0])

    def _has_share(self, client: Client) -> bool:
        """Whether one more would be more than a client may have, or than anybody has."""
        own = len(self.of(client))
        if own >= client.rights.sessions:
            return True
        return len(self) >= TOTAL_MOST and own >= self._most_held()[1]

    def _most_held(self) -> tuple[int, int]:
        """Give the user that has most sessions, and how many."""
        [most] = Counter(session.uid for session in self).most_common(1)
        return most
