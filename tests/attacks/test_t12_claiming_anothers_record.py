"""T12: a vTPM that its guest took over asks for a deep quote over another pair's record.

Attacker: a guest that escaped into its vTPM's process, and so holds its key channel.
Control: a Manager that signs the digest it is given (the guest's own choice, as in vtpmmgr's
deep quote with flags 0): the pTPM's quote binds the attacker's quote to the victim's record.
Shows: the Manager names the record by the connection; the channel has no message that names
another; what is put together by hand breaks the chain, by name
(deep-quote-holds-record-and-vtpm-quote).
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator

import pytest

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.rules import Rule
from tandem.channel import Channel, Closed, expect
from tandem.errors import TandemError
from tandem.evidence.attest import parse_quote
from tandem.evidence.deep_quote import leaf_hash, quote_digest
from tandem.evidence.merkle import tree_paths
from tandem.evidence.pair_record import record_digest
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tandem.values import Secret
from tandem.wire.manager_rpc import (
    BUILDER_REQUESTS,
    VTPM_ANSWERS,
    VTPM_REQUESTS,
    AskDeepQuote,
    ClosePair,
    DeepQuoted,
    PairRejoins,
    Rejoin,
    Rejoined,
    RejoinPair,
)
from tandem.wire.rejoin import rejoin_proof
from tests.attacks.disk import AttackedHost
from tests.attacks.launches import against
from tests.attacks.quoting_tpm import quoted
from tests.integration.manager.running_manager import SECONDS, Vtpm, open_pair
from tests.unit.appraisal.forge import Forge

OWN_QUOTE = quote_digest(b"TPMS_ATTEST of the attacker's vTPM", b"its signature")
SALT = bytes(range(32))


def test_control_a_manager_that_signs_what_it_is_given_binds_the_victims_record(
    shared: SharedTpm,
) -> None:
    # Given the victim's record, which is no secret, and a Manager with a key in the host's TPM
    victim = record_digest(Forge().record().encode())

    # When the attacker's vTPM gives the digest of a leaf with that record, and it is signed
    leaf = leaf_hash(SALT, victim, OWN_QUOTE)
    root, _ = tree_paths([leaf])
    signed = quoted(shared, (0,), root)

    # Then a verifier that computes the leaf of the victim finds it in the host's quote
    assert signed.holds
    assert signed.quote.qualifying_data == tree_paths([leaf_hash(SALT, victim, OWN_QUOTE)])[0]


@pytest.fixture(scope="module")
def host() -> Iterator[AttackedHost]:
    with AttackedHost() as host:
        yield host


def test_the_manager_names_the_record_of_the_connection(host: AttackedHost) -> None:
    # Given a real Manager, with a victim's launch and an attacker's
    vtpms = {name: host.manager.vtpm(name) for name in ("victim", "mallory")}
    records = {name: vtpm.prepare().record for name, vtpm in vtpms.items()}

    # When the attacker asks for a deep quote of a quote of its own
    ask = AskDeepQuote(vtpm_quote_digest=OWN_QUOTE)
    answer = vtpms["mallory"].channel.ask(ask, DeepQuoted)

    # Then what the pTPM signed is a leaf with the attacker's record, and with no other
    root = parse_quote(answer.attest).qualifying_data
    roots = {
        name: tree_paths([leaf_hash(answer.salt, record_digest(record), OWN_QUOTE)])[0]
        for name, record in records.items()
    }
    assert root == roots["mallory"]
    assert root != roots["victim"]


@pytest.mark.parametrize("kind", ["open", "close", "noise"])
def test_its_channel_has_no_message_that_names_another(host: AttackedHost, kind: str) -> None:
    # Given a real Manager, with a victim's launch and an attacker's
    victim, attacker = (host.manager.vtpm(f"{name}-{kind}") for name in ("victim", "mallory"))
    victim.prepare()
    attacker.prepare()

    # When the attacker sends what a builder would say about the victim's
    messages = {
        "open": BUILDER_REQUESTS.encode(open_pair(f"victim-{kind}")),
        "close": BUILDER_REQUESTS.encode(ClosePair(pair_id=victim.opened.pair_id)),
        "noise": secrets.token_bytes(200),
    }
    attacker.channel.sock.sendall(messages[kind])
    with pytest.raises((TandemError, Closed)):
        expect(attacker.channel.receive()[0], DeepQuoted)

    # Then it has lost its own launch at most, and the victim is served on
    ask = AskDeepQuote(vtpm_quote_digest=OWN_QUOTE)
    victim.channel.ask(ask, DeepQuoted)


@pytest.mark.parametrize("shown", ["own ticket", "stolen ticket"])
def test_a_record_is_not_taken_over_when_the_manager_was_started_again(shown: str) -> None:
    # Given a victim and an attacker whose launches a Manager opened that has ended since
    with AttackedHost() as host:
        vtpms = {name: host.manager.vtpm(name) for name in ("victim", "mallory")}
        prepared = {name: vtpm.prepare() for name, vtpm in vtpms.items()}
        for vtpm in vtpms.values():
            vtpm.commit(1)
        host.manager.stop()
        host.manager.start()
        thief = "victim" if shown == "stolen ticket" else "mallory"

        # When the attacker rejoins with the victim's record, on the channel that was made for him
        with pytest.raises(TandemError) as raised:
            rejoin(host, vtpms["mallory"], prepared["victim"].record, prepared[thief].ticket)

        # Then it is refused, and the victim rejoins with what is his
        assert raised.value.code == "TDM-REJOIN-REFUSED"
        own = prepared["victim"]
        assert rejoin(host, vtpms["victim"], own.record, own.ticket).state_version == 1


def rejoin(host: AttackedHost, vtpm: Vtpm, record: bytes, ticket: bytes) -> Rejoined:
    """Ask as builder for a vTPM's new key channel, and show on it what a vTPM has to show."""
    builder = host.manager.connect()
    builder.send(RejoinPair(pair_id=vtpm.opened.pair_id, vtpm=vtpm.welcome.vtpm))
    message, descriptors = builder.receive_any()
    nonce = expect(message, PairRejoins).nonce
    proof = rejoin_proof(
        Secret(vtpm.welcome.key),
        nonce=nonce,
        pair_id=vtpm.opened.pair_id,
        state_version=1,
        state_digest=(1).to_bytes(32),
    )
    sock = socket.socket(fileno=descriptors[0])
    sock.settimeout(SECONDS)
    with sock:
        channel = Channel(sock, sends=VTPM_REQUESTS, receives=VTPM_ANSWERS)
        asked = Rejoin(
            record=record,
            ak=vtpm_ak_public(vtpm.ak_key.public_key()),
            ticket=ticket,
            state_version=1,
            state_digest=(1).to_bytes(32),
            proof=proof,
        )
        return channel.ask(asked, Rejoined)


def test_an_answer_with_the_victims_record_put_into_it_is_told() -> None:
    # Given a genuine deep quote of the attacker's, and the victim's genuine record
    attacker, victim = Forge(guest="mallory"), Forge()
    attacker.answer_changes = {"record": victim.record().encode()}

    # When it is appraised by the victim's policy
    verdict = attacker.verdict()

    # Then the chain from host to record is broken, and named
    found = against(verdict)
    assert Rule.LEAF_QUOTED.title in found
    assert Rule.VTPM_QUOTE_QUALIFIED.title in found
    assert verdict.word != "trusted"
