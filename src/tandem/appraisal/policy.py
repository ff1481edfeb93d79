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
    vtpm = "web-01"     # optional, as all that follows in this part
    ek_name = "000b..." # TPM Name of the vTPM's EK
    user_data = "00ff"  # the channel that the answer must be made for

    [host]
    hardware_root = true
    strict_rollback = false  # optional: demand that no vTPM state can be rolled back
    same_boot = false   # optional: refuse a host that was reset since it was enrolled
    event_log = false   # optional: demand the host's event log
    [host.pcrs]         # optional: SHA-256; without it, those that the anchor has; not 16 and 23
    0 = "..."

    [firmware]          # optional: of a UEFI guest
    secure_boot = true  # demand it on, or off; without it, on where the library's entry says so

    [machine]           # optional
    debugger = true     # allow a guest that root on its host may debug, if its entry says so

    [ima]               # optional: demand the host's IMA list
    violations = ["/usr/bin/x"]  # of these files, by the list's word, are allowed

    [revocation]        # optional: demand a list of the group's revoked certificates
    crl = "default.crl"

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
from tandem.evidence.launch_plan import ACCELERATORS, Accelerator
from tandem.evidence.pair_record import NAME_SIZE
from tandem.evidence.pcr_values import RELIABLE, read_pcrs
from tandem.evidence.strict_json import Place
from tandem.values import SHA256_SIZE

FORMAT: Final = "tandem-policy-1"
MAX_POLICY: Final = 64 * 1024
MAX_KEYS: Final = 16
MAX_DIGESTS: Final = 64
MAX_VIOLATIONS: Final = 1024
SWITCHES: Final = ("strict_rollback", "same_boot", "event_log")  # of [host], off where left out


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
    vtpm: str | None = None
    ek_name: bytes | None = None
    user_data: bytes | None
    hardware_root: bool
    strict_rollback: bool = False
    same_boot: bool = False
    event_log: bool = False
    host_pcrs: Mapping[int, bytes] | None = None  # None: those of the anchor
    secure_boot: bool | None = None  # None: on where the entry says so, else as predicted
    debugger: bool = False
    ima_violations: tuple[str, ...] | None = None  # allowed paths; None: no list is demanded
    crl_file: str | None = None
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
    crl: bytes | None = None


def parse_policy(data: bytes) -> PolicyText:
    """Read a policy, or refuse it and name the place that is wrong."""
    root = _read_toml(data)
    parts = ("format", "anchor", "manifest", "expect", "host")
    others = ("firmware", "machine", "ima", "revocation", "accelerators", "hypervisor", "builder")
    fields = root.fields(parts, others)
    fields["format"].one_of(FORMAT)
    anchor = fields["anchor"].fields(("file", "key"))
    manifest = fields["manifest"].fields(("file", "keys", "entry"), ("threshold",))
    expect = fields["expect"].fields(("guest", "group"), ("vtpm", "ek_name", "user_data"))
    host = fields["host"].fields(("hardware_root",), ("pcrs", *SWITCHES))
    revocation = fields["revocation"].fields(("crl",)) if "revocation" in fields else {}
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
        vtpm=expect["vtpm"].name() if "vtpm" in expect else None,
        ek_name=expect["ek_name"].hexadecimal(NAME_SIZE) if "ek_name" in expect else None,
        user_data=_user_data(expect.get("user_data")),
        hardware_root=host["hardware_root"].typed(bool),
        **{name: name in host and host[name].typed(bool) for name in SWITCHES},
        host_pcrs=read_pcrs(host["pcrs"], RELIABLE) if "pcrs" in host else None,
        secure_boot=_secure_boot(fields.get("firmware")),
        debugger=_debugger(fields.get("machine")),
        ima_violations=_violations(fields.get("ima")),
        crl_file=revocation["crl"].text() if revocation else None,
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
        "expect": _expectations(text),
        "host": {name: getattr(text, name) for name in ("hardware_root", *SWITCHES)},
        "accelerators": {"allowed": list(text.accelerators)},
        **_optional_parts(text),
    }
    lines = [f'format = "{FORMAT}"']
    for name, members in parts.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(members[key])}" for key in members)]
    return ("\n".join(lines) + "\n").encode("ascii")


def _optional_parts(text: PolicyText) -> dict[str, dict[str, object]]:
    parts: dict[str, dict[str, object]] = {}
    if text.host_pcrs is not None:
        pcrs = sorted(text.host_pcrs.items())
        parts["host.pcrs"] = {str(index): value.hex() for index, value in pcrs}
    if text.secure_boot is not None:
        parts["firmware"] = {"secure_boot": text.secure_boot}
    if text.debugger:
        parts["machine"] = {"debugger": True}
    if text.ima_violations is not None:
        parts["ima"] = {"violations": list(text.ima_violations)}
    if text.crl_file is not None:
        parts["revocation"] = {"crl": text.crl_file}
    for name, digests in (("hypervisor", text.hypervisors), ("builder", text.builders)):
        if digests:
            parts[name] = {"sha256": [each.hex() for each in digests]}
    return parts


def _expectations(text: PolicyText) -> dict[str, object]:
    expected: dict[str, object] = {"guest": text.guest, "group": text.group}
    if text.vtpm is not None:
        expected["vtpm"] = text.vtpm
    for name, value in (("ek_name", text.ek_name), ("user_data", text.user_data)):
        if value is not None:
            expected[name] = value.hex()
    return expected


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


def _secure_boot(place: Place | None) -> bool | None:
    return None if place is None else place.fields(("secure_boot",))["secure_boot"].typed(bool)


def _debugger(place: Place | None) -> bool:
    return place is not None and place.fields(("debugger",))["debugger"].typed(bool)


def _violations(place: Place | None) -> tuple[str, ...] | None:
    if place is None:
        return None
    listed = place.fields((), ("violations",)).get("violations")
    return tuple(each.text() for each in listed.items(MAX_VIOLATIONS)) if listed else ()


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
