"""Pairs at the Manager: one vTPM in one place, each message in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import Refused, TandemError, UntrustedInput, UsageError
from tandem.evidence.certificates import parse_certificate
from tandem.evidence.pair_record import parse_pair_record, record_digest
from tandem.evidence.tpm_types import parse_public
from tandem.manager import records
from tandem.manager.pairs import Pair, Pairs
from tandem.wire.manager_rpc import CertifyEks, CommitState, Prepare
from tests.unit.manager.software_host import NOW, ak, ecc_ek, open_pair, rsa_ek, software_host

Act = Callable[[Pairs, Pair], object]
OTHERS_LIBRARY = replace(open_pair(), signers=("another key",), successors=("another key",))


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    host, _ = software_host(tmp_path)
    return Pairs(host, lambda: NOW)


def certified(pairs: Pairs, vtpm: str = "web", *, ephemeral: bool = False) -> tuple[Pair, bytes]:
    """Open a pair, greet it and certify its EKs; gives the RSA one too."""
    pair, _ = pairs.open(open_pair(vtpm, ephemeral=ephemeral))
    pairs.welcome(pair)
    ek = rsa_ek()
    pairs.certify(pair, CertifyEks(rsa=ek, ecc=ecc_ek()))
    return pair, ek


def prepare(ek: bytes) -> Prepare:
    return Prepare(ek=ek, ak=ak(), reset_count=3, restart_count=0)


def test_a_vtpm_serves_one_pair_at_a_time(pairs: Pairs) -> None:
    # Given a pair
    pair, _ = pairs.open(open_pair())
    # When its vTPM is asked for again, and once more after its end
    with pytest.raises(Refused) as raised:
        pairs.open(open_pair())
    pairs.close(pair.pair_id)
    again, opened = pairs.open(open_pair())
    # Then it is refused while it is in use, and opened as the next launch after that
    assert raised.value.code == "TDM-VTPM-IN-USE"
    assert opened.launch_number == 2
    assert again.pair_id != pair.pair_id


def test_a_persistent_vtpm_stays_the_same_and_an_ephemeral_one_never(pairs: Pairs) -> None:
    # Given a vTPM of either kind, launched twice
    found = {}
    for name, ephemeral in (("kept", False), ("brief", True)):
        launches = []
        for _ in range(2):
            pair, _ = pairs.open(open_pair(name, ephemeral=ephemeral))
            launches.append(pairs.welcome(pair))
            pairs.close(pair.pair_id)
        found[name] = launches
    # When identities and keys are compared
    first, second = found["kept"]
    once, twice = found["brief"]
    # Then the first kept both, and the second has new ones
    assert (first.vtpm_id, first.key) == (second.vtpm_id, second.key)
    assert not {once.vtpm_id, once.key} & {twice.vtpm_id, twice.key}


def test_the_record_holds_what_the_manager_knows(pairs: Pairs) -> None:
    # Given a pair whose vTPM is certified
    pair, ek = certified(pairs)
    asked = prepare(ek)
    # When the vTPM prepares
    prepared = pairs.prepare(pair, asked)
    # Then the record is of this launch, and the AK's certificate holds its digest
    record = parse_pair_record(prepared.record)
    assert (record.pair_id, record.vtpm, record.launch_number) == (pair.pair_id, "web", 1)
    assert (record.reset_count, record.started_at) == (3, int(NOW.timestamp()))
    assert record.ak_name == parse_public(asked.ak).name
    certificate = parse_certificate(prepared.ak_certificate)
    assert certificate.pair_record_digest == record_digest(prepared.record)


def test_a_state_is_the_next_one(pairs: Pairs) -> None:
    # Given a vTPM with its first state
    pair, _ = certified(pairs)
    pairs.commit_state(pair, CommitState(version=1, digest=b"1" * 32))
    # When its pair ends and the next begins
    pairs.close(pair.pair_id)
    following, _ = pairs.open(open_pair())
    # Then that state is the one it may open
    welcome = pairs.welcome(following)
    assert (welcome.state_version, welcome.state_digest) == (1, b"1" * 32)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (open_pair(guest="other"), "TDM-VTPM-OF-ANOTHER"),
        (open_pair(ephemeral=True), "TDM-VTPM-PERSISTENT"),
        (replace(open_pair("new"), group="unknown"), "TDM-GROUP-UNKNOWN"),
        (OTHERS_LIBRARY, "TDM-VTPM-OTHER-LIBRARY"),
        (replace(open_pair("new"), signers=("another key",)), "TDM-PAIR-LIBRARY-BAD"),
        (replace(open_pair("new"), library="No Name"), "TDM-NAME-NOT-A-LABEL"),
        (replace(open_pair(), launch_log_digest=b""), "TDM-PAIR-FIELD-BAD"),
        (replace(open_pair(), hypervisor="q" * 257), "TDM-PAIR-FIELD-BAD"),
        (open_pair("No Name"), "TDM-NAME-NOT-A-LABEL"),
    ],
)
def test_a_pair_that_makes_no_sense_is_not_opened(pairs: Pairs, asked: object, code: str) -> None:
    # Given a persistent vTPM of guest `web`
    pair, _ = pairs.open(open_pair())
    pairs.close(pair.pair_id)
    # When something else is asked of it
    with pytest.raises((Refused, UntrustedInput, UsageError)) as raised:
        pairs.open(asked)  # type: ignore[arg-type]
    # Then it is refused by name, and nothing is open
    assert (raised.value.code, len(pairs)) == (code, 0)


OUT_OF_PLACE: dict[str, Act] = {
    "a second Hello": lambda pairs, pair: pairs.welcome(pair),
    "a state that skips one": lambda pairs, pair: pairs.commit_state(
        pair, CommitState(version=2, digest=bytes(32))
    ),
    "a state without a digest": lambda pairs, pair: pairs.commit_state(
        pair, CommitState(version=1, digest=b"")
    ),
    "an AK in the EK's place": lambda pairs, pair: pairs.certify(
        pair, CertifyEks(rsa=ak(), ecc=ecc_ek())
    ),
    "EKs the wrong way round": lambda pairs, pair: pairs.certify(
        pair, CertifyEks(rsa=ecc_ek(), ecc=rsa_ek())
    ),
    "bytes that are no key": lambda pairs, pair: pairs.certify(pair, CertifyEks(rsa=b"", ecc=b"")),
    "an EK never certified": lambda pairs, pair: pairs.prepare(pair, prepare(rsa_ek())),
}


@pytest.mark.parametrize("what", OUT_OF_PLACE)
def test_a_message_out_of_place_ends_the_vtpm(pairs: Pairs, what: str) -> None:
    # Given a vTPM that was greeted
    pair, _ = certified(pairs)
    # When it asks for what it may not
    # Then that is hostile input, for which the service closes its channel
    with pytest.raises(UntrustedInput):
        OUT_OF_PLACE[what](pairs, pair)


def test_nothing_comes_before_hello(pairs: Pairs) -> None:
    # Given a pair whose vTPM said nothing yet
    pair, _ = pairs.open(open_pair())
    asked: list[Act] = [
        lambda pairs, pair: pairs.certify(pair, CertifyEks(rsa=rsa_ek(), ecc=ecc_ek())),
        lambda pairs, pair: pairs.prepare(pair, prepare(rsa_ek())),
        lambda pairs, pair: pairs.commit_state(pair, CommitState(version=1, digest=bytes(32))),
    ]
    # When it asks for anything
    # Then it is refused
    for ask in asked:
        with pytest.raises(TandemError):
            ask(pairs, pair)


def test_an_ak_that_signs_foreign_data_is_not_certified(pairs: Pairs) -> None:
    # Given an AK template without the restricted attribute
    pair, ek = certified(pairs)
    loose = bytearray(ak())
    loose[5] &= 0xFE  # TPMA_OBJECT.restricted, bit 16
    # When the vTPM prepares with it
    # Then it is refused: its signatures would prove nothing
    with pytest.raises(UntrustedInput):
        pairs.prepare(pair, replace(prepare(ek), ak=bytes(loose)))


def test_certificates_are_issued_before_the_first_state_only(pairs: Pairs) -> None:
    # Given a vTPM that has a state
    pair, ek = certified(pairs)
    pairs.commit_state(pair, CommitState(version=1, digest=bytes(32)))
    # When it wants other EKs certified
    # Then it is refused
    with pytest.raises(UntrustedInput):
        pairs.certify(pair, CertifyEks(rsa=rsa_ek(), ecc=ecc_ek()))
    # And its certified EK is known at its next launch
    pairs.close(pair.pair_id)
    following, _ = pairs.open(open_pair())
    pairs.welcome(following)
    assert pairs.prepare(following, prepare(ek)).record


def test_an_ak_is_certified_again_in_its_launch(pairs: Pairs) -> None:
    # Given a prepared vTPM
    pair, ek = certified(pairs)
    prepared = pairs.prepare(pair, prepare(ek))
    # When its AK is certified again
    renewed = pairs.renew_ak(pair)
    # Then it is another certificate for the same key, launch and counts
    first, second = map(parse_certificate, (prepared.ak_certificate, renewed.ak_certificate))
    assert first.serial != second.serial
    assert first.parsed.public_key() == second.parsed.public_key()
    assert first.pair_record_digest == second.pair_record_digest
    assert second.expected_counts == (3, 0)
    # And both can be revoked, for the vTPM's record has their serial numbers
    pairs.close(pair.pair_id)
    following, _ = pairs.open(open_pair())
    serials = {int.from_bytes(serial) for serial in following.state.ak_serials}
    assert serials == {first.serial, second.serial}


def test_an_ak_is_not_certified_again_before_the_first_time(pairs: Pairs) -> None:
    # Given a vTPM that did not prepare
    pair, _ = certified(pairs)
    # When it asks for a renewal
    # Then that is hostile input
    with pytest.raises(UntrustedInput):
        pairs.renew_ak(pair)


def test_the_serial_numbers_of_ek_certificates_are_kept(pairs: Pairs) -> None:
    # Given a new vTPM with its first state
    pair, _ = pairs.open(open_pair())
    pairs.welcome(pair)
    issued = pairs.certify(pair, CertifyEks(rsa=rsa_ek(), ecc=ecc_ek()))
    pairs.commit_state(pair, CommitState(version=1, digest=bytes(32)))
    # When it is launched again
    pairs.close(pair.pair_id)
    following, _ = pairs.open(open_pair())
    # Then its record still has them
    serials = {int.from_bytes(serial) for serial in following.state.ek_serials}
    assert serials == {parse_certificate(der).serial for der in (issued.rsa, issued.ecc)}


def test_a_guest_that_starts_without_end_does_not_fill_its_record(pairs: Pairs) -> None:
    # Given a vTPM with its first state
    pair, ek = certified(pairs)
    pairs.commit_state(pair, CommitState(version=1, digest=bytes(32)))
    # When it is launched very often within a day
    for version in range(2, records.AK_SERIALS_MOST + 7):
        pairs.close(pair.pair_id)
        pair, _ = pairs.open(open_pair())
        pairs.welcome(pair)
        last = pairs.prepare(pair, prepare(ek))
        pairs.commit_state(pair, CommitState(version=version, digest=bytes(32)))
    # Then the newest certificates can be revoked, and the record stays small
    assert len(pair.state.ak_serials) == records.AK_SERIALS_MOST
    serials = {int.from_bytes(serial) for serial in pair.state.ak_serials}
    assert parse_certificate(last.ak_certificate).serial in serials


@pytest.mark.parametrize("count", ["reset_count", "restart_count"])
def test_counts_that_no_tpm_has_are_not_certified(pairs: Pairs, count: str) -> None:
    # Given a certified vTPM
    pair, ek = certified(pairs)
    most: dict[str, Any] = {count: (1 << 32) - 1}
    # When it expects a count of more than 32 bits, which a certificate would not be read with
    with pytest.raises(UntrustedInput):
        pairs.prepare(pair, replace(prepare(ek), **{count: most[count] + 1}))
    # Then it is refused, and the largest that there is is not
    assert pairs.prepare(pair, replace(prepare(ek), **most)).ak_certificate


def test_each_launch_writes_under_a_key_of_its_own(pairs: Pairs) -> None:
    # Given a vTPM that wrote a state in its first launch, and none in its second
    first, _ = certified(pairs)
    pairs.commit_state(first, CommitState(version=1, digest=b"d" * 32))
    copied = first.state
    pairs.close(first.pair_id)
    second, _ = pairs.open(open_pair())
    pairs.close(second.pair_id)
    # When it is launched for the third time, and writes
    third, _ = pairs.open(open_pair())
    welcome = pairs.welcome(third)
    pairs.commit_state(third, CommitState(version=2, digest=b"e" * 32))
    # Then it reads what the first wrote, and writes what no copy of the earlier store can read
    assert welcome.former_state_key == copied.state_key == copied.launch_key
    assert third.state.state_key == welcome.state_key
    assert welcome.state_key not in (copied.key, copied.state_key, copied.launch_key)
    assert welcome.key == copied.key
