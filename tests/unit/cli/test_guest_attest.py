"""`tandem guest attest`: what a guest may answer, and what becomes of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable

import pytest

from tandem.cli.guest_attest import ask
from tandem.errors import HostError, Refused, TandemError, UntrustedInput

REQUEST: dict[str, object] = {"nonce": "00" * 32}


def answer_with(*lines: bytes) -> Callable[[socket.socket], None]:
    def serve(guest: socket.socket) -> None:
        with guest:
            guest.recv(65536)
            for line in lines:
                guest.sendall(line)

    return serve


def asked(serve: Callable[[socket.socket], None], seconds: float = 5) -> TandemError:
    """Ask a guest that behaves as told, and give the error that this must be."""
    host, guest = socket.socketpair()
    thread = threading.Thread(target=serve, args=(guest,))
    thread.start()
    try:
        with host, pytest.raises(TandemError) as error:
            ask(host, REQUEST, seconds)
    finally:
        thread.join()
    return error.value


def test_an_attester_that_refuses_is_quoted_safely() -> None:
    # Given an attester that answers an error with a terminal's escape sequence in it
    said = {"error": {"code": "X", "problem": "no TPM \x1b[2J", "hint": "h"}}
    # When it is asked
    error = asked(answer_with(json.dumps(said).encode() + b"\n"))
    # Then the error quotes it without the sequence
    assert isinstance(error, Refused)
    assert "no TPM" in error.problem
    assert "\x1b" not in error.problem


@pytest.mark.parametrize(
    "line", [b"\xff\xfe\n", b"hello\n", b"[]\n", b"{}\n", b"{" * 5000 + b"\n", b"null\n"]
)
def test_what_is_no_evidence_is_refused(line: bytes) -> None:
    # Given a guest that answers something else
    # When it is asked
    # Then that is refused
    assert isinstance(asked(answer_with(line)), UntrustedInput)


def test_a_guest_that_hangs_up_is_an_error_at_once() -> None:
    # Given a guest that ends in the middle of a line
    # When it is asked
    error = asked(answer_with(b'{"format":'))
    # Then the error says so
    assert isinstance(error, HostError)
    assert error.code == "TDM-GUEST-ENDED"


def test_a_silent_guest_is_waited_for_no_longer_than_was_said() -> None:
    # Given a guest that says nothing
    done = threading.Event()

    def serve(guest: socket.socket) -> None:
        with guest:
            done.wait(5)

    # When it is asked with little patience
    host, guest = socket.socketpair()
    thread = threading.Thread(target=serve, args=(guest,))
    thread.start()
    with host, pytest.raises(HostError) as error:
        ask(host, REQUEST, 0.1)
    done.set()
    thread.join()
    # Then the error says who was silent
    assert error.value.code == "TDM-ATTESTER-SILENT"


def test_a_guest_that_never_ends_its_line_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a guest that writes more than evidence can be
    monkeypatch.setattr("tandem.cli.guest_attest.MAX_BUNDLE", 1000)
    # When it is asked
    error = asked(answer_with(b"x" * 2000))
    # Then it is cut off
    assert isinstance(error, UntrustedInput)
