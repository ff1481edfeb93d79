"""Messages between Tandem's processes: canonical CBOR `{name: fields}`, one to a datagram.

A protocol is the set of dataclasses that one side may send.  A message has exactly the fields of
its dataclass and fits the protocol's limit: 4,000 bytes at the Manager, so that the same message
fits a Xen ring page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tandem.errors import HostError, Refused, TandemError, UntrustedInput, UsageError
from tandem.evidence import canonical, record_fields

Message = object
MANAGER_LIMIT: Final = 4000
LOCAL_LIMIT: Final = 128 * 1024
FAMILIES: Final[dict[str, type[UsageError] | type[HostError] | type[Refused]]] = {
    "UsageError": UsageError,
    "HostError": HostError,
    "Refused": Refused,
}


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The answer to a request that was not carried out; part of every protocol."""

    family: str
    code: str
    problem: str
    hint: str

    def as_error(self) -> TandemError:
        """Give the error that the other side reports, to raise here."""
        if self.family == "UntrustedInput":
            return UntrustedInput(self.code, self.problem, hint=self.hint, offset=0)
        return FAMILIES.get(self.family, HostError)(self.code, self.problem, hint=self.hint)


def failure(error: TandemError) -> Failed:
    """Give the answer that reports `error`."""
    return Failed(
        family=error.family,
        code=error.code,
        problem=error.problem[:1500],
        hint=error.hint[:500],
    )


class MessageSet:
    """The messages that may arrive on one side of one socket."""

    def __init__(self, name: str, *kinds: type, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.kinds = (*kinds, Failed)
        self._by_name = {kind.__name__: kind for kind in self.kinds}

    def encode(self, message: Message) -> bytes:
        """Write a message of this set."""
        kind = type(message).__name__
        if self._by_name.get(kind) is not type(message):
            raise TypeError(f"{kind} is no message of {self.name}")
        data = canonical.encode({kind: record_fields.to_map(message)})
        if len(data) > self.limit:
            raise HostError(
                "TDM-MESSAGE-TOO-LONG",
                f"a {kind} message of {len(data)} bytes, more than {self.limit}",
                hint="shorten the names or the launch log that it carries",
            )
        return data

    def decode(self, data: bytes) -> Message:
        """Read a message of this set, or refuse anything else."""
        outer = canonical.decode_map(data, f"{self.name} message", self.limit)
        [(name, fields)] = outer.items() if len(outer) == 1 else [("", None)]
        kind = self._by_name.get(name)
        if kind is None or not isinstance(fields, dict):
            raise UntrustedInput(
                "TDM-MESSAGE-UNKNOWN",
                f"{self.name} message {name[:40]!a} is unknown",
                hint="both sides must be of one version: restart the host's services",
                offset=0,
            )
        return record_fields.from_map(kind, fields, name)
