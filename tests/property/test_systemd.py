"""Whatever the environment holds: it is read, or refused by name."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import HostError
from tandem.systemd import VARIABLES, parse

WORDS = st.one_of(st.text(max_size=30), st.integers(-5, 10**20).map(str), st.just("7"))


@given(st.dictionaries(st.sampled_from(VARIABLES), WORDS))
def test_any_environment_is_read_or_refused(environment: dict[str, str]) -> None:
    # Given any values
    # When they are read
    with contextlib.suppress(HostError):
        found = parse(environment, 7)
        # Then descriptors are distinct and after the standard ones, and times are positive
        assert all(number >= 3 for number in found.sockets.values())
        assert len(set(found.sockets.values())) == len(found.sockets)
        assert found.watchdog is None or found.watchdog > 0
