"""Tandem's own Manager without issuing keys in memory: each certificate is signed by the pTPM.

`python -m peers.certifying_manager --host DIR [--ready-fd N]`, as the Manager itself.  The CA key
is loaded for each signature, for no key of a group has a place in the pTPM for good.
"""

from __future__ import annotations

import sys

from cryptography import x509

from tandem.evidence.certificates import serial_bytes
from tandem.manager import __main__, records
from tandem.manager.certificates import signed
from tandem.manager.groups import Groups, OpenGroup
from tandem.manager.issuing import Issued

open_group = Groups._opened


def open_without_issuing(self: Groups, name: str, record: records.GroupRecord) -> OpenGroup:
    """Open a group whose certificates its CA key signs."""
    group = open_group(self, name, record)

    def issue(builder: x509.CertificateBuilder) -> Issued:
        with self.authority(name) as authority:
            der = signed(builder, authority._key)
        made = x509.load_der_x509_certificate(der)
        serial = serial_bytes(made.serial_number)
        return Issued(der=der, serial=serial, end=made.not_valid_after_utc)

    for key in (group.issuing._for_eks, group.issuing._for_aks):
        key.issue = issue  # type: ignore[method-assign]
    return group


if __name__ == "__main__":
    Groups._opened = open_without_issuing  # type: ignore[method-assign]
    sys.exit(__main__.main())
