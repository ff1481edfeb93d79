"""Object identifiers in the certificates that a host issues.

TCG's are those of the EK Credential Profile for TPM 2.0, version 2.5, section 3.2.  Tandem's own is
made from a UUID (ITU-T X.667), which nobody has to be asked for.
"""

from __future__ import annotations

from typing import Final

TPM_MANUFACTURER: Final = "2.23.133.2.1"  # attributes in the subject alternative name
TPM_MODEL: Final = "2.23.133.2.2"
TPM_VERSION: Final = "2.23.133.2.3"
TPM_SPECIFICATION: Final = "2.23.133.2.16"  # subject directory attribute
SUBJECT_DIRECTORY_ATTRIBUTES: Final = "2.5.29.9"  # RFC 5280, 4.2.1.8
EK_CERTIFICATE: Final = "2.23.133.8.1"  # tcg-kp-EKCertificate, extended key usage
AK_CERTIFICATE: Final = "2.23.133.8.3"  # tcg-kp-AIKCertificate

# Extension of a vTPM's AK certificate: SHA-256 of the pair record, as a DER OCTET STRING.
PAIR_RECORD_DIGEST: Final = "2.25.297833247994499945013381906727204427838"
# The same: SEQUENCE { resetCount INTEGER, restartCount INTEGER }, the counts of the pair record.
EXPECTED_COUNTS: Final = "2.25.211163953086450411716303166290470812341"
