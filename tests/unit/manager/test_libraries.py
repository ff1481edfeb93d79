"""Libraries at the Manager: each set of signers is held to the highest version that it signed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.errors import Refused, UntrustedInput
from tandem.manager.libraries import Libraries
from tandem.manager.store import Store
from tandem.wire.manager_rpc import OpenPair
from tests.unit.manager.software_host import open_pair, software_host


@pytest.fixture
def store(tmp_path: Path) -> Store:
    host, _ = software_host(tmp_path)
    return host.store


@pytest.fixture
def libraries(store: Store) -> Libraries:
    return Libraries(store)


def version(
    number: int,
    signed: Iterable[str] = "A",
    *,
    successors: Iterable[str] = "A",
    threshold: int = 1,
    content: str = "",
    name: str = "main",
) -> OpenPair:
    """Give a launch from version `number`, signed by keys of one letter each."""
    return replace(
        open_pair(),
        library=name,
        manifest_version=number,
        manifest_digest=hashlib.sha256(f"{number}{content}".encode()).digest(),
        signers=tuple(signed),
        successors=tuple(successors),
        threshold=threshold,
    )


def refused(libraries: Libraries, asked: OpenPair) -> Refused:
    with pytest.raises(Refused) as raised:
        libraries.admit(asked)
    return raised.value


def test_the_same_version_may_launch_again_and_a_higher_one_follows(libraries: Libraries) -> None:
    # Given a library of version 5
    libraries.admit(version(5))
    # When launches come from it again, then from version 9
    libraries.admit(version(5))
    libraries.admit(version(9))
    # Then version 5 is older now
    assert refused(libraries, version(5)).code == "TDM-LIBRARY-OLDER"


def test_an_older_version_is_refused_and_the_newest_one_named(libraries: Libraries) -> None:
    # Given version 5, seen in a launch
    libraries.admit(version(5))
    # When version 4 comes, whose signature holds as well
    error = refused(libraries, version(4))
    # Then it is refused, and both are named
    assert error.code == "TDM-LIBRARY-OLDER"
    assert "version 4" in error.problem
    assert "version 5" in error.problem


def test_two_libraries_with_one_number_are_not_both_admitted(libraries: Libraries) -> None:
    # Given version 5
    libraries.admit(version(5))
    # When another version 5 comes that the same key signed
    error = refused(libraries, version(5, content="other"))
    # Then it is refused: an equal number is no newer one
    assert error.code == "TDM-LIBRARY-VERSION-TWICE"


def test_what_old_and_new_signers_sign_together_ends_all_before_it(libraries: Libraries) -> None:
    # Given version 5 of A, and version 6, signed by both, which names B
    libraries.admit(version(5))
    libraries.admit(version(6, "AB", successors="B"))
    # When B alone signs version 7
    libraries.admit(version(7, "B", successors="B"))
    # Then neither what A signed before nor what both signed comes back
    assert refused(libraries, version(5)).code == "TDM-LIBRARY-OLDER"
    assert refused(libraries, version(6, "AB", successors="B")).code == "TDM-LIBRARY-OLDER"


def test_somebody_elses_library_of_that_name_raises_nobodys_version(libraries: Libraries) -> None:
    # Given version 5 of A
    libraries.admit(version(5))
    # When M signs a library of the same name with the highest version there is
    libraries.admit(version((1 << 63) - 1, "M", successors="M"))
    # Then A's next one is admitted
    libraries.admit(version(6))


def test_one_of_two_signers_raises_no_version_of_both(libraries: Libraries) -> None:
    # Given version 5, which takes both of A and B
    libraries.admit(version(5, "AB", successors="AB", threshold=2))
    # When A alone signs one of its own, far ahead
    libraries.admit(version(1000, "A"))
    # Then both go on with version 6
    libraries.admit(version(6, "AB", successors="AB", threshold=2))


def test_libraries_of_two_names_have_versions_of_their_own(libraries: Libraries) -> None:
    # Given version 5 of library main
    libraries.admit(version(5))
    # When version 1 of library test comes from the same signer
    # Then it is admitted
    libraries.admit(version(1, name="test"))


def test_what_was_seen_survives_the_managers_end(store: Store) -> None:
    # Given version 5, committed
    Libraries(store).admit(version(5))
    store.commit()
    # When the store is looked at by another
    error = refused(Libraries(store), version(4))
    # Then it knows
    assert error.code == "TDM-LIBRARY-OLDER"


def test_a_forgotten_library_begins_anew(libraries: Libraries) -> None:
    # Given a library that a thief of its key signed with the highest version there is
    libraries.admit(version((1 << 63) - 1))
    # When the administrator has it forgotten
    assert libraries.forget("main") == 1
    # Then version 1 is admitted
    libraries.admit(version(1))


def test_what_somebody_else_had_forgotten_holds_nothing_back(store: Store) -> None:
    # Given a library that is known to whoever opens pairs
    libraries = Libraries(store)
    libraries.admit(version(5))
    # When an administrator has it forgotten
    Libraries(store).forget("main")
    # Then an older version is admitted, and holds from then on
    libraries.admit(version(3))
    assert refused(libraries, version(2)).code == "TDM-LIBRARY-OLDER"


def test_a_launch_does_not_go_through_the_names_of_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given whoever opens pairs, on a store that may have ten thousand records
    libraries = Libraries(store)
    monkeypatch.setattr(store, "names", lambda _: pytest.fail("the names were gone through"))
    # When two versions are admitted, one after the other
    libraries.admit(version(4))
    libraries.admit(version(5))
    # Then the newest is known all the same
    assert refused(libraries, version(4)).code == "TDM-LIBRARY-OLDER"


@pytest.mark.parametrize(
    "asked",
    [
        version(5, "A", successors="AB", threshold=2),
        version(5, "A", successors="B"),
        version(5, "A", successors="A", threshold=2),
        version(5, "A", successors="A", threshold=0),
        version(5, "", successors="", threshold=0),
        version(5, "ABCDEFGHIJKLMNOPQ", successors="ABCDEFGHIJKLMNOPQ"),
        version(1 << 63),
    ],
)
def test_a_builder_that_did_not_verify_is_not_believed(
    libraries: Libraries, asked: OpenPair
) -> None:
    # Given a request whose signers do not meet what the library names
    # When it is to be admitted
    with pytest.raises(UntrustedInput) as raised:
        libraries.admit(asked)
    # Then it is refused
    assert raised.value.code == "TDM-PAIR-LIBRARY-BAD"
