"""The libraries that pairs were built from: none goes back to an older version.

A library is known by its name and by whose it is: the signers that it names itself.  Those are
held to the highest version that enough of them have signed, whatever signers that one names.  So a
version that names new signers, and that the old ones signed, too, ends all versions before it; and
whoever signs a library of his own under the same name raises nobody's version but his.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.manifest import MAX_VERSION
from tandem.evidence.signers import MAX_SIGNERS, Signers
from tandem.manager import records
from tandem.manager.store import Store
from tandem.values import checked_name
from tandem.wire.manager_rpc import OpenPair


class Libraries:
    """The highest version of each library, by name and signers; changes are staged in the store.

    Which records there are is looked up once: a launch must not go through the store's names.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids = set(store.names(records.LIBRARIES))  # some may be gone, none is lacking

    def admit(self, asked: OpenPair) -> None:
        """Admit the library of a launch and note its version.

        Refused where it is older than what the same signers signed, or another of that version.
        """
        checked_name(asked.library, "library")
        signers = _signers(asked)
        own = records.library_id(asked.library, signers)
        held = dict(self._held(asked.library, asked.signers))
        _refuse_older(asked, held.get(own))
        for name, each in {own: signers, **{name: _of(held[name]) for name in held}}.items():
            if name not in held or held[name].version < asked.manifest_version:
                self._note(name, each, asked)

    def forget(self, library: str) -> int:
        """Stage that no version of a library is known; give how many records that were."""
        known = list(self._store.names(records.library_prefix(checked_name(library, "library"))))
        for name in known:
            self._store.remove(name)
        return len(known)

    def _held(
        self, library: str, signed_by: Sequence[str]
    ) -> Iterator[tuple[str, records.LibraryRecord]]:
        """Give the records of all signers of that name of whom enough have signed this time."""
        prefix = records.library_prefix(library)
        for name in sorted(each for each in self._ids if each.startswith(prefix)):
            content = self._store.get(name)
            if content is None:  # forgotten, or its commit was not written
                continue
            record = records.decode(records.LibraryRecord, content)
            if _of(record).are_met_by(signed_by):
                yield name, record

    def _note(self, name: str, signers: Signers, asked: OpenPair) -> None:
        newest = records.LibraryRecord(
            signers=signers.key_ids,
            threshold=signers.threshold,
            version=asked.manifest_version,
            digest=asked.manifest_digest,
        )
        self._store.stage(name, records.encode(newest))
        self._ids.add(name)


def _of(record: records.LibraryRecord) -> Signers:
    return Signers(key_ids=record.signers, threshold=record.threshold)


def _signers(asked: OpenPair) -> Signers:
    """Give whom the library names, as a builder that verified it passes them on."""
    signers = Signers(key_ids=tuple(sorted(set(asked.successors))), threshold=asked.threshold)
    if (
        len(signers.key_ids) > MAX_SIGNERS
        or not 1 <= signers.threshold <= len(signers.key_ids)
        or asked.manifest_version > MAX_VERSION
        or not signers.are_met_by(asked.signers)
    ):
        raise UntrustedInput(
            "TDM-PAIR-LIBRARY-BAD",
            f"library {asked.library} is not signed by enough of those whom it names",
            hint="both sides must be of one version: restart the host's services",
            offset=0,
        )
    return signers


def _refuse_older(asked: OpenPair, newest: records.LibraryRecord | None) -> None:
    if newest is None or newest.version < asked.manifest_version:
        return
    if newest.version > asked.manifest_version:
        raise Refused(
            "TDM-LIBRARY-OLDER",
            f"version {asked.manifest_version} of library {asked.library} is older than version "
            f"{newest.version}, from which a guest was started before",
            hint="put the newest library back; to return to older content, sign it anew, which "
            "gives it a higher version",
        )
    if newest.digest != asked.manifest_digest:
        raise Refused(
            "TDM-LIBRARY-VERSION-TWICE",
            f"there is another library {asked.library} of version {newest.version}, from which a "
            "guest was started before: two were signed with one number",
            hint="sign this one anew with a higher --version, or give it another name in its "
            "source ([library] name)",
        )
