"""Event logs of real machines, read and replayed as others do."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import UntrustedInput
from tandem.evidence.attest import parse_quote
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pcr_values import replay
from tandem.evidence.tpm_types import Algorithm, parse_public, parse_signature

LOGS = Path(__file__).parents[1] / "data" / "eventlog"
REPLAYED: dict[str, Any] = json.loads((LOGS / "tpm2_eventlog.json").read_bytes())
WINDOWS: dict[str, Any] = json.loads((LOGS / "windows_gcp_shielded_vm.json").read_bytes())


@pytest.mark.parametrize("name", REPLAYED)
def test_a_log_replays_to_what_tpm2_tools_computes(name: str) -> None:
    # Given a real log and the values that another program computes from it
    expected = REPLAYED[name]

    # When it is read and replayed
    values = replay(parse_event_log((LOGS / name).read_bytes()))

    # Then both agree, register for register
    found = {
        bank: {str(index): value.hex() for index, value in registers.items()}
        for bank, registers in values.items()
    }
    assert found == expected


def test_a_windows_log_replays_to_the_values_that_its_tpm_reported() -> None:
    # Given a log, and the SHA-1 registers of the TPM that it is of
    reported = {
        each["Index"]: base64.b64decode(each["Digest"])
        for each in WINDOWS["Log"]["PCRs"]
        if each["DigestAlg"] == 3  # crypto.SHA1 of Go
    }

    # When it is replayed
    values = replay(parse_event_log(base64.b64decode(WINDOWS["Log"]["Raw"])))["sha1"]

    # Then every register that the log extends agrees
    assert 0 in values
    assert values == {index: reported[index] for index in values}


def test_a_quote_of_a_real_tpm_is_read_field_by_field() -> None:
    # Given AK, quote and signature of a real machine
    ak, attest, signature = (
        base64.b64decode(each)
        for each in (
            *(WINDOWS["AK"]["Public"], WINDOWS["Quote"]["Quote"]),
            WINDOWS["Quote"]["Signature"],
        )
    )

    # When they are read
    public, quote, signed = parse_public(ak), parse_quote(attest), parse_signature(signature)

    # Then they are an AK, a quote over the reported values, and a signature by the key's scheme
    values = {each["Index"]: each["Digest"] for each in WINDOWS["Log"]["PCRs"]}
    joined = b"".join(base64.b64decode(values[index]) for index in range(24))
    assert public.is_ak
    assert quote.selections[0].registers == tuple(range(24))
    assert quote.pcr_digest == hashlib.sha1(joined, usedforsecurity=False).digest()
    assert (signed.scheme, signed.hash) == (Algorithm.RSASSA, "sha1")


@pytest.mark.parametrize("name", ["event-uefiaction.bin", "specid-vendordata.bin"])
def test_a_log_that_contradicts_itself_is_refused(name: str) -> None:
    # Given a log with fewer digests than its header has banks, and one cut off in its header
    data = (LOGS / name).read_bytes()

    # When it is read
    with pytest.raises(UntrustedInput) as caught:
        parse_event_log(data)

    # Then the refusal says where
    assert caught.value.offset > 0
