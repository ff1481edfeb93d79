"""44: a secret is sealed to a register that nothing was measured into, and opens for everybody.

Attacker: whoever boots the machine; often nobody means ill: a dynamic launch fell back, or firmware
does not measure.
Control: swtpm; a secret sealed to PCR 17, which is FF...FF without a D-RTM, opens after a boot of
something else, where one that is sealed to PCR 9 does not (qubes-issues#2569).
Shows: a host is not made that would seal to a register of one byte's repetition, 0 or FF
(TDM-SEAL-UNMEASURED-PCR), alone or beside measured ones; nothing is left of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.shared_swtpm import SharedTpm, shared_swtpm
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import Response
from tests.attacks.quoting_tpm import measure
from tests.attacks.tpm import (
    RC_SUCCESS,
    UNSEAL,
    done,
    load,
    make_primary,
    run,
    seal,
)
from tests.integration.manager.running_manager import refusal, tandem

POLICY_PCR, POLICY_GET_DIGEST = 0x17F, 0x189  # TPM_CC (Part 2, 6.5.2)
BY_POLICY_ALONE = 0x00000412  # fixedTPM, fixedParent, noDA (TPMA_OBJECT)
SECRET = b"the key of the disk"
MEASURED, BLANK = 9, 17


def policy_session(client: SharedTpm, register: int) -> int:
    """Start a policy session that holds a register as it is now."""
    session = done(client, tpm.start_policy_session(), with_handle=True).handle
    fields = tpm.sized(b"") + tpm.selection((register,))
    done(client, tpm.command(POLICY_PCR, (session,), fields))
    return session


def seal_to(client: SharedTpm, register: int) -> tuple[bytes, bytes]:
    """Seal the secret to a register as it is now."""
    session = policy_session(client, register)
    digest = done(client, tpm.command(POLICY_GET_DIGEST, (session,))).parameters[2:]
    parent = make_primary(client)
    blob = seal(client, parent, SECRET, attributes=BY_POLICY_ALONE, policy=digest)
    for handle in (parent, session):
        done(client, tpm.flush_context(handle))
    return blob


def unseal_by(client: SharedTpm, register: int, blob: tuple[bytes, bytes]) -> Response:
    """Unseal by a register as it is now, whatever comes of it."""
    parent, session = make_primary(client), policy_session(client, register)
    loaded = done(client, load(parent, blob), with_handle=True).handle
    answer = run(client, tpm.command(UNSEAL, (loaded,), b"", [tpm.policy(session)]))
    for handle in (loaded, parent):
        done(client, tpm.flush_context(handle))
    return answer


def test_control_it_opens_whatever_was_booted(tmp_path: Path) -> None:
    # Given a good boot without a dynamic launch, and what was sealed there
    with shared_swtpm(tmp_path) as client:
        measure(client)
        blobs = {register: seal_to(client, register) for register in (MEASURED, BLANK)}

    # When something else is booted
    with shared_swtpm(tmp_path) as client:
        measure(client, {MEASURED: b"\xee" * 32})
        opened = {register: unseal_by(client, register, blob) for register, blob in blobs.items()}

    # Then what is sealed to the blank register opens, though the other stays closed
    assert opened[BLANK].code == RC_SUCCESS
    assert opened[BLANK].parameters[2:] == SECRET
    assert opened[MEASURED].code != RC_SUCCESS


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory where hosts may be."""
    with tempfile.TemporaryDirectory(prefix="tandem-attack-", dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.parametrize("registers", ["17", "0", "8,17", "8,0"])
def test_a_host_does_not_seal_to_what_nobody_measured(place: Path, registers: str) -> None:
    # Given a host whose pTPM has a measured PCR 8, a PCR 0 of zeros, and a PCR 17 of ones
    # When it is to be made with keys that are sealed to a blank one
    done = tandem(place / "host", "host", "init", "--json", "--pcrs", registers)

    # Then it is refused by that, and there is no host
    assert refusal(done) == ("TDM-SEAL-UNMEASURED-PCR", 5)
    assert not (place / "host" / "manager").exists()


def test_a_measured_register_is_sealed_to(place: Path) -> None:
    # Given the same host
    # When it is made with keys that are sealed to the measured one
    done = tandem(place / "host", "host", "init", "--pcrs", "8")

    # Then it is made: the refusals above are not refusals of everything
    assert done.returncode == 0, done.stderr
