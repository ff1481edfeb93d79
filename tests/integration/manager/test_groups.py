"""Groups on a real Manager: two tenants beside each other, and neither in the other's place."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tandem.channel import expect
from tandem.cli.manager_client import ManagerClient
from tandem.errors import Refused
from tandem.evidence.certificates import issued_by, parse_certificate, parse_pem_certificate
from tandem.evidence.revocation import parse_revocation_list, signed_by
from tandem.vtpm.provisioning import EK_ECC_TEMPLATE
from tandem.wire import tpm_commands as tpm
from tandem.wire.manager_rpc import BrokerOpened, OpenBroker
from tests.integration.manager.running_manager import RunningManager, Vtpm, ready, refusal, tandem

pytestmark = pytest.mark.skipif(not ready(), reason="needs root and swtpm-tools")

READ_PUBLIC = 0x173  # TPM_CC (Part 2, 6.5.2)


@dataclass
class Tenants:
    """A running host with groups red and blue, and the keys of all three administrators."""

    manager: RunningManager
    keys: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return tandem(self.manager.paths.root, *arguments)

    def done(self, *arguments: str) -> dict[str, object]:
        """Run a command that succeeds, and give what it printed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        printed: dict[str, object] = json.loads(done.stdout)
        return printed

    def refused(self, *arguments: str) -> str:
        """Run a command that is refused, and give the code."""
        return refusal(self.run(*arguments, "--json"))[0]

    def launch(self, name: str, group: str) -> Vtpm:
        """Launch a vTPM as far as its first state."""
        vtpm = self.manager.vtpm(name, group=group)
        vtpm.prepare()
        vtpm.commit(vtpm.welcome.state_version + 1)
        return vtpm

    def end(self, vtpm: Vtpm) -> None:
        vtpm.channel.close()


@pytest.fixture
def tenants(manager: RunningManager, work: Path, tmp_path: Path) -> Tenants:
    keys = {"host": str(work / "approval.key")}
    found = Tenants(manager, keys)
    for group in ("red", "blue"):
        keys[group] = str(tmp_path / f"{group}.key")
        found.done("group", "add", group, "--key", keys["host"], "--group-key", keys[group])
    return found


def test_each_group_certifies_with_its_own_ca(tenants: Tenants, tmp_path: Path) -> None:
    # Given a vTPM in each of two groups
    prepared = {group: tenants.manager.vtpm(f"{group}-web", group=group).prepare()
                for group in ("red", "blue")}  # fmt: skip
    # When the CA of each is fetched
    cas = {}
    for group in prepared:
        tenants.done("group", "ca", group, "-o", str(tmp_path / group))
        cas[group] = parse_pem_certificate((tmp_path / group).read_bytes())
    # Then it is the issuer of its own group's certificates and of no other's
    for group, made in prepared.items():
        issuer = parse_certificate(made.issuer_certificate)
        assert issued_by(parse_certificate(made.ak_certificate), issuer)
        assert {name for name, ca in cas.items() if issued_by(issuer, ca)} == {group}


def test_an_administrator_does_nothing_to_another_group(tenants: Tenants) -> None:
    # Given a vTPM of group blue, and red's administrator, who is root on the host
    tenants.end(tenants.launch("web", "blue"))
    red = tenants.keys["red"]
    # When he signs what is blue's, and the host's
    attempts = [
        ("vtpm", "destroy", "web", "--key", red),
        ("vtpm", "anew", "web", "--key", red),
        ("group", "libraries", "blue", "--key", red, "--signer", "mine"),
        ("group", "limits", "red", "--key", red, "--vtpms", "5"),
        ("group", "remove", "blue", "--key", red),
        ("group", "add", "green", "--key", red, "--group-key", red),
    ]
    codes = {tenants.refused(*attempt) for attempt in attempts}
    # Then nothing of it is done
    assert codes == {"TDM-ADMIN-NOT-SIGNED"}
    # And his approval of a host state does not open blue
    assert tenants.refused("group", "approve", "blue", "--key", red) == "TDM-APPROVAL-NOT-SIGNED"
    # Then blue's own administrator does, with the same commands
    tenants.done("vtpm", "anew", "web", "--key", tenants.keys["blue"])
    tenants.done("vtpm", "destroy", "web", "--key", tenants.keys["blue"])


