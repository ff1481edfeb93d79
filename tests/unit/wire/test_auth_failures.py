"""Failures count as a TPM counts them: up by one, down by one in each recovery time."""

from __future__ import annotations

import pytest

from tandem.wire.auth_failures import AuthFailures, is_counted


@pytest.mark.parametrize(
    ("code", "counted"),
    [
        (0x98E, True),  # TPM_RC_AUTH_FAIL, session 1
        (0xB8E, True),  # the same, session 3
        (0x9A2, False),  # TPM_RC_BAD_AUTH: the entity is exempt
        (0x921, False),  # TPM_RC_LOCKOUT
        (0x10E, False),  # a code of format zero with the same number
        (0x000, False),
    ],
)
def test_only_a_wrong_authorization_of_what_is_protected_counts(code: int, counted: bool) -> None:
    # Given a response code
    # When it is looked at
    # Then it counts if the TPM counted it
    assert is_counted(code) is counted


def test_failures_are_forgotten_one_at_a_time() -> None:
    # Given an allowance of two, and a TPM that forgets one in 100 s
    failures = AuthFailures(allowance=2, recovery=100)
    failures.add(10.0)
    assert not failures.used_up(10.0)
    failures.add(20.0)

    # When time passes
    # Then one more is allowed after each 100 s since the last
    assert failures.used_up(119.0)
    assert not failures.used_up(120.0)
    assert failures.count(120.0) == 1
    failures.add(120.0)
    assert failures.used_up(219.0)
    assert failures.count(500.0) == 0


def test_a_tpm_that_never_locks_needs_no_allowance() -> None:
    # Given a TPM whose recovery time is 0, which switches its protection off
    failures = AuthFailures(allowance=0, recovery=0)

    # When failures are counted
    for _ in range(100):
        failures.add(1.0)

    # Then nothing is used up
    assert not failures.used_up(1.0)


def test_where_one_failure_locks_none_is_allowed() -> None:
    # Given a TPM that locks at the first failure
    # When a client has made none yet
    # Then it is refused all the same
    assert AuthFailures(allowance=0, recovery=100).used_up(0.0)
