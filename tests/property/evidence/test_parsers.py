"""Every reader is total: any bytes are a value or UntrustedInput, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.appraisal.enrolment import parse_challenge
from tandem.appraisal.policy import parse_policy
from tandem.errors import Refused, UntrustedInput
from tandem.evidence.attest import parse_quote
from tandem.evidence.authorizations import parse_authorizations
from tandem.evidence.bundle import parse_evidence
from tandem.evidence.certificate_extensions import read_extensions
from tandem.evidence.certificate_files import der_parts, parse_certificates
from tandem.evidence.certificates import parse_certificate, parse_pem_certificate
from tandem.evidence.deep_quote import parse_deep_quote, parse_request, unframe_answer
from tandem.evidence.der_sets import with_sorted_sets
from tandem.evidence.enrolment import parse_proof
from tandem.evidence.envelope import PrivateKey, open_envelope, parse_private_key, parse_public_key
from tandem.evidence.event_log import parse_event_log, parse_launch_log, write_launch_log
from tandem.evidence.host_approval import (
    parse_approval,
    parse_approval_key,
    parse_approval_private_key,
)
from tandem.evidence.host_export import parse_host_export
from tandem.evidence.host_state import parse_state
from tandem.evidence.ima_log import parse_ima_log, replay_ima
from tandem.evidence.launch import LaunchEvent, Tag, in_order
from tandem.evidence.manifest import parse_manifest
from tandem.evidence.merkle import root_of_path, tree_paths
from tandem.evidence.pair_record import parse_pair_record
from tandem.evidence.pcr_values import replay
from tandem.evidence.revocation import parse_revocation_list
from tandem.evidence.tpm_types import parse_public, parse_signature

KEY = PrivateKey.generate().public_key()
DATA = Path(__file__).parents[2] / "vectors" / "data"
Reader = Callable[[bytes], object]


def opened(data: bytes) -> object:
    return open_envelope(data, "t", [KEY])


def replayed(data: bytes) -> object:
    return replay(parse_event_log(data))


def replayed_ima(data: bytes) -> object:
    return replay_ima(parse_ima_log(data), b"\x01" * 32)


def extensions(data: bytes) -> object:
    return [read_extensions(each) for each in parse_certificates(data)]


READERS: list[Reader] = [
    *(parse_approval, parse_approval_key, parse_approval_private_key, parse_state),
    *(parse_authorizations, der_parts, extensions, parse_ima_log, replayed_ima),
    *(opened, replayed, parse_certificate, parse_challenge, parse_deep_quote, parse_event_log),
    *(parse_evidence, parse_host_export, parse_launch_log, parse_manifest, parse_pair_record),
    *(parse_pem_certificate, parse_policy, parse_private_key, parse_proof, parse_public),
    *(parse_public_key, parse_quote, parse_request, parse_signature, unframe_answer),
    parse_revocation_list,
]
LAUNCH_LOG = write_launch_log([LaunchEvent(tag=Tag.BUILDER, data=b"{}")])
SEEDS = [
    LAUNCH_LOG,
    (DATA / "eventlog" / "event-sd-boot-fedora37.bin").read_bytes(),
    (DATA / "certificates" / "STM_ECC_01I.pem").read_bytes(),
    (DATA / "certificates" / "swtpm_ek_ecc.der").read_bytes(),
    (DATA / "ima" / "ng-templates.bin").read_bytes(),
    (DATA / "ima" / "ima-template.bin").read_bytes(),
    (DATA / "ima" / "ima-log-sha256").read_bytes(),
    bytes.fromhex("ff544347801800000000") + bytes(60),
    bytes.fromhex("00230001000b00050472000000100018000b00030010") + b"\x00\x20" * 30,
    b"TDQ1" + bytes(20),
]
ALGORITHMS_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELD_NAMES = [
    *("subject", "generation", "state", "signature"),
    *("format", "version", "entries", "ek", "ak", "authorities", "pcrs", "ptpm", "hardware_root"),
    *("answer", "guest", "firmware_log", "payload", "payloadType", "signatures", "credential"),
    *("credential_blob", "encrypted_secret", "kernel_release"),
]
FORMATS = [
    *("tandem-host-state-1", "tandem-host-approval-1"),
    *("tandem-library-1", "tandem-host-export-1", "tandem-evidence-1", "tandem-challenge-1"),
    *("tandem-proof-1", "tandem-policy-1"),
]


def check(reader: Reader, data: bytes) -> None:
    refusal: UntrustedInput | Refused | None = None
    try:
        reader(data)
    except (UntrustedInput, Refused) as error:
        refusal = error
    assert refusal is None or (refusal.code.startswith("TDM-") and "\n" not in refusal.problem)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(data=st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read_or_refused(reader: Reader, data: bytes) -> None:
    # Given any bytes
    # When they are read
    # Then a value or a refusal comes out
    check(reader, data)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(seed=st.sampled_from(SEEDS), changes=st.lists(st.tuples(st.integers(0), st.binary())))
@settings(max_examples=60, deadline=None)
def test_changed_real_bytes_are_read_or_refused(
    reader: Reader, seed: bytes, changes: list[tuple[int, bytes]]
) -> None:
    # Given real bytes with pieces overwritten
    data = bytearray(seed)
    for at, piece in changes:
        start = at % (len(data) + 1)
        data[start : start + len(piece)] = piece

    # When they are read
    # Then a value or a refusal comes out
    check(reader, bytes(data))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@given(
    format_name=st.sampled_from(FORMATS),
    fields=st.dictionaries(st.sampled_from(FIELD_NAMES), ALGORITHMS_JSON, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_any_json_is_read_or_refused(
    reader: Reader, format_name: str, fields: dict[str, Any]
) -> None:
    # Given a JSON object with the keys that some format has
    document = {"format": format_name} | fields

    # When it is read
    # Then a value or a refusal comes out
    check(reader, json.dumps(document).encode())


@given(
    st.lists(
        st.builds(
            LaunchEvent,
            tag=st.sampled_from([tag for tag in Tag if tag is not Tag.BUILDER]),
            data=st.binary(max_size=50),
        )
    )
)
def test_a_launch_log_always_reads_back(events: list[LaunchEvent]) -> None:
    # Given any events after the builder's own
    launch = [LaunchEvent(tag=Tag.BUILDER, data=b"{}"), *events]

    # When their log is written and read
    again = parse_launch_log(write_launch_log(launch))

    # Then the same events come out in extension order
    assert again == in_order(launch)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_a_path_of_any_tree_leads_to_its_root(shape: tuple[int, int]) -> None:
    # Given a tree of any size and one of its leaves
    size, index = shape
    leaves = [hashlib.sha256(bytes([each])).digest() for each in range(size)]

    # When the leaf's path is walked
    root, paths = tree_paths(leaves)
    found = root_of_path(leaves[index], index, size, paths[index])

    # Then it ends at the root
    assert found == root


@given(seed=st.sampled_from(SEEDS), at=st.integers(0), piece=st.binary(max_size=8))
def test_sets_in_order_stay_as_they_are(seed: bytes, at: int, piece: bytes) -> None:
    # Given bytes that may be DER
    start = at % (len(seed) + 1)
    data = seed[:start] + piece + seed[start + len(piece) :]
    try:
        once = with_sorted_sets(data)
    except ValueError:
        return

    # When their sets are put in order again
    # Then nothing changes, and nothing was lost
    assert with_sorted_sets(once) == once
    assert sorted(once) == sorted(data)
