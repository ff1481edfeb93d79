"""`tandem guest`: how pairs are laid out, and what the console does with keys."""

from __future__ import annotations

import os
import socket

from tandem.cli.guest import as_table, as_text
from tandem.cli.guest_console import _relay

PAIR = {
    "guest": "web",
    "entry": "web",
    "state": "running",
    "pair_id": "ab" * 16,
    "launch_number": 3,
    "accelerator": "tcg",
    "vtpm_pid": 10,
    "hypervisor_pid": 11,
    "started_at": 0,
    "times": {"measured": 1500},
}


def test_pairs_are_columns_under_a_heading() -> None:
    # Given two pairs
    # When they are laid out
    heading, *rows = as_table([PAIR, {**PAIR, "guest": "a-longer-name"}]).splitlines()
    # Then columns begin at the same place
    assert heading.index("STATE") == rows[0].index("running") == rows[1].index("running")
    assert as_table([]) == "no guest runs"


def test_a_pair_is_shown_with_its_launch() -> None:
    # Given a pair and what was measured
    event = {"register": 18, "event": "command-line", "data": {"command_line": "quiet"}}
    launch = {"events": [event], "registers": {"17": "aa", "18": "bb"}}
    # When it is laid out
    text = as_text({**PAIR, "launch": launch, "library": "/library.dsse.json"})
    # Then it shows event and registers
    assert "PCR 18  command-line   quiet" in text
    assert "PCR 17  sha256:aa" in text
    assert "measured 1.5 ms" in text


def test_a_console_passes_keys_on_until_it_is_left() -> None:
    # Given a console, and keys that end with Ctrl-]
    ours, guest = socket.socketpair()
    keys, typed = os.pipe()
    screen, shown = os.pipe()
    os.write(typed, b"ls\n\x1dignored")
    # When they are relayed
    left = _relay(ours, keys, shown)
    # Then the guest got what came before
    assert left
    assert guest.recv(100) == b"ls\n"
    for each in (keys, typed, screen, shown):
        os.close(each)
    ours.close()
    guest.close()


def test_a_console_ends_with_its_guest() -> None:
    # Given a guest that says its last words
    ours, guest = socket.socketpair()
    keys, typed = os.pipe()
    screen, shown = os.pipe()
    guest.sendall(b"bye")
    guest.close()
    # When its console is relayed
    left = _relay(ours, keys, shown)
    # Then they were shown, and the console ended by itself
    assert not left
    assert os.read(screen, 100) == b"bye"
    for each in (keys, typed, screen, shown):
        os.close(each)
    ours.close()
