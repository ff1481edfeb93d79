"""Any table of clients: read, or refused as a mistake in it."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from tandem.manager.rights import Peer, Right, parse_rights

LINES = st.lists(
    st.sampled_from(
        [
            *("[users]", "[groups]", "[other]", '1000 = ["observe"]', "ann = []"),
            *('0 = ["builder"]', 'bob = ["administer", "broker"]', 'x = "observe"', 'y = ["all"]'),
            *("z = 3", '"" = []'),
        ]
    ),
    max_size=8,
)


@given(st.binary(max_size=100) | LINES.map(lambda lines: "\n".join(lines).encode()))
def test_any_table_is_read_or_refused_and_never_gives_what_it_does_not_say(data: bytes) -> None:
    # Given any bytes, or lines of a table in any order
    # When they are read
    with contextlib.suppress(ValueError):
        rights = parse_rights(data, lambda name: sum(name.encode()), lambda name: 5)
        # Then a user whom they do not name may do nothing
        stranger = Peer(uid=77777, groups=frozenset({77777}))
        assert rights.of(stranger) == frozenset()
        assert all(right in Right for each in rights.users.values() for right in each)
