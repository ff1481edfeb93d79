"""The table has every command of the specification once, with a rule and a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tandem.wire.tpm_table import TABLE, Created, Kind, Rule, parse_table

HEADER = Path("/usr/include/tss2/tss2_tpm2_types.h")  # libtss2-dev: Part 2, table 12 in C
DEFINITION = re.compile(r"#define TPM2_CC_(\w+)\s+\(\(TPM2_CC\) (0x[0-9a-f]+)\)")
NEVER = {
    *("Clear", "ClearControl", "ChangePPS", "ChangeEPS", "HierarchyControl", "PP_Commands"),
    *("HierarchyChangeAuth", "SetPrimaryPolicy", "DictionaryAttackLockReset"),
    *("DictionaryAttackParameters", "PCR_Reset", "PCR_Allocate", "PCR_SetAuthPolicy"),
    *("PCR_SetAuthValue", "Shutdown", "IncrementalSelfTest", "FieldUpgradeStart"),
    *("FieldUpgradeData", "FirmwareRead", "ACT_SetTimeout", "SetCommandCodeAuditStatus"),
    *("GetCommandAuditDigest", "NV_GlobalWriteLock", "NV_UndefineSpaceSpecial", "ClockSet"),
    *("ClockRateAdjust", "SetAlgorithmSet", "AC_GetCapability", "AC_Send"),
    *("Policy_AC_SendSelect", "Vendor_TCG_Test"),
}


def test_each_command_of_the_specification_is_in_the_table_once() -> None:
    # Given the TPM_CC constants of the tss
    definitions = DEFINITION.findall(HEADER.read_text())
    found = {int(code, 16): name for name, code in definitions if name != "LAST"}

    # When the table is read
    rows = {code: row.name for code, row in TABLE.items()}

    # Then it has the same names and codes, no more and no fewer
    assert rows == found
    assert len(rows) > 100


def test_each_command_says_why() -> None:
    # Given the table
    # When its reasons are read
    # Then each is a text of its own row, also of what is allowed
    assert all(len(row.why) > 10 for row in TABLE.values())


def test_what_would_hurt_the_manager_is_refused() -> None:
    # Given the commands that change hierarchies, lockout, registers' banks, firmware or audit
    # When the table is read
    refused = {row.name for row in TABLE.values() if row.rule is Rule.REFUSE}

    # Then they are refused, and they are all that is refused
    assert refused == NEVER


def test_authorized_handles_come_first_and_sequences_end_where_the_table_says() -> None:
    # Given the table
    for row in TABLE.values():
        # When a row is read
        marks = [place.authorized for place in row.places]

        # Then what needs an authorization comes first (Part 1, 18.6), and what ends is a sequence
        assert marks == sorted(marks, reverse=True)
        assert row.ends is None or row.places[row.ends].kind is Kind.SEQUENCE
        assert row.creates in (None, *Created)


@pytest.mark.parametrize(
    "text",
    [
        '[A]\ncode = 1\nrule = "allow"\nwhy = "x"\n[B]\ncode = 1\nrule = "allow"\nwhy = "x"',
        '[A]\ncode = 1\nrule = "allow"\nwhy = "x"\nhandles = ["things"]',
        '[A]\ncode = 1\nrule = "perhaps"\nwhy = "x"',
        '[A]\ncode = 1\nrule = "allow"\nwhy = "x"\ncolour = "red"',
    ],
)
def test_a_mistake_in_the_table_is_not_read_over(text: str) -> None:
    # Given a table with one code twice, an unknown kind, rule or field
    # When it is read
    # Then it is an error, before anything goes by it
    with pytest.raises(ValueError, match=r"."):
        parse_table(text)
