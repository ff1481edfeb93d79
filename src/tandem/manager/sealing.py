"""What is sealed in the store, and under which key: the host's own, or a group's.

AES-256-GCM, bound to a record's id and version, so no record passes for another or for an older
one.  Records `vtpm/<group>/…` are under their group's key; everything else is under the master key.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tandem.errors import Refused
from tandem.values import Secret

NONCE_SIZE: Final = 12
LINK_TAG: Final = b"\xffTANDEM-LINK-2\0\0"  # no version of a record begins so


class NotSealed(Exception):
    """Bytes that the key in charge did not seal, or not for this place."""


class Sealing:
    """The keys in this process, and what each may open."""

    def __init__(self, master: Secret) -> None:
        self._master = AESGCM(master.reveal())
        self._groups: dict[str, AESGCM] = {}

    def unlock(self, group: str, key: Secret) -> None:
        """Have a group's records readable and writable."""
        self._groups[group] = AESGCM(key.reveal())

    def lock(self, group: str) -> None:
        """Forget a group's key."""
        self._groups.pop(group, None)

    def take_master(self, other: Sealing) -> None:
        """Go on under another master key; what the groups unlocked stays so."""
        self._master = other._master

    def require(self, name: str) -> None:
        """Refuse a record of a group that is locked."""
        self._cipher(name)

    def seal(self, name: str, version: int, content: bytes) -> bytes:
        """Seal a record's content; one of a locked group is refused."""
        return _sealed(self._cipher(name), content, _bound_to(name, version))

    def open(self, name: str, version: int, sealed: bytes) -> bytes:
        """Give a record's content; `NotSealed` where it was not sealed so."""
        return _opened(self._cipher(name), sealed, _bound_to(name, version))

    def seal_link(self, content: bytes, root: bytes) -> bytes:
        """Seal the chain's link to the records with this root."""
        return _sealed(self._master, content, LINK_TAG + root)

    def open_link(self, sealed: bytes, root: bytes) -> bytes:
        """Give what the chain's link says; `NotSealed` where it is not of these records."""
        return _opened(self._master, sealed, LINK_TAG + root)

    def _cipher(self, name: str) -> AESGCM:
        group = group_of(name)
        if group is None:
            return self._master
        cipher = self._groups.get(group)
        if cipher is None:
            raise Refused(
                "TDM-STORE-GROUP-LOCKED",
                f"the records of group {group} are locked: its key was not unsealed",
                hint="boot a host state that the group's administrator approved, or have this one "
                "approved with `tandem group approve`",
            )
        return cipher


def group_of(name: str) -> str | None:
    """Give the group whose key a record is under; None for the host's own."""
    kind, _, rest = name.partition("/")
    group, slash, _ = rest.partition("/")
    return group if kind == "vtpm" and slash else None


def _sealed(cipher: AESGCM, content: bytes, bound_to: bytes) -> bytes:
    nonce = os.urandom(NONCE_SIZE)
    return nonce + cipher.encrypt(nonce, content, bound_to)


def _opened(cipher: AESGCM, sealed: bytes, bound_to: bytes) -> bytes:
    try:
        return cipher.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], bound_to)
    except (InvalidTag, ValueError):  # ValueError: a nonce too short
        raise NotSealed from None


def _bound_to(name: str, version: int) -> bytes:
    return version.to_bytes(8) + name.encode()
