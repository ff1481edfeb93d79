"""Names of TPM response codes (TPM 2.0 Part 2, 6.6), for messages that people read."""

from __future__ import annotations

SUCCESS = 0
FORMAT_ONE = 0x080  # a code about one handle, session or parameter
FORMAT_ONE_PARAMETER = 0x040
FORMAT_ONE_SESSION = 0x800
HANDLE = 0x08B
NV_UNINITIALIZED = 0x14A

# Table 17, format zero: whole codes
FORMAT_ZERO_NAMES = {
    0x100: "INITIALIZE", 0x101: "FAILURE", 0x103: "SEQUENCE", 0x120: "DISABLED",
    0x124: "AUTH_TYPE", 0x125: "AUTH_MISSING", 0x126: "POLICY", 0x12F: "AUTH_UNAVAILABLE",
    0x130: "REBOOT", 0x142: "COMMAND_SIZE", 0x143: "COMMAND_CODE", 0x144: "AUTHSIZE",
    0x146: "NV_RANGE", 0x147: "NV_SIZE", 0x148: "NV_LOCKED", 0x149: "NV_AUTHORIZATION",
    0x14A: "NV_UNINITIALIZED", 0x153: "NEEDS_TEST", 0x902: "OBJECT_MEMORY",
    0x903: "SESSION_MEMORY", 0x904: "MEMORY", 0x907: "LOCALITY", 0x909: "CANCELED",
    0x90A: "TESTING", 0x920: "NV_RATE", 0x921: "LOCKOUT", 0x922: "RETRY",
    0x923: "NV_UNAVAILABLE",
}  # fmt: skip
# Table 17, format one: the lowest six bits
FORMAT_ONE_NAMES = {
    0x02: "ATTRIBUTES", 0x04: "VALUE", 0x05: "HIERARCHY", 0x0B: "HANDLE", 0x0D: "RANGE",
    0x0E: "AUTH_FAIL", 0x15: "SIZE", 0x17: "TAG", 0x1A: "INSUFFICIENT", 0x1D: "POLICY_FAIL",
    0x21: "RESERVED_BITS", 0x22: "BAD_AUTH", 0x24: "POLICY_CC",
}  # fmt: skip


def base_code(code: int) -> int:
    """Take from a code which handle, session or parameter it is about."""
    return code & 0x0BF if code & FORMAT_ONE else code


def response_code_name(code: int) -> str:
    """Give the specification's name of a code, as in `TPM_RC_VALUE (0x1c4, parameter 1)`."""
    if not code & FORMAT_ONE:
        return f"TPM_RC_{FORMAT_ZERO_NAMES.get(code, 'unnamed')} ({code:#x})"
    name = FORMAT_ONE_NAMES.get(code & 0x3F, "unnamed")
    if code & FORMAT_ONE_PARAMETER:
        return f"TPM_RC_{name} ({code:#x}, parameter {code >> 8 & 0xF})"
    about = "session" if code & FORMAT_ONE_SESSION else "handle"
    return f"TPM_RC_{name} ({code:#x}, {about} {code >> 8 & 0x7})"