def test_a_vtpm_is_not_started_from_another_group(tenants: Tenants) -> None:
    # Given a vTPM of group blue
    tenants.end(tenants.launch("web", "blue"))
    # When a pair of group red asks for it, and for a key under its name
    with pytest.raises(Refused) as raised:
        tenants.manager.vtpm("web", group="red")
    # Then it is refused, and blue's next launch is its second
    assert raised.value.code == "TDM-VTPM-OF-ANOTHER"
    assert tenants.launch("web", "blue").opened.launch_number == 2


def test_the_records_of_one_group_are_closed_to_the_key_of_another(tenants: Tenants) -> None:
    # Given two groups whose vTPMs are known, and a restart of the Manager
    for group in ("red", "blue"):
        tenants.end(tenants.launch(f"{group}-web", group))
    tenants.manager.stop()
    tenants.manager.start()
    # When red's next generation is approved, and then a state that is not this one
    tenants.done("group", "approve", "red", "--key", tenants.keys["red"], "--renew")
    # Then each opens and shows its own
    assert tenants.done("vtpm", "show", "red-web")["group"] == "red"
    assert tenants.done("vtpm", "show", "blue-web")["group"] == "blue"


def test_a_group_without_an_approved_state_stays_closed_and_others_work(
    tenants: Tenants, tmp_path: Path
) -> None:
    # Given a group whose administrator sent his public key only, and approved nothing
    public = tmp_path / "green.pub"
    subprocess.run(
        ["openssl", "pkey", "-in", tenants.keys["red"], "-pubout", "-out", public], check=True
    )
    host = tenants.keys["host"]
    tenants.done("group", "add", "green", "--key", host, "--group-key", str(public))
    # When a pair of it is asked for
    with pytest.raises(Refused) as raised:
        tenants.manager.vtpm("green-web", group="green")
    # Then it is closed by name, and another group's pair starts
    assert raised.value.code == "TDM-GROUP-CLOSED"
    assert "green" in raised.value.problem
    assert tenants.launch("red-web", "red").opened.launch_number == 1
    assert tenants.done("group", "show", "green")["open"] is False
    # And it opens once its administrator signed the state elsewhere
    state, approval = str(tmp_path / "state.json"), str(tmp_path / "approval.json")
    tenants.done("group", "state", "green", "-o", state)
    signing = ("--key", tenants.keys["red"], "--state", state, "-o", approval)
    tenants.done("group", "approve", "green", *signing)
    tenants.done("group", "approve", "green", "--approval", approval)
    assert tenants.launch("green-web", "green").opened.launch_number == 1


def test_a_withdrawn_state_does_not_open_a_group_again(tenants: Tenants, tmp_path: Path) -> None:
    # Given an approval of the present state for red's first generation, kept by somebody
    kept, state = str(tmp_path / "kept.json"), str(tmp_path / "state.json")
    first = tenants.launch("red-web", "red")
    tenants.done("group", "state", "red", "-o", state)
    red = ("--key", tenants.keys["red"])
    tenants.done("group", "approve", "red", *red, "--state", state, "-o", kept)
    # When its administrator begins a new generation
    renewed = tenants.done("group", "approve", "red", *red, "--renew")
    # Then only the new approval counts, and the kept one is refused
    assert (renewed["generation"], renewed["approvals"]) == (2, 1)
    code = tenants.refused("group", "approve", "red", "--approval", kept)
    assert code == "TDM-APPROVAL-FOR-ANOTHER"
    # And a vTPM that ran goes on, also after a restart in the state of the new approval
    first.commit(2)
    tenants.manager.stop()
    tenants.manager.start()
    second = tenants.launch("red-web", "red")
    assert (second.welcome.state_version, second.welcome.key) == (2, first.welcome.key)


def test_limits_hold(tenants: Tenants) -> None:
    # Given a group that may have two vTPMs and one running pair
    limits = ("--vtpms", "2", "--running", "1")
    tenants.done("group", "limits", "red", "--key", tenants.keys["host"], *limits)
    first = tenants.launch("one", "red")
    # When it asks for more
    with pytest.raises(Refused) as running:
        tenants.manager.vtpm("two", group="red")
    tenants.end(first)
    tenants.end(tenants.launch("two", "red"))
    with pytest.raises(Refused) as kept:
        tenants.manager.vtpm("three", group="red")
    # Then it is refused by name, and another group is not
    assert {running.value.code, kept.value.code} == {"TDM-GROUP-LIMIT"}
    assert "running pairs" in running.value.problem
    assert "vTPMs" in kept.value.problem
    tenants.launch("three", "blue")


