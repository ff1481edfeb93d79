"""51: a guest's user takes the lock-out off, which has an empty authorization, and guesses on.

Attacker: a program in the guest that reaches its TPM, without the password that it guesses.
Control: swtpm, as libvirt leaves it: TPM2_DictionaryAttackLockReset with an empty authorization
after each lock-out, until the password is found.
Shows: an entry with `lockout_auth = "strict"` has its vTPM set lockoutAuth at random at the first
launch: TPM_RC_AUTH_FAIL, and the lock-out stays. Without it the guest sets it; which one it is, is
signed with each quote, and lockout-auth-is-as-demanded is broken where it is not as the entry says.
"""

from __future__ import annotations

from collections.abc import Callable

from peers.shared_swtpm import SharedTpm
from tandem.appraisal.rules import Rule
from tandem.evidence.authorizations import Authorizations, Standing
from tandem.wire import tpm_commands as tpm
from tandem.wire.tpm_commands import StartupType
from tests.attacks.bare_pair import GuestOf
from tests.attacks.tpm import (
    GUESSABLE_ATTRIBUTES,
    RC_SUCCESS,
    Tpm,
    done,
    load,
    make_primary,
    run,
    seal,
    unseal,
)
from tests.attacks.verdicts import against
from tests.integration.vtpm.pair_harness import PairUnderTest
from tests.unit.appraisal.forge import Forge, guest_entry, library

DICTIONARY_ATTACK_LOCK_RESET = 0x139  # TPM_CC (Part 2, 6.5.2)
LOCKED = 0x921  # TPM_RC_LOCKOUT
AUTH_FAIL = 0x98E  # TPM_RC_AUTH_FAIL of the first session
PASSWORD = b"0011"
MANY = 40


def lock_reset(auth: bytes = b"") -> bytes:
    """TPM2_DictionaryAttackLockReset (Part 3, 25.2)."""
    return tpm.command(DICTIONARY_ATTACK_LOCK_RESET, (tpm.LOCKOUT,), b"", [tpm.password(auth)])


def sealed(client: Tpm) -> int:
    """Seal something under a short password; gives the loaded object's handle."""
    parent = make_primary(client)
    blob = seal(client, parent, b"secret", PASSWORD, GUESSABLE_ATTRIBUTES)
    return done(client, load(parent, blob), with_handle=True).handle


def lock_out(client: Tpm, handle: int) -> None:
    """Guess until the TPM refuses even to look."""
    for _ in range(MANY):
        if run(client, unseal(handle, b"wrong")).code == LOCKED:
            return
    raise AssertionError("it never locks")


def test_control_guessing_goes_on_without_end(shared: SharedTpm) -> None:
    # Given a short password, and a TPM whose lockoutAuth nobody set
    handle = sealed(shared)

    # When the lock-out is taken off whenever it is there
    resets = 0
    for guess in range(16):
        word = f"{guess:04b}".encode()
        while (code := run(shared, unseal(handle, word)).code) == LOCKED:
            done(shared, lock_reset())
            resets += 1
        if code == RC_SUCCESS:
            break

    # Then it is found, and not because the TPM never locked
    assert word == PASSWORD
    assert resets > 0


def test_a_strict_vtpm_stays_locked(make_pair: Callable[..., PairUnderTest]) -> None:
    # Given a guest of a strict entry, whose TPM is locked
    pair = make_pair(strict=True)
    pair.ready()
    pair.start_guest()
    pair.connect()
    guest = GuestOf(pair)
    done(guest, tpm.startup(StartupType.CLEAR))
    handle = sealed(guest)
    lock_out(guest, handle)

    # When it takes the lock-out off with an empty authorization
    code = run(guest, lock_reset()).code

    # Then that is not it, and even the right password is refused until the time is over
    assert code == AUTH_FAIL
    assert run(guest, unseal(handle, PASSWORD)).code == LOCKED


def test_the_verdict_knows_which_it_is() -> None:
    # Given a strict entry in the library, and evidence whose vTPM says that lockoutAuth is empty
    strict = library(entries={"web": guest_entry(lockout_auth="strict")})
    held = Authorizations(platform=Standing.SET, lockout=Standing.SET)
    empty = Authorizations(platform=Standing.SET, lockout=Standing.EMPTY)

    # When both are appraised
    found = [
        against(Forge(library=strict, authorizations=each.encode()).verdict())
        for each in (held, empty)
    ]

    # Then one finding tells them apart
    assert Rule.LOCKOUT_AUTH.title not in found[0]
    assert Rule.LOCKOUT_AUTH.title in found[1]
