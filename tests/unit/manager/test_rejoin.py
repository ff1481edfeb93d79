"""A pair rejoins a Manager that was started again: its own vTPM does, and nobody else."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.errors import Refused, UntrustedInput
from tandem.manager.host import Host
from tandem.manager.pairs import Pair, Pairs
from tandem.values import Secret
from tandem.wire.manager_rpc import (
    CertifyEks,
    CommitState,
    PairRejoins,
    Prepare,
    Rejoin,
    RejoinPair,
)
from tandem.wire.rejoin import rejoin_proof
from tests.unit.manager.software_host import NOW, ak, ecc_ek, open_pair, rsa_ek, software_host

EK, AK = rsa_ek(), ak()


@dataclass
class Vtpm:
    """What a vTPM process knows, whatever becomes of its Manager."""

    pair_id: bytes
    vtpm: str
    key: bytes
    record: bytes
    ticket: bytes
    version: int
    digest: bytes

    def shows(self, rejoins: PairRejoins, **changes: object) -> Rejoin:
        """Give what it says on the new channel; `changes` to it are an attacker's."""
        proof = rejoin_proof(
            Secret(self.key),
            nonce=rejoins.nonce,
            pair_id=self.pair_id,
            state_version=self.version,
            state_digest=self.digest,
        )
        shown = Rejoin(
            record=self.record,
            ak=AK,
            ticket=self.ticket,
            state_version=self.version,
            state_digest=self.digest,
            proof=proof,
        )
        return replace(shown, **changes)  # type: ignore[arg-type]


class World:
    """One host, and Managers one after the other."""

    def __init__(self, directory: Path) -> None:
        self.host: Host
        self.host, _ = software_host(directory)
        self.pairs = Pairs(self.host, lambda: NOW)

    def launch(self, name: str = "web", *, ephemeral: bool = False) -> Vtpm:
        """Launch a vTPM up to its guest's start."""
        pair, _ = self.pairs.open(open_pair(name, ephemeral=ephemeral))
        welcome = self.pairs.welcome(pair)
        if not welcome.state_version:
            self.pairs.certify(pair, CertifyEks(rsa=EK, ecc=ecc_ek()))
        prepared = self.pairs.prepare(pair, Prepare(ek=EK, ak=AK, reset_count=1, restart_count=0))
        version = welcome.state_version + 1
        digest = version.to_bytes(32)
        self.pairs.commit_state(pair, CommitState(version=version, digest=digest))
        return Vtpm(
            pair_id=pair.pair_id,
            vtpm=name,
            key=welcome.key,
            record=prepared.record,
            ticket=prepared.ticket,
            version=version,
            digest=digest,
        )

    def restart(self) -> None:
        """Have the next Manager: it knows what the store holds, and nothing more."""
        self.host.store.commit()
        self.host.vtpms.look()
        self.pairs = Pairs(self.host, lambda: NOW)

    def expect(self, vtpm: Vtpm) -> tuple[Pair, PairRejoins]:
        return self.pairs.await_rejoin(RejoinPair(pair_id=vtpm.pair_id, vtpm=vtpm.vtpm))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("ephemeral", [False, True])
def test_a_pair_goes_on_with_its_record_and_its_state(world: World, ephemeral: bool) -> None:
    # Given a pair whose Manager was started again
    vtpm = world.launch(ephemeral=ephemeral)
    world.restart()
    # When its vTPM proves who it is
    pair, rejoins = world.expect(vtpm)
    rejoined = world.pairs.rejoin(pair, vtpm.shows(rejoins))
    # Then it is the same pair, and its next state follows on the last
    assert (rejoined.state_version, rejoined.state_digest) == (vtpm.version, vtpm.digest)
    assert pair.record == vtpm.record
    assert (pair.guest, pair.group) == ("web", "default")
    following = CommitState(version=vtpm.version + 1, digest=b"d" * 32)
    assert world.pairs.commit_state(pair, following).version == vtpm.version + 1
    assert world.pairs.renew_ak(pair).ak_certificate


def test_a_start_writes_the_store_no_oftener_than_it_did(world: World) -> None:
    # Given a host
    commits = world.host.store.commits
    # When an ephemeral vTPM is launched
    world.launch(ephemeral=True)
    # Then there is nothing to be written but the library's version, which comes but once
    world.host.store.commit()
    world.launch("other", ephemeral=True)
    assert not world.host.store.dirty
    assert world.host.store.commits == commits + 1


def test_a_vtpm_in_use_since_before_the_start_is_given_to_nobody(world: World) -> None:
    # Given a pair that may live, and a Manager that was started again
    vtpm = world.launch()
    world.restart()
    # When a second guest's launch is asked for, before the builder says what lives and after
    with pytest.raises(Refused) as before:
        world.pairs.open(open_pair("web"))
    pair, _ = world.expect(vtpm)
    world.pairs.attend()
    with pytest.raises(Refused) as after:
        world.pairs.open(open_pair("web"))
    # Then it is refused until the pair has ended
    assert before.value.code == after.value.code == "TDM-VTPM-IN-USE"
    world.pairs.close(pair.pair_id)
    assert world.pairs.open(open_pair("web"))[1].launch_number == 2


def test_what_does_not_live_is_free_once_the_builder_has_said_so(world: World) -> None:
    # Given a pair that ended with its Manager
    world.launch()
    world.restart()
    # When the builder attends, and names no pair
    world.pairs.attend()
    # Then its vTPM is launched again
    assert world.pairs.open(open_pair("web"))[1].launch_number == 2


