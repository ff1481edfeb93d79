"""tpm2-tools' own integration tests through the broker: what its policy allows, what not, and why.

All but those of `OF_SOMETHING_ELSE` pass with tpm2-abrmd in the broker's place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tandem.wire.tpm_table import TABLE
from tests.e2e.tpm2_tools.suite import NotFetched, fetched, installed_version, names, run_script
from tests.integration.broker.running_broker import RunningBroker, running_broker

VERSION: Final = "5.4"
WRONG_TRIES: Final = 1000  # the tests guess passwords, on purpose
RIGHTS: Final = """
[uid.0]
hierarchies = ["owner", "null", "endorsement"]
extend = [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 23]
nv = ["0x01000000-0x0180053f", "0x01800550-0x01bfffff"]
nv_size = 2048
persistent = ["0x81000000-0x8101543f", "0x81015450-0x817fffff"]
shared = []
"""
ALLOWED: Final = (
    *("X509certutil", "abrmd_extended-sessions", "abrmd_policyauthorize"),
    *("abrmd_policyauthorizenv", "abrmd_policyauthvalue", "abrmd_policycommandcode"),
    *("abrmd_policyduplicationselect", "abrmd_policynamehash", "abrmd_policynv"),
    *("abrmd_policynvwritten", "abrmd_policypassword", "abrmd_policypcr", "abrmd_policyticket"),
    *("activecredential", "certify", "certifycreation", "create", "createpolicy", "createprimary"),
    *("duplicate", "ecc", "encodeobject", "encryptdecrypt", "eventlog", "flushcontext", "getcap"),
    *("getpolicydigest", "getrandom", "gettestresult", "gettime", "hash", "hmac", "import"),
    *("import_tpm", "load", "loadexternal", "makecredential", "nvcertify", "output_formats"),
    *("pcrlist", "pcrs_format", "print", "quote", "rc_decode", "readclock", "readpublic"),
    *("rsadecrypt", "rsaencrypt", "send", "send-tcti-cmd", "sessionconfig", "stirrandom"),
    *("symlink", "testparms", "unseal", "verifysignature"),
)
ALLOWED_ALONE: Final = ("sign",)  # it names commitments by the numbers that a new TPM gives them
REFUSED: Final = {  # the command that is refused first
    "abrmd_nvundefinespecial": "NV_DefineSpace",  # in the platform hierarchy
    "abrmd_policycphash": "SetPrimaryPolicy",
    "abrmd_policyor": "PCR_Reset",
    "abrmd_policysecret": "HierarchyChangeAuth",
    "abrmd_policysigned": "HierarchyChangeAuth",
    "abrmd_policytemplate": "SetPrimaryPolicy",
    "attestation": "PCR_Reset",
    "changeauth": "HierarchyChangeAuth",
    "changeeps": "ChangeEPS",
    "changepps": "CreatePrimary",  # in the platform hierarchy
    "checkquote": "PCR_Reset",
    "clear": "HierarchyChangeAuth",
    "clearcontrol": "ClearControl",
    "clockrateadjust": "ClockRateAdjust",
    "commandaudit": "SetCommandCodeAuditStatus",
    "createak": "HierarchyChangeAuth",
    "createek": "NV_DefineSpace",  # where EK certificates are
    "evictcontrol": "CreatePrimary",  # in the platform hierarchy
    "hierarchycontrol": "HierarchyControl",
    "incrementalselftest": "IncrementalSelfTest",
    "nv": "HierarchyChangeAuth",
    "nvinc": "HierarchyChangeAuth",
    "pcrallocate": "PCR_Allocate",
    "pcrevent": "EventSequenceComplete",  # into register 8
    "pcrextend": "PCR_Extend",  # register 9
    "pcrreset": "PCR_Reset",
    "selftest": "SelfTest",
    "sessionaudit": "HierarchyChangeAuth",
    "setclock": "ClockSet",
    "setprimarypolicy": "HierarchyChangeAuth",
    "startup": "Shutdown",
}
REFUSED_SILENTLY: Final = {  # the same, where the test hides what its tool says
    "abrmd_policycountertimer": "Clear",  # it expects the counts that a TPM has after that
    "dictionarylockout": "DictionaryAttackLockReset",
}
OF_SOMETHING_ELSE: Final = {
    "getekcertificate": "skips itself unless a maker's server can be asked",
    "toggle_options": "checks tpm2-tools' source tree against its manual pages",
}


@pytest.fixture(scope="module")
def suite() -> Path:
    """The suite of the installed version, fetched where it is not there."""
    if installed_version() != VERSION:
        pytest.skip(f"the table is of tpm2-tools {VERSION}")
    try:
        return fetched()
    except NotFetched as error:
        pytest.skip(f"the source package of tpm2-tools cannot be had: {error}")


@pytest.fixture(scope="module")
def generous() -> Iterator[RunningBroker]:
    """A host whose root may do whatever the policy allows anybody."""
    with running_broker(RIGHTS, WRONG_TRIES) as running:
        yield running


def test_every_test_of_the_suite_is_in_the_table_once(suite: Path) -> None:
    # Given the suite and the tables above
    tables = (ALLOWED, ALLOWED_ALONE, REFUSED, REFUSED_SILENTLY, OF_SOMETHING_ELSE)
    listed = [name for table in tables for name in table]

    # When they are compared
    # Then each test is in one of them, once, and what refuses is a command of the policy
    assert sorted(listed) == sorted(names(suite))
    commands = {row.name for row in TABLE.values()}
    assert {*REFUSED.values(), *REFUSED_SILENTLY.values()} <= commands


@pytest.mark.parametrize("name", ALLOWED)
def test_what_the_policy_allows_passes(
    suite: Path, generous: RunningBroker, tmp_path: Path, name: str
) -> None:
    # Given a host whose pTPM is behind the broker
    # When a test of tpm2-tools runs there, as it is
    status, said = run_script(suite, name, generous.tcti, tmp_path)

    # Then it passes
    assert status == 0, said[-3000:]


@pytest.mark.parametrize("name", ALLOWED_ALONE)
def test_what_expects_a_new_tpm_passes_on_one(suite: Path, tmp_path: Path, name: str) -> None:
    # Given a host whose pTPM nobody used yet
    with running_broker(RIGHTS, WRONG_TRIES) as fresh:
        # When a test of tpm2-tools runs there, as it is
        status, said = run_script(suite, name, fresh.tcti, tmp_path)

    # Then it passes
    assert status == 0, said[-3000:]


@pytest.mark.parametrize(("name", "command"), REFUSED.items())
def test_what_the_policy_refuses_is_refused_by_name(
    suite: Path, generous: RunningBroker, tmp_path: Path, name: str, command: str
) -> None:
    # Given a test that does what the policy allows nobody
    # When it runs
    status, said = run_script(suite, name, generous.tcti, tmp_path)

    # Then it fails, at that command, by a code of the resource manager's layer
    assert status != 0
    assert re.search(rf"ys_{command}\(0xB0[0-9A-F]{{3}}\)", said), said[-3000:]


@pytest.mark.parametrize("name", REFUSED_SILENTLY)
def test_the_others_that_are_refused_fail(
    suite: Path, generous: RunningBroker, tmp_path: Path, name: str
) -> None:
    # Given a test that hides what its tools say
    # When it runs
    # Then it fails
    assert run_script(suite, name, generous.tcti, tmp_path)[0] != 0
