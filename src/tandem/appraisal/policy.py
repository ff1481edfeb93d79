"""Appraisal policy: what a relying party demands of a guest, in TOML.

    format = "tandem-policy-1"

    [anchor]            # the host: trust anchor and the key that signed it
    file = "anchor.json"
    key = "anchor.pub"

    [manifest]          # the library that the guest comes from, and its entry there
    file = "library.dsse.json"
    keys = ["library.pub"]
    threshold = 1
    entry = "web"

    [expect]
    guest = "web-01"
    group = "default"
    user_data = "00ff"  # optional: the channel that the answer must be made for

    [host]
    hardware_root = true
    [host.pcrs]         # recorded values, SHA-256
    0 = "..."

    [accelerators]      # optional
    allowed = ["kvm"]

    [hypervisor]        # optional; without it, the manifest's build-once entries count
    sha256 = ["..."]

    [builder]           # optional
    sha256 = ["..."]

Paths are relative to the policy.  An unknown key is refused: a typing error must not turn a demand
off.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from tandem.evidence.deep_quote import MAX_USER_DATA
from tandem.evidence.envelope import PublicKey
from tandem.evidence.host_export import read_pcrs
from tandem.evidence.launch_plan import ACCELERATORS, Accelerator
from tandem.evidence.strict_json import Place
from tandem.values import SHA256_SIZE

FORMAT: Final = "tandem-policy-1"
MAX_POLICY: Final = 64 * 1024
MAX_KEYS: Final = 16
MAX_DIGESTS: Final = 64


@dataclass(frozen=True, kw_only=True)
class PolicyText:
    """A policy as written: files by path, nothing resolved."""

    anchor_file: str
    anchor_key: str
    manifest_file: str
    manifest_keys: tuple[str, ...]
    threshold: int
    entry: str
    guest: str
    group: str
    user_data: bytes | None
    hardware_root: bool
    host_pcrs: Mapping[int, bytes]
    accelerators: tuple[Accelerator, ...]
    hypervisors: tuple[bytes, ...]  # SHA-256 of executables
    builders: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy with the content of the files that it names."""

    text: PolicyText
    anchor: bytes
    anchor_key: PublicKey
    manifest: bytes
    manifest_keys: tuple[PublicKey, ...]


def parse_policy(data: bytes) -> PolicyText:
    """Read a policy, or refuse it and name the place that is wrong."""
    root = _read_toml(data)
    parts = ("format", "anchor", "manifest", "expect", "host")
    fields = root.fields(parts, ("accelerators", "hypervisor", "builder"))
    fields["format"].one_of(FORMAT)
    anchor = fields["anchor"].fields(("file", "key"))
    manifest = fields["manifest"].fields(("file", "keys", "entry"), ("threshold",))
    expect = fields["expect"].fields(("guest", "group"), ("user_data",))
    host = fields["host"].fields(("hardware_root", "pcrs"))
    keys = tuple(each.text() for each in manifest["keys"].items(MAX_KEYS))
    return PolicyText(
        anchor_file=anchor["file"].text(),
        anchor_key=anchor["key"].text(),
        manifest_file=manifest["file"].text(),
        manifest_keys=keys,
        threshold=manifest["threshold"].integer(1, MAX_KEYS) if "threshold" in manifest else 1,
        entry=manifest["entry"].name(),
        guest=expect["guest"].name(),
        group=expect["group"].name(),
        user_data=_user_data(expect.get("user_data")),
        hardware_root=host["hardware_root"].typed(bool),
        host_pcrs=read_pcrs(host["pcrs"]),
        accelerators=_accelerators(fields.get("accelerators")),
        hypervisors=_digests(fields.get("hypervisor")),
        builders=_digests(fields.get("builder")),
    )


def write_policy(text: PolicyText) -> bytes:
    """Write a policy that `parse_policy` reads back as `text`."""
    parts: dict[str, dict[str, object]] = {
        "anchor": {"file": text.anchor_file, "key": text.anchor_key},
        "manifest": {
            "file": text.manifest_file,
            "keys": list(text.manifest_keys),
            "threshold": text.threshold,
            "entry": text.entry,
        },
        "expect": {"guest": text.guest, "group": text.group},
        "host": {"hardware_root": text.hardware_root},
        "host.pcrs": {str(index): text.host_pcrs[index].hex() for index in sorted(text.host_pcrs)},
        "accelerators": {"allowed": list(text.accelerators)},
    }
    if text.user_data is not None:
        parts["expect"]["user_data"] = text.user_data.hex()
    for name, digests in (("hypervisor", text.hypervisors), ("builder", text.builders)):
        if digests:
            parts[name] = {"sha256": [each.hex() for each in digests]}
    lines = [f'format = "{FORMAT}"']
    for name, members in parts.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(members[key])}" for key in members)]
    return ("\n".join(lines) + "\n").encode("ascii")


def _read_toml(data: bytes) -> Place:
    root = Place(value=None, path="$", what="policy", code="TDM-POLICY-BAD")
    if len(data) > MAX_POLICY:
        root.refuse(f"{len(data)} bytes, more than {MAX_POLICY}")
    try:
        value = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        root.refuse(f"not TOML: {str(error)[:120]}")
    return root.replaced(value)


def _user_data(place: Place | None) -> bytes | None:
    if place is None:
        return None
    return b"" if place.value == "" else place.some_hexadecimal(MAX_USER_DATA)


def _accelerators(place: Place | None) -> tuple[Accelerator, ...]:
    if place is None:
        return ACCELERATORS
    allowed = place.fields(("allowed",))["allowed"].items(len(ACCELERATORS))
    return tuple(cast(Accelerator, each.one_of(*ACCELERATORS)) for each in allowed)


def _digests(place: Place | None) -> tuple[bytes, ...]:
    if place is None:
        return ()
    digests = place.fields(("sha256",))["sha256"].items(MAX_DIGESTS)
    return tuple(each.hexadecimal(SHA256_SIZE) for each in digests)
