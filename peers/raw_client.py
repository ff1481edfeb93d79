"""Standard input and output on a TPM's own socket, so that stock tools use it directly.

For libtss2-tcti-cmd: `-T "cmd:python3 peers/raw_client.py SOCKET"`.  Nothing stands between the
tool and the TPM: the peer of `tandem tpm`.
"""

from __future__ import annotations

import os
import select
import socket
import sys

PIECE = 1 << 16


def main() -> int:
    """Pass commands and responses until either side ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tpm:
        tpm.connect(sys.argv[1])
        while True:
            ready, _, _ = select.select([0, tpm.fileno()], [], [])
            if tpm.fileno() in ready:
                os.write(1, tpm.recv(PIECE))
            else:
                command = os.read(0, PIECE)
                if not command:
                    return 0
                tpm.sendall(command)


if __name__ == "__main__":
    sys.exit(main())
