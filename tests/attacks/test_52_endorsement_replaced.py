"""52: the platform's authorization is empty, and somebody makes the TPM another one under its VM.

Attacker: the guest's boot loader or root, before anybody set platformAuth.
Control: swtpm; TPM2_ChangeEPS with an empty platformAuth: the endorsement key is another one
(TPM2_Clear keeps it).
Shows: firmware sets platformAuth, or where the entry says `platform_auth = "vtpm"` the vTPM does
before its guest's first command: TPM_RC_BAD_AUTH. Which one holds is signed with each quote, and
an empty one is told by platform-auth-is-set (another endorsement key: row 63).
"""

from __future__ import annotations

from collections.abc import Callable

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Tier
from tandem.evidence.authorizations import Authorizations, Standing
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Rc, StartupType
from tests.attacks.bare_pair import GuestOf, paired_machine
from tests.attacks.disk import endorsement_key
from tests.attacks.tpm import done, run
from tests.integration.vtpm.pair_harness import PairUnderTest
from tests.unit.appraisal.forge import Forge, finding

CHANGE_EPS, CLEAR = 0x124, 0x126  # TPM_CC (Part 2, 6.5.2)


def by_platform(code: int) -> bytes:
    """A command that takes the platform's authorization alone, tried with an empty one."""
    return tpm.command(code, (tpm.PLATFORM,), b"", [tpm.password()])


def test_control_the_vm_has_another_endorsement_key(shared: SharedTpm) -> None:
    # Given a TPM, as it is commonly handed to a VM, that was cleared: its EK stays
    before = endorsement_key(shared)
    done(shared, by_platform(CLEAR))
    assert endorsement_key(shared) == before

    # When its endorsement seed is changed
    done(shared, by_platform(CHANGE_EPS))

    # Then whoever knew it by its EK does not know it any more
    assert endorsement_key(shared) != before


def test_the_vtpm_holds_the_platform_where_firmware_leaves_it(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a guest without firmware that cares for its TPM, at its very first commands
    pair = make_pair(firmware=False)
    pair.ready()
    pair.start_guest()
    pair.connect()
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    before = endorsement_key(guest)

    # When it changes the seeds
    codes = [run(guest, by_platform(each)).code for each in (CHANGE_EPS, CLEAR)]

    # Then both are refused, and the EK is the one that there was
    assert codes == [Rc.BAD_AUTH_1] * 2
    assert endorsement_key(guest) == before


def test_firmware_holds_the_platform_before_a_loader_runs(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a real machine after its firmware (SeaBIOS), with a boot loader at work
    pair = make_pair()
    pair.ready()
    machine = paired_machine(pair)
    machine.run_until()

    # When it changes the seeds
    codes = [run(machine, by_platform(each)).code for each in (CHANGE_EPS, CLEAR)]

    # Then both are refused
    assert codes == [Rc.BAD_AUTH_1] * 2


def test_an_empty_authorization_is_told_by_the_verdict() -> None:
    # Given evidence, signed by the vTPM, of a guest whose firmware left it empty
    empty = Authorizations(platform=Standing.EMPTY, lockout=Standing.EMPTY)
    forge = Forge(authorizations=empty.encode())

    # When it is appraised
    verdict = forge.verdict()

    # Then it is not trusted, for that
    assert finding(verdict, Rule.PLATFORM_AUTH.title).tier is not Tier.AFFIRMING
    assert verdict.word != "trusted"


def test_saying_that_it_is_set_does_not_make_it_so() -> None:
    # Given evidence of an empty one, in which the guest writes that it is set
    empty = Authorizations(platform=Standing.EMPTY, lockout=Standing.EMPTY)
    said = Authorizations(platform=Standing.SET, lockout=Standing.EMPTY)
    forge = Forge(authorizations=empty.encode())
    forge.answer_changes = {"authorizations": said.encode()}

    # When it is appraised
    verdict = forge.verdict()

    # Then the vTPM signed something else
    qualified = finding(verdict, Rule.VTPM_QUOTE_QUALIFIED.title)
    assert qualified.tier is Tier.CONTRAINDICATED