def test_a_group_that_writes_too_fast_is_slow_and_nobody_else(tenants: Tenants) -> None:
    # Given a group that may have five states a second made durable
    limits = ("--commits", "5")
    tenants.done("group", "limits", "red", "--key", tenants.keys["host"], *limits)
    red, blue = tenants.launch("red-web", "red"), tenants.launch("blue-web", "blue")
    # When a vTPM of it commits as fast as it can, and one of another group does, too
    began = time.monotonic()
    for version in range(2, 12):
        red.commit(version)
    slow = time.monotonic() - began
    began = time.monotonic()
    for version in range(2, 12):
        blue.commit(version)
    fast = time.monotonic() - began
    # Then the first second's worth goes at once, the rest in its time, and the other never waits
    assert 0.9 <= slow < 3
    assert fast < slow


def test_a_group_starts_from_its_own_libraries_alone(tenants: Tenants) -> None:
    # Given a group whose administrator allows another library key than the builder's
    red = ("--key", tenants.keys["red"])
    tenants.done("group", "libraries", "red", *red, "--signer", "another key")
    # When a pair is asked for
    with pytest.raises(Refused) as raised:
        tenants.manager.vtpm("web", group="red")
    # Then it is refused, and started once the key is allowed
    assert raised.value.code == "TDM-GROUP-OTHER-LIBRARY"
    tenants.done("group", "libraries", "red", *red, "--signer", "a key")
    tenants.launch("web", "red")


