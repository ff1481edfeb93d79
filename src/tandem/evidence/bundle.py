"""Evidence bundle: one file with everything that an attester hands to a verifier.

JSON around the framed answer of a deep quote; or that framed answer alone, as the mailbox's answer
indices hold it.  What the bundle says beside the answer is signed by nobody.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tandem.evidence.deep_quote import ANSWER_MAGIC, DeepQuote, parse_deep_quote, unframe_answer
from tandem.evidence.strict_json import Place, parse_json

FORMAT: Final = "tandem-evidence-1"
MAX_BUNDLE: Final = 24 * 1024 * 1024  # a firmware log of MAX_LOG bytes in Base64
LOGS: Final = ("firmware_log", "host_log", "ima_log")
MAX_FACTS: Final = 64 * 1024
_CODE: Final = "TDM-BUNDLE-BAD"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A bundle; `guest` holds the attester's own words about its system."""

    answer: DeepQuote
    firmware_log: bytes | None = None
    host_log: bytes | None = None
    ima_log: bytes | None = None
    guest: Mapping[str, object]


def parse_evidence(data: bytes) -> Evidence:
    """Read a bundle or a bare framed answer."""
    if data.startswith(ANSWER_MAGIC):
        return Evidence(answer=_answer(data), guest={})
    root = parse_json(data, "evidence", _CODE, MAX_BUNDLE)
    fields = root.fields(("format", "answer"), (*LOGS, "kernel_release", "guest"))
    fields["format"].one_of(FORMAT)
    guest = _facts(fields["guest"]) if "guest" in fields else {}
    if "kernel_release" in fields:
        guest = {**guest, "kernel_release": fields["kernel_release"].text(256)}
    return Evidence(
        answer=_answer(_base64(fields["answer"])),
        guest=guest,
        **{name: _base64(fields[name]) for name in LOGS if name in fields},
    )


def write_evidence(
    framed_answer: bytes, firmware_log: bytes | None, guest: Mapping[str, object]
) -> bytes:
    """Write a bundle; `framed_answer` is what the mailbox's answer indices hold."""
    fields: dict[str, object] = {
        "format": FORMAT,
        "answer": base64.b64encode(framed_answer).decode("ascii"),
        "guest": dict(guest),
    }
    if firmware_log is not None:
        fields["firmware_log"] = base64.b64encode(firmware_log).decode("ascii")
    return json.dumps(fields, indent=1, sort_keys=True).encode("ascii") + b"\n"


def add_host_logs(bundle: bytes, logs: Mapping[str, bytes]) -> bytes:
    """Put the host's logs (`host_log`, `ima_log`) into a bundle that its attester made."""
    place = parse_json(bundle, "evidence", _CODE, MAX_BUNDLE)
    encoded = {name: base64.b64encode(log).decode("ascii") for name, log in logs.items()}
    whole = json.dumps({**place.typed(dict), **encoded}, indent=1, sort_keys=True).encode("ascii")
    if len(whole) > MAX_BUNDLE:
        place.refuse(f"{len(whole)} bytes with the host's logs, more than {MAX_BUNDLE}")
    return whole


def _answer(framed: bytes) -> DeepQuote:
    return parse_deep_quote(unframe_answer(framed))


def _base64(place: Place) -> bytes:
    text = place.typed(str)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        place.refuse("not Base64")


def _facts(place: Place) -> Mapping[str, Any]:
    facts: dict[str, Any] = place.typed(dict)
    if len(json.dumps(facts)) > MAX_FACTS:
        place.refuse(f"more than {MAX_FACTS} bytes of facts")
    return facts
