"""How the vTPM's own authorizations stood when it quoted: platformAuth and lockoutAuth.

Both findings say what the vTPM saw, for its quote is qualified with it.
"""

from __future__ import annotations

from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Finding
from tandem.errors import UntrustedInput
from tandem.evidence.authorizations import Standing, parse_authorizations
from tandem.evidence.guest_entry import DirectBoot, GuestEntry, LockoutAuth, PlatformAuth
from tandem.evidence.manifest import OnceEntry


def appraise_authorizations(data: bytes, entry: GuestEntry | OnceEntry) -> tuple[Finding, ...]:
    """Judge both against what the library's entry wants of the guest's vTPM."""
    try:
        found = parse_authorizations(data)
    except UntrustedInput as error:
        return (Rule.PLATFORM_AUTH.unreadable(error), Rule.LOCKOUT_AUTH.unreadable(error))
    return _platform(found.platform, entry), _lockout(found.lockout, entry)


def _platform(found: Standing, entry: GuestEntry | OnceEntry) -> Finding:
    """Judge that it is set; that it is not the guest's own is the entry's word of its firmware."""
    if found is Standing.DISABLED:
        return Rule.PLATFORM_AUTH.holds("the platform hierarchy is disabled until the next launch")
    return Rule.PLATFORM_AUTH.judged(
        found is Standing.SET,
        f"platformAuth is set, {_by_whom(entry)}",
        "platformAuth is empty: the guest's root can clear its lockout, change the EPS and "
        "disable hierarchies",
    )


def _by_whom(entry: GuestEntry | OnceEntry) -> str:
    if isinstance(entry, GuestEntry):
        boot = entry.boot
        if not isinstance(boot, DirectBoot) or boot.platform_auth is PlatformAuth.FIRMWARE:
            return "by the guest's firmware, as the entry says of it: the vTPM leaves that to it"
    return "by the vTPM as it was started: nobody knows it"


def _lockout(found: Standing, entry: GuestEntry | OnceEntry) -> Finding:
    if isinstance(entry, GuestEntry) and entry.lockout_auth is LockoutAuth.STRICT:
        return Rule.LOCKOUT_AUTH.judged(
            found is Standing.SET,
            "lockoutAuth is set, as the entry demands",
            f"lockoutAuth is {found}; the entry demands it set before the guest's system runs",
        )
    return Rule.LOCKOUT_AUTH.holds(f"lockoutAuth is {found}; the entry leaves it to the guest")
