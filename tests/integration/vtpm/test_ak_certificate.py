"""The AK's certificate in its NV index: in force whenever a guest begins to read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from tandem.errors import HostError
from tandem.values import Secret
from tandem.vtpm.ak_certificate import LIFE, RETRY, AkCertificate
from tandem.vtpm.forking import made_in_child
from tandem.vtpm.keys import derive_keys
from tandem.vtpm.libtpms import Engine
from tandem.vtpm.mailbox import Mailbox
from tandem.vtpm.manager_client import ManagerClient
from tandem.vtpm.provisioning import AK_CERTIFICATE, AK_ISSUER, manufacture
from tandem.wire import tpm_commands as tpm
from tandem.wire.manager_rpc import AkRenewed, EkCertificates
from tandem.wire.tpm_commands import StartupType

SOME = 900  # bytes of a certificate
NV_READ_PUBLIC = 0x169  # TPM_CC (Part 2, 6.5.2)


@dataclass
class CountingManager:
    """Renews, or fails; certificates are numbered."""

    renewals: int = 0
    fails: bool = False

    def renew_ak(self) -> AkRenewed:
        if self.fails:
            raise HostError("TDM-MANAGER-GONE", "gone", hint="start it")
        self.renewals += 1
        mark = bytes([self.renewals])
        return AkRenewed(ak_certificate=mark * SOME, issuer_certificate=mark * SOME)


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1000.0
    manager: CountingManager = field(default_factory=CountingManager)

    def certificate(self, monkeypatch: pytest.MonkeyPatch) -> AkCertificate:
        monkeypatch.setattr("tandem.vtpm.ak_certificate._now", lambda: self.now)
        manager = cast("ManagerClient", self.manager)
        return AkCertificate(manager, bytes(SOME), bytes(SOME))


def test_a_certificate_is_renewed_when_half_of_its_life_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a certificate, and a guest that wants it again and again
    clock = Clock()
    certificate = clock.certificate(monkeypatch)
    renewals = []
    # When time goes by
    for after in (0, LIFE / 2 - 1, LIFE / 2, LIFE / 2 + 1, LIFE):
        clock.now = 1000.0 + after
        certificate.refresh()
        renewals.append(clock.manager.renewals)
    # Then it is renewed once each half life
    assert renewals == [0, 0, 1, 1, 2]
    assert certificate.certificate == b"\x02" * SOME


def test_a_manager_that_cannot_renew_is_asked_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a certificate that is due, and a Manager that fails
    clock = Clock()
    certificate = clock.certificate(monkeypatch)
    clock.manager.fails = True
    clock.now += LIFE / 2
    # When it is wanted
    certificate.refresh()
    clock.manager.fails = False
    certificate.refresh()
    soon = clock.manager.renewals
    clock.now += RETRY
    certificate.refresh()
    # Then the old one stands, and the Manager is asked again a minute later
    assert (soon, clock.manager.renewals) == (0, 1)


def in_engine(scenario: Callable[[Engine, Secret], dict[str, object]]) -> dict[str, object]:
    """Let a new vTPM's engine live in a process of its own, as each vTPM does."""

    def live() -> bytes:
        engine, keys = Engine(), derive_keys(Secret(bytes(32)))
        engine.power_on()
        engine.run(tpm.startup(StartupType.CLEAR))
        answer = EkCertificates(rsa=bytes(1000), ecc=bytes(700), chain=bytes(2500))
        manufacture(engine, keys, lambda _rsa, _ecc: lambda: answer)
        return json.dumps(scenario(engine, keys.mailbox_auth)).encode()

    found: dict[str, object] = json.loads(made_in_child(live))
    return found


def read(mailbox: Mailbox, index: int, size: int, offset: int = 0) -> bytes:
    """Read an index as a guest does."""
    answer = bytes(mailbox.read(tpm.nv_read(index, index, size, offset, tpm.password())))
    return answer[16 : 16 + size]


def test_a_guest_finds_a_certificate_in_force_and_no_state_is_saved_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a vTPM, and a guest that set the passwords of all hierarchies and fills the sessions
    clock = Clock()

    def scenario(engine: Engine, auth: Secret) -> dict[str, object]:
        mailbox = Mailbox(engine, auth, clock.certificate(monkeypatch), lambda _request: b"")
        mailbox.clear()
        for hierarchy in (tpm.PLATFORM, tpm.OWNER, tpm.ENDORSEMENT):
            engine.run(tpm.hierarchy_change_auth(hierarchy, b"guest"))
        for _ in range(3):
            engine.run(tpm.start_policy_session(), with_handle=True)
        engine.changed = False
        # When it reads the certificate at once, and twice half a day later, in two pieces
        first = read(mailbox, AK_CERTIFICATE, SOME)
        clock.now += LIFE / 2
        second = read(mailbox, AK_CERTIFICATE, 500), read(mailbox, AK_CERTIFICATE, 400, 500)
        issuer = read(mailbox, AK_ISSUER, 1024)
        return {
            "first": first.hex(),
            "second": b"".join(second).hex(),
            "issuer": issuer.hex(),
            "changed": engine.changed,
            "renewals": clock.manager.renewals,
        }

    found = in_engine(scenario)
    # Then it reads the launch's, then a new one, padded with zeros, and nothing is to be saved
    assert found["first"] == bytes(SOME).hex()
    assert found["second"] == (b"\x01" * SOME).hex()
    assert found["issuer"] == (b"\x01" * SOME).ljust(1024, b"\0").hex()
    assert (found["changed"], found["renewals"]) == (False, 1)


def test_a_chain_longer_than_an_index_goes_on_in_the_next() -> None:
    # Given a chain of 2,500 bytes
    def scenario(engine: Engine, _auth: Secret) -> dict[str, object]:
        # When the indices from 0x01c00100 on are read
        sizes = []
        for index in (0x01C00100, 0x01C00101):
            public = engine.run(tpm.command(NV_READ_PUBLIC, (index,))).parameters
            sizes.append(int.from_bytes(public[14:16]))
        return {"sizes": sizes}

    # Then the first is full, and the second holds the rest
    assert in_engine(scenario)["sizes"] == [2048, 452]
