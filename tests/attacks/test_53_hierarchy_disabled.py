"""53: the endorsement hierarchy is switched off, and the guest attests no more.

Attacker: the guest's root, or a program of his that wants no questions asked.
Control: swtpm; TPM2_HierarchyControl with an empty authorization: no EK, no AK of its hierarchy and
no quote until the next start.
Shows: the vTPM's AK is of the platform hierarchy, which a guest cannot switch off
(TPM_RC_BAD_AUTH): with the endorsement hierarchy off, by its own authorization, deep quotes go on.
"""

from __future__ import annotations

from collections.abc import Callable

from peers.shared_swtpm import SharedTpm
from tandem.evidence.vtpm_ak import vtpm_ak_template
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Rc
from tests.attacks.tpm import RC_SUCCESS, done, run
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.pair_harness import PairUnderTest

HIERARCHY_CONTROL = 0x121  # TPM_CC (Part 2, 6.5.2)
HIERARCHY = 0x85  # TPM_RC_HIERARCHY, of a handle or parameter in the bits above


def switch_off(hierarchy: int, by: int) -> bytes:
    """TPM2_HierarchyControl (Part 3, 24.2), with an empty authorization."""
    return tpm.command(HIERARCHY_CONTROL, (by,), hierarchy.to_bytes(4) + b"\0", [tpm.password()])


def test_control_there_are_no_quotes_any_more(shared: SharedTpm) -> None:
    # Given a TPM that quotes by an AK of its endorsement hierarchy
    make = tpm.create_primary(tpm.ENDORSEMENT, vtpm_ak_template())
    ak = done(shared, make, with_handle=True).handle
    done(shared, tpm.quote(ak, b"", bytes(32), (0,)))

    # When the hierarchy is switched off
    done(shared, switch_off(tpm.ENDORSEMENT, tpm.ENDORSEMENT))

    # Then the AK is gone, and cannot be made again
    assert run(shared, tpm.quote(ak, b"", bytes(32), (0,))).code != RC_SUCCESS
    assert run(shared, make, with_handle=True).code & 0xBF == HIERARCHY


def test_deep_quotes_go_on_without_the_endorsement_hierarchy(pair: PairUnderTest) -> None:
    # Given a guest that answers deep quotes
    guest = Guest(pair)
    guest.start()
    assert guest.deep_quote().record

    # When it switches off what it can: its endorsement and its owner hierarchy
    codes = [guest.code(switch_off(each, each)) for each in (tpm.ENDORSEMENT, tpm.OWNER)]

    # Then it answers all the same
    assert codes == [RC_SUCCESS] * 2
    assert guest.deep_quote().record


def test_the_platform_hierarchy_is_not_the_guests_to_switch_off(
    make_pair: Callable[..., PairUnderTest],
) -> None:
    # Given a guest whose platform authorization the vTPM has set
    pair = make_pair(firmware=False)
    pair.ready()
    pair.start_guest()
    pair.connect()
    guest = Guest(pair)
    guest.start()

    # When it switches hierarchies off by the platform's authorization
    hierarchies = (tpm.PLATFORM, tpm.ENDORSEMENT, tpm.OWNER)
    codes = [guest.code(switch_off(each, tpm.PLATFORM)) for each in hierarchies]

    # Then it may not, and deep quotes go on
    assert codes == [Rc.BAD_AUTH_1] * 3
    assert guest.deep_quote().record