def test_a_destroyed_vtpm_is_revoked_for_openssl_and_for_us(
    tenants: Tenants, tmp_path: Path
) -> None:
    # Given a vTPM with a certified AK, and its group's CA
    vtpm = tenants.manager.vtpm("web", group="red")
    prepared = vtpm.prepare()
    vtpm.commit(1)
    tenants.end(vtpm)
    for name, der in (("ak", prepared.ak_certificate), ("issuer", prepared.issuer_certificate)):
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        (tmp_path / f"{name}.pem").write_bytes(pem)
    tenants.done("group", "ca", "red", "-o", str(tmp_path / "ca.pem"))

    def verdict() -> str:
        """Fetch the list, and let openssl judge the certificate."""
        tenants.done("group", "crl", "red", "-o", str(tmp_path / "crl.pem"))
        done = subprocess.run(
            [
                *("openssl", "verify", "-x509_strict", "-crl_check_all", "-CAfile", "ca.pem"),
                *("-CRLfile", "crl.pem", "-untrusted", "issuer.pem", "ak.pem"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    assert "ak.pem: OK" in verdict()
    before = parse_revocation_list((tmp_path / "crl.pem").read_bytes())
    serials = tenants.done("vtpm", "show", "web")["ek_certificates"]
    assert isinstance(serials, list)
    # When it is destroyed
    tenants.done("vtpm", "destroy", "web", "--key", tenants.keys["red"])
    # Then openssl calls the AK's certificate revoked, and the list names the EKs', too
    assert "certificate revoked" in verdict()
    after = parse_revocation_list((tmp_path / "crl.pem").read_bytes())
    assert {int(serial, 16) for serial in serials} < after.revoked.keys()
    assert not before.revoked
    assert after.number > before.number
    assert signed_by(after, parse_pem_certificate((tmp_path / "ca.pem").read_bytes()))
    # And its name is free: the next vTPM is another one
    assert tenants.launch("web", "red").welcome.vtpm_id != vtpm.welcome.vtpm_id


def test_a_vtpm_anew_is_another_one_and_the_old_is_revoked(tenants: Tenants) -> None:
    # Given a vTPM whose state is lost
    lost = tenants.launch("web", "red")
    running = tenants.refused("vtpm", "anew", "web", "--key", tenants.keys["red"])
    tenants.end(lost)
    # When its administrator gives it up
    tenants.done("vtpm", "anew", "web", "--key", tenants.keys["red"])
    # Then the next launch is the first of another vTPM, which is to be manufactured
    again = tenants.launch("web", "red")
    assert running == "TDM-VTPM-IN-USE"
    assert again.welcome.vtpm_id != lost.welcome.vtpm_id
    assert again.welcome.key != lost.welcome.key
    assert (again.opened.launch_number, again.welcome.state_version) == (1, 0)


def test_a_group_is_removed_with_what_it_has_and_only_if_that_is_said(tenants: Tenants) -> None:
    # Given a group with a vTPM
    tenants.end(tenants.launch("web", "red"))
    host = ("--key", tenants.keys["host"])
    # When the host's administrator removes it
    assert tenants.refused("group", "remove", "red", *host) == "TDM-GROUP-IN-USE"
    assert tenants.refused("group", "remove", "default", *host) == "TDM-GROUP-OF-THE-HOST"
    tenants.done("group", "remove", "red", *host, "--with-vtpms")
    # Then it is gone, its vTPM with it, also after a restart
    tenants.manager.stop()
    tenants.manager.start()
    assert tenants.done("group", "list")["groups"] == ["blue", "default"]
    assert tenants.refused("vtpm", "show", "web") == "TDM-VTPM-UNKNOWN"


def test_the_export_has_every_groups_ca(tenants: Tenants) -> None:
    # Given three groups
    # When the host is exported
    with ManagerClient(tenants.manager.paths.root) as client:
        exported = json.loads(client.export())
    # Then a verifier finds the CA of each
    assert exported["authorities"].keys() == {"default", "red", "blue"}


def test_groups_open_while_a_client_of_the_broker_fills_its_slots(tenants: Tenants) -> None:
    # Given a broker's channel with as many objects loaded as it may have
    builder = tenants.manager.connect()
    builder.send(OpenBroker())
    message, [descriptor] = builder.receive_any()
    expect(message, BrokerOpened)
    channel = socket.socket(fileno=descriptor)

    def loaded() -> int:
        """Load one more object, and give its handle; 0 where there is no room for it."""
        channel.send(tpm.create_primary(tpm.OWNER, EK_ECC_TEMPLATE))
        answer = channel.recv(4352)
        return int.from_bytes(answer[10:14]) if answer[6:10] == bytes(4) else 0

    handles = [loaded(), loaded()]
    assert all(handles)
    # When a group is founded and opened, and its first vTPM certified
    keys = tenants.keys
    tenants.done("group", "add", "green", "--key", keys["host"], "--group-key", keys["red"])
    assert tenants.launch("green-web", "green").opened.launch_number == 1
    # Then the client's objects are there as before
    for handle in handles:
        channel.send(tpm.command(READ_PUBLIC, (handle,)))
        assert channel.recv(4352)[6:10] == bytes(4)
    channel.close()


def test_groups_go_on_under_a_new_master_key(tenants: Tenants) -> None:
    # Given a vTPM in each group, the host's own among them
    before = {group: tenants.launch(f"{group}-web", group) for group in ("red", "default")}
    for vtpm in before.values():
        tenants.end(vtpm)
    # When the master key is replaced, and the Manager started again
    tenants.done("host", "rotate", "--key", tenants.keys["host"])
    during = tenants.launch("red-web", "red")
    tenants.end(during)
    tenants.manager.stop()
    tenants.manager.start()
    # Then each has its vTPMs, under the keys that they had
    for group, vtpm in before.items():
        again = tenants.launch(f"{group}-web", group)
        assert (again.welcome.vtpm_id, again.welcome.key) == (
            vtpm.welcome.vtpm_id,
            vtpm.welcome.key,
        )
    # And their administrators speak for them as before
    host = ("--key", tenants.keys["host"])
    tenants.done("group", "limits", "red", *host, "--running", "7")
    tenants.done("group", "libraries", "default", *host, "--signer", "a key")


def test_a_key_may_stay_with_a_program_that_signs(tenants: Tenants) -> None:
    # Given a vTPM, and a program that has the group's key
    tenants.end(tenants.launch("web", "red"))
    signing = f"openssl dgst -sha256 -sign '{tenants.keys['red']}'"
    other = f"openssl dgst -sha256 -sign '{tenants.keys['blue']}'"
    # When it signs what the Manager wants signed, and others try
    refused = [
        tenants.refused("vtpm", "destroy", "web", "--sign-with", command)
        for command in (other, "cat", "false", "no-such-program", "'")
    ]
    tenants.done("vtpm", "destroy", "web", "--sign-with", signing)
    # Then it is done, and what is no signature, or another's, is refused by name
    assert refused == ["TDM-ADMIN-NOT-SIGNED", *["TDM-CLI-NOT-SIGNED"] * 4]
    assert tenants.refused("vtpm", "show", "web") == "TDM-VTPM-UNKNOWN"
