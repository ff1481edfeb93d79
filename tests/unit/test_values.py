"""Names and secrets: what may be one, and what never shows."""

from __future__ import annotations

import pickle
import traceback

import pytest

from tandem.errors import UsageError
from tandem.values import Secret, checked_name


@pytest.mark.parametrize("name", ["a", "web-01", "0", "x" * 63])
def test_a_label_is_a_name(name: str) -> None:
    # Given a DNS label
    # When it is checked
    # Then it comes back as it was
    assert checked_name(name, "guest") == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "Web", "a b", "a\n", "../a", "a/b", "x" * 64, "ä", "a\0"]
)
def test_anything_else_is_refused_by_its_code(name: str) -> None:
    # Given text that would be trouble in a path, a log or a command line
    # When it is checked as a name
    with pytest.raises(UsageError) as refusal:
        checked_name(name, "guest")

    # Then it is refused, and the message is one printable line
    assert refusal.value.code == "TDM-NAME-NOT-A-LABEL"
    assert refusal.value.problem.isprintable()


def test_a_secret_shows_its_length_only() -> None:
    # Given a secret
    secret = Secret(b"hunter2hunter2")

    # When it is printed, and when an error carries it
    error = ValueError(secret)
    shown = "".join(traceback.format_exception(error)) + repr(secret) + str(secret)

    # Then its bytes are nowhere
    assert "hunter2" not in shown
    assert "14 bytes" in shown


def test_a_secret_is_not_pickled() -> None:
    # Given a secret
    # When something tries to write it into a pickle
    # Then that fails
    with pytest.raises(TypeError):
        pickle.dumps(Secret(b"k"))
