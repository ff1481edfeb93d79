"""IMA lists, read and replayed as others do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.ima_log import parse_ima_log, replay_ima

LISTS = Path(__file__).parents[1] / "data" / "ima"
REPLAYED: dict[str, dict[str, str]] = json.loads((LISTS / "register_10.json").read_bytes())


@pytest.mark.parametrize(
    ("name", "bank"),
    [(name, bank) for name in REPLAYED for bank in REPLAYED[name] if bank != "sha1"],
)
def test_a_list_replays_to_what_others_have(name: str, bank: str) -> None:
    # Given a list of several templates, and the register that a TPM held or evmctl computes
    entries = parse_ima_log((LISTS / name).read_bytes())

    # When it is replayed
    replayed = replay_ima(entries, bytes.fromhex(REPLAYED[name][bank]))

    # Then all of it explains the register, in this way of extending
    assert replayed is not None
    assert (replayed.entries, replayed.padded) == (len(entries), bank == "padded")


def test_the_list_of_a_kernel_names_its_violations() -> None:
    # Given the list of a kernel on which files were written while they were read
    # When it is read in either form
    entries = parse_ima_log((LISTS / "linux-6.1.bin").read_bytes())
    as_text = parse_ima_log((LISTS / "linux-6.1.txt").read_bytes())

    # Then both say the same, and the violations have their paths
    violated = [Path(entry.path).name for entry in entries if entry.violates]
    assert violated == ["file-2", "file-3"]
    assert [(each.data, each.path) for each in entries] == [
        (each.data, each.path) for each in as_text
    ]


@pytest.mark.parametrize(
    ("name", "first"), [("ima-log-sha1", "sha1:00000000"), ("ima-log-sha256", "sha256:f4845392")]
)
def test_a_list_in_text_form_is_read(name: str, first: str) -> None:
    # Given a list as text, whose first entry is a violation where its digest is zero
    # When it is read
    entries = parse_ima_log((LISTS / name).read_bytes())

    # Then each entry's template digest is that of its fields
    assert [entry.path for entry in entries] == ["boot_aggregate", "/data"]
    assert entries[0].digest.startswith(first)
    assert entries[0].violates == (name == "ima-log-sha1")
    assert not entries[1].violates


def test_a_list_whose_digests_are_not_of_its_fields_is_refused() -> None:
    # Given a list whose second entry has a digest of something else
    # When it is read
    with pytest.raises(UntrustedInput) as caught:
        parse_ima_log((LISTS / "ima-log-unknown").read_bytes())

    # Then it is refused there
    assert caught.value.code == "TDM-IMA-LIST-ALTERED"
    assert caught.value.offset == 157
