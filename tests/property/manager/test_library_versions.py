"""The Manager's memory of libraries against a plain one, over any order of launches."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import Refused
from tandem.evidence.signers import Signers
from tandem.manager.libraries import Libraries
from tandem.wire.manager_rpc import OpenPair
from tests.unit.manager.software_host import open_pair

KEYS = st.sets(st.sampled_from("ABC"), min_size=1)


class Staged:
    """What `Libraries` needs of a store."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self.records.get(name)

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.records if name.startswith(prefix))

    def stage(self, name: str, content: bytes) -> None:
        self.records[name] = content


@st.composite
def launches(draw: st.DrawFn) -> OpenPair:
    """Give a launch from some version, signed by some, that names some of whom enough signed."""
    signed = draw(KEYS)
    named = draw(KEYS.filter(lambda keys: bool(keys & signed)))
    return replace(
        open_pair(),
        manifest_version=draw(st.integers(1, 5)),
        manifest_digest=draw(st.sampled_from([b"x" * 32, b"y" * 32])),
        signers=tuple(sorted(signed)),
        successors=tuple(sorted(named)),
        threshold=draw(st.integers(1, len(named & signed))),
    )


@given(asked=st.lists(launches(), max_size=12))
def test_no_signers_ever_go_back(asked: list[OpenPair]) -> None:
    # Given launches from any versions, signed by anybody, in any order
    libraries = Libraries(Staged())  # type: ignore[arg-type]
    admitted: list[OpenPair] = []
    for each in asked:
        own = Signers(key_ids=each.successors, threshold=each.threshold)
        since = admitted[first_of(own, admitted) :]
        seen = [before for before in since if own.are_met_by(before.signers)]
        newest = max((before.manifest_version for before in seen), default=0)
        first = [before.manifest_digest for before in seen if before.manifest_version == newest][:1]
        # When one comes
        try:
            libraries.admit(each)
        # Then it is refused exactly where the signers that it names signed a higher version since
        # they were first seen, or another one of that number
        except Refused:
            older = each.manifest_version < newest
            twice = each.manifest_version == newest and [each.manifest_digest] != first
            assert older or twice
        else:
            assert each.manifest_version >= newest
            admitted.append(each)


def first_of(signers: Signers, admitted: list[OpenPair]) -> int:
    """Give the number of the first launch that named these signers."""
    return next(
        (
            number
            for number, each in enumerate(admitted)
            if (each.successors, each.threshold) == (signers.key_ids, signers.threshold)
        ),
        len(admitted),
    )
