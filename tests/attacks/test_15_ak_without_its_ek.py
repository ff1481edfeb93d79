"""15: the endorsement key of a real TPM is shown, and quotes are made with a key of software.

Attacker: a guest's root, or whoever answers in his place.
Control: a verifier that checks the EK of one swtpm and the quote of another, each well
(CVE-2022-1053, Keylime up to 6.4.0).
Shows: the Manager certifies the AK of its vTPM over that launch's record, which names both keys: a
quote by another key breaks vtpm-quote-is-signed, another AK vtpm-ak-is-the-records. A host's AK is
enrolled by a credential that one TPM alone opens, for that very AK (TDM-ACTIVATE-REFUSED).
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from peers.shared_swtpm import shared_swtpm
from tandem.appraisal.enrolment import Challenge, make_credential, write_challenge
from tandem.appraisal.rules import Rule
from tandem.evidence.host_export import HostExport, parse_host_export
from tandem.evidence.tpm_types import parse_public
from tandem.vtpm.provisioning import EK_RSA_TEMPLATE
from tandem.wire import tpm_commands as tpm
from tests.attacks.disk import AttackedHost
from tests.attacks.quoting_tpm import quoted
from tests.attacks.tpm import done, read_public
from tests.attacks.verdicts import against
from tests.integration.manager.running_manager import tandem
from tests.unit.appraisal.forge import Forge, new_key

SECRET = b"c" * 32


def test_control_two_checks_that_are_each_well_accept_it(tmp_path: Path) -> None:
    # Given a TPM whose EK somebody certified, and another one, of the attacker's own
    (tmp_path / "real").mkdir()
    (tmp_path / "own").mkdir()
    with shared_swtpm(tmp_path / "real") as real, shared_swtpm(tmp_path / "own") as own:
        template = tpm.create_primary(tpm.ENDORSEMENT, EK_RSA_TEMPLATE)
        made = [done(each, template, with_handle=True) for each in (real, own)]
        areas = [
            done(each, read_public(one.handle)) for each, one in zip((real, own), made, strict=True)
        ]
        names = [
            parse_public(one.parameters[2 : 2 + int.from_bytes(one.parameters[:2])]).name
            for one in areas
        ]
        certified = {names[0]}
        # When the EK of the first is shown, with a quote by the AK of the second
        shown_ek, answer = names[0], quoted(own)

    # Then each check holds, and nothing ties them: the AK is of a TPM that nobody certified
    assert shown_ek in certified
    assert answer.passes_checkquote(tmp_path)
    assert names[1] not in certified


def test_a_quote_by_another_key_is_not_the_records() -> None:
    # Given evidence with the record, certificates and EK of a real pair, quoted by another key
    forge = Forge(vtpm_signer=new_key())

    # When it is appraised
    verdict = forge.verdict()

    # Then the quote is not signed by the certified key
    assert Rule.VTPM_QUOTE_SIGNED.title in against(verdict)


@pytest.mark.parametrize("own_certificate", [False, True])
def test_a_key_that_the_record_does_not_name_is_none(own_certificate: bool) -> None:
    # Given a pair's evidence, and a record that the attacker's own AK is put into
    real, own = Forge(), Forge()
    own.host_ak, own.ca, own.library_key = real.host_ak, real.ca, real.library_key
    own.record_changes = {"ak_name": real.record().ak_name}
    if own_certificate:
        own.rogue_ca = new_key()

    # When it is appraised
    verdict = own.verdict()

    # Then it is not the record's, whoever certified it
    assert Rule.AK_NAMED.title in against(verdict)


def test_a_credential_is_for_one_tpm_and_one_ak() -> None:
    # Given a host whose EK is known, and another one with an AK that wants to pass for its
    with AttackedHost() as real, AttackedHost() as own:
        exports = [export_of(each) for each in (real, own)]
        ek, aks = exports[0].ek, [each.ak.name for each in exports]

        # When each is given a credential for that EK and the one AK or the other
        answers = {
            (each, number): activate(host, make_credential(ek, name, SECRET, secrets.token_bytes))
            for each, host in (("real", real), ("own", own))
            for number, name in enumerate(aks)
        }

    # Then the EK's own host opens it for its own AK, and nobody anything else
    opened = [which for which, code in answers.items() if code == ""]
    assert opened == [("real", 0)]
    assert {code for code in answers.values() if code} == {"TDM-ACTIVATE-REFUSED"}


def export_of(host: AttackedHost) -> HostExport:
    return parse_host_export(tandem(host.host, "host", "export").stdout.encode())


def activate(host: AttackedHost, challenge: Challenge) -> str:
    """Have a host answer a verifier's challenge; gives the code of its refusal, or ""."""
    asked = host.host / "challenge.json"
    asked.write_bytes(write_challenge(challenge))
    done = tandem(host.host, "host", "activate", str(asked), "--json")
    return "" if done.returncode == 0 else str(json.loads(done.stderr)["code"])


def test_an_enrolled_host_is_one_tpm() -> None:
    # Given a host whose AK is of software, beside one that was enrolled by its EK
    forge = Forge(host_signer=new_key())
    other = Forge(enrolled_ak=new_key())

    # When their evidence is appraised
    # Then one quote is not signed by the AK, and the other AK is not the enrolled one
    assert Rule.PTPM_QUOTE_SIGNED.title in against(forge.verdict())
    assert against(other.verdict()) == [Rule.HOST_AK_ENROLLED.title]