def test_a_pair_that_has_its_channel_gets_no_other(world: World) -> None:
    # Given a pair whose Manager lives
    vtpm = world.launch()
    # When a builder that was started again asks for it, or for the same vTPM by another pair
    codes = []
    for pair_id in (vtpm.pair_id, b"o" * 16):
        with pytest.raises(Refused) as refused:
            world.pairs.await_rejoin(RejoinPair(pair_id=pair_id, vtpm="web"))
        codes.append(refused.value.code)
    # Then there is no second place
    assert codes == ["TDM-PAIR-JOINED", "TDM-VTPM-IN-USE"]


Attack = Callable[[World, Vtpm, Vtpm, PairRejoins], Rejoin]
ATTACKS: dict[str, Attack] = {
    "with the record and ticket of its own": lambda _, other, mine, rejoins: replace(
        mine.shows(rejoins)
    ),
    "with the other's record and its own ticket": lambda _, other, mine, rejoins: mine.shows(
        rejoins, record=other.record
    ),
    "with all that is not secret of the other": lambda _, other, mine, rejoins: replace(
        other, key=mine.key
    ).shows(rejoins),
    "with a proof for an earlier channel": lambda _, other, mine, rejoins: other.shows(
        PairRejoins(nonce=bytes(32)), record=other.record
    ),
    "with a ticket that it guessed": lambda _, other, mine, rejoins: other.shows(
        rejoins, ticket=secrets.token_bytes(32)
    ),
    "with a later state than it proved": lambda _, other, mine, rejoins: other.shows(
        rejoins, state_version=other.version + 1
    ),
    "with another's AK": lambda _, other, mine, rejoins: other.shows(rejoins, ak=ak()),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_rejoins_as_the_other_half_of_anothers_pair(world: World, attack: str) -> None:
    # Given two pairs, and the key channel that was made for one of them in the other's hands
    theirs, mine = world.launch("web"), world.launch("evil")
    world.restart()
    pair, rejoins = world.expect(theirs)
    # When the other one's vTPM claims to be it
    with pytest.raises(UntrustedInput) as refused:
        world.pairs.rejoin(pair, ATTACKS[attack](world, theirs, mine, rejoins))
    # Then it is found out, and gets no record and no state
    assert refused.value.code in ("TDM-REJOIN-REFUSED", "TDM-VTPM-OUT-OF-PLACE")
    assert pair.record == b""
    with pytest.raises(UntrustedInput):
        world.pairs.commit_state(pair, CommitState(version=2, digest=bytes(32)))


def test_a_key_channel_made_anew_gives_no_key(world: World) -> None:
    # Given the new key channel of a pair
    vtpm = world.launch()
    world.restart()
    pair, rejoins = world.expect(vtpm)
    # When whoever has it asks as a vTPM does that begins
    for ask in (world.pairs.welcome, world.pairs.renew_ak):
        with pytest.raises(UntrustedInput) as refused:
            ask(pair)
        assert refused.value.code == "TDM-VTPM-OUT-OF-PLACE"
    # Then it learns nothing, and the vTPM itself may still prove who it is, once
    world.pairs.rejoin(pair, vtpm.shows(rejoins))
    with pytest.raises(UntrustedInput):
        world.pairs.rejoin(pair, vtpm.shows(rejoins))


def test_a_first_key_channel_takes_no_proof(world: World) -> None:
    # Given a launch that was just opened
    vtpm = world.launch("evil")
    pair, _ = world.pairs.open(open_pair("web"))
    # When its vTPM would rejoin
    with pytest.raises(UntrustedInput) as refused:
        world.pairs.rejoin(pair, vtpm.shows(PairRejoins(nonce=b"")))
    # Then that has no place
    assert refused.value.code == "TDM-VTPM-OUT-OF-PLACE"


def test_an_earlier_launch_of_the_same_vtpm_is_over(world: World) -> None:
    # Given a vTPM that was launched twice, and kept what it knew in its first launch
    first = world.launch()
    world.pairs.close(first.pair_id)
    world.launch()
    world.restart()
    # When it would go on as its first launch, of another log and another guest's state
    pair, rejoins = world.expect(first)
    with pytest.raises(UntrustedInput) as refused:
        world.pairs.rejoin(pair, first.shows(rejoins))
    # Then it is told that this one is over
    assert refused.value.code == "TDM-REJOIN-REFUSED"


def test_an_ephemeral_vtpm_does_not_become_a_persistent_one(world: World) -> None:
    # Given an ephemeral pair, and a persistent vTPM made under its name while it was away
    vtpm = world.launch("web", ephemeral=True)
    world.restart()
    world.pairs.attend()
    later = world.launch("web")
    world.restart()
    # When it rejoins as that one
    pair, rejoins = world.expect(vtpm)
    with pytest.raises(UntrustedInput) as refused:
        world.pairs.rejoin(pair, vtpm.shows(rejoins))
    # Then it is refused, and nothing of its state is recorded
    assert refused.value.code == "TDM-REJOIN-REFUSED"
    assert later.version == 1


@given(
    record=st.binary(max_size=300),
    ticket=st.binary(max_size=40),
    version=st.integers(min_value=-1, max_value=1 << 70),
    digest=st.binary(max_size=40),
    proof=st.binary(max_size=40),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_it_is_refused(
    world: World, record: bytes, ticket: bytes, version: int, digest: bytes, proof: bytes
) -> None:
    # Given a pair that is expected
    fresh = Vtpm(secrets.token_bytes(16), secrets.token_hex(8), b"", b"", b"", 0, b"")
    pair, _ = world.expect(fresh)
    # When something arbitrary comes
    asked = Rejoin(
        record=record,
        ak=AK,
        ticket=ticket,
        state_version=version,
        state_digest=digest,
        proof=proof,
    )
    # Then it is hostile input, and no defect
    with pytest.raises(UntrustedInput):
        world.pairs.rejoin(pair, asked)
