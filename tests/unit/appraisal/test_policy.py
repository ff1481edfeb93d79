"""Policies: what is written is read back, and a typing error turns no demand off."""

from __future__ import annotations

import pytest

from tandem.appraisal.policy import parse_policy, write_policy
from tandem.errors import UntrustedInput
from tests.unit.appraisal.forge import Forge

SHORT = b"""
format = "tandem-policy-1"
[anchor]
file = "anchor.json"
key = "anchor.pub"
[manifest]
file = "library.dsse.json"
keys = ["library.pub"]
entry = "web"
[expect]
guest = "web-01"
group = "default"
[host]
hardware_root = true
[host.pcrs]
"""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"user_data": b""},
        {"user_data": b"\x01\x02"},
        {"hypervisors": (bytes(32),), "builders": (b"\x01" * 32,)},
        {"accelerators": ("kvm",), "hardware_root": True, "threshold": 1},
        {"vtpm": "web-01", "ek_name": b"\x00\x0b" + bytes(32)},
        {"secure_boot": True},
        {"secure_boot": False},
        {"debugger": True},
        {"strict_rollback": True, "same_boot": True, "event_log": True},
        {"host_pcrs": {0: bytes(32), 22: b"\x01" * 32}},
        {"ima_violations": ("/usr/bin/a", "/b"), "crl_file": "web.crl"},
        {"ima_violations": None, "crl_file": None},
        {"anchor_file": 'odd "name"\\ #1'},
    ],
)
def test_a_policy_is_read_back_as_written(changes: dict[str, object]) -> None:
    # Given a policy
    policy = Forge(policy_changes=changes).policy_text()

    # When it is written and read
    # Then it is the same
    assert parse_policy(write_policy(policy)) == policy


def test_what_a_policy_leaves_out_is_the_strict_choice() -> None:
    # Given a policy with the required parts alone
    # When it is read
    policy = parse_policy(SHORT)

    # Then one signature is needed and nothing is waived
    assert policy.threshold == 1
    assert policy.hardware_root
    assert policy.hypervisors == ()
    assert (policy.host_pcrs, policy.vtpm, policy.crl_file) == ({}, None, None)
    assert (policy.strict_rollback, policy.same_boot, policy.event_log) == (False,) * 3


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (b"hardware_root = true", b"hardware_rot = true", "$.host"),
        (b"hardware_root = true", b'hardware_root = "no"', "$.host.hardware_root"),
        (b'guest = "web-01"', b'guest = "Web"', "$.expect.guest"),
        (b"[host.pcrs]", b"[host.pcrs]\n24 = '00'", "$.host.pcrs"),
        (b"[host.pcrs]", b"[host.pcrs]\n23 = '00'", "$.host.pcrs"),  # anybody resets it
        (b"[host.pcrs]", b"[host.pcrs]\n0 = '00'", "$.host.pcrs.0"),
        (b"tandem-policy-1", b"tandem-policy-2", "$.format"),
        (b"[host.pcrs]", b"[ima]\nviolations = [1]", "$.ima.violations.0"),
        (b"[host.pcrs]", b"[revocation]\nclr = 'x'", "$.revocation"),
        (b"[host.pcrs]", b"strict_rollback = 1", "$.host.strict_rollback"),
        (b'guest = "web-01"', b'guest = "web-01"\nek_name = "00"', "$.expect.ek_name"),
        (b"[expect]", b"threshold = 0x" + b"f" * 8000 + b"\n[expect]", "$.manifest.threshold"),
        (b"[anchor]", b"[anchor", "$"),
        (b"[anchor]", b"[surprise]\n[anchor]", "$"),
    ],
)
def test_a_wrong_policy_is_refused_by_its_place(old: bytes, new: bytes, place: str) -> None:
    # Given a policy with one mistake
    # When it is read
    with pytest.raises(UntrustedInput) as caught:
        parse_policy(SHORT.replace(old, new))

    # Then the refusal names the place
    assert f"policy: {place}: " in caught.value.problem
