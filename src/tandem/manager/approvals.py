"""The approvals of a host: read and installed as files, and the one chosen that fits the present.

They are signed by the approval key and hold nothing secret, so whoever writes them there gains
nothing; each is of one generation of the master key, and useless for any other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tandem.errors import Refused, TandemError, UsageError
from tandem.evidence.host_approval import (
    HOST_SUBJECT,
    MAX_APPROVAL,
    Approval,
    check_approval,
    parse_approval,
    write_approval,
)
from tandem.evidence.host_state import HostState
from tandem.manager.identity import Identity, sync_directory

SUFFIX: Final = ".json"
MOST: Final = 256


def read_approvals(directory: Path, identity: Identity) -> list[Approval]:
    """Give the host's approvals that count; others are as good as absent."""
    found_files = sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else []
    paths = [path for path in found_files if path.is_file()][:MOST]  # a FIFO would be waited for
    found = []
    for path in paths:
        try:
            with path.open("rb") as file:
                approval = parse_approval(file.read(MAX_APPROVAL + 1))
            check_for(approval, identity)
        except (OSError, TandemError):
            continue  # damaged, foreign, or of a former generation: `choose` says that one lacks
        found.append(approval)
    return found


def check_for(approval: Approval, identity: Identity) -> None:
    """Refuse an approval that is not for this host's present generation and registers."""
    if (approval.subject, approval.generation) != (HOST_SUBJECT, identity.generation):
        raise Refused(
            "TDM-APPROVAL-FOR-ANOTHER",
            f"the approval is for {approval.subject}, generation {approval.generation}; this is "
            f"{HOST_SUBJECT}, generation {identity.generation}",
            hint="approve a state that `tandem host state` wrote on this host since its newest "
            "master key",
        )
    if approval.state.registers != identity.registers:
        raise UsageError(
            "TDM-APPROVAL-OTHER-REGISTERS",
            f"the approval is for PCR {_listed(approval.state.registers)}, and this host is sealed "
            f"to PCR {_listed(identity.registers)}",
            hint="approve a state that `tandem host state` wrote on this host",
        )
    check_approval(approval, identity.approver)


def choose(approvals: Sequence[Approval], present: HostState, what: str) -> Approval:
    """Give the approval of the state that the host is in; `what` is the secret that it opens."""
    differing = [(_differing(each.state, present), each) for each in approvals]
    for registers, approval in differing:
        if not registers:
            return approval
    if not differing:
        raise Refused(
            "TDM-HOST-STATE-NOT-APPROVED",
            f"the pTPM does not unseal {what}: no state of this host was approved",
            hint="sign what `tandem host state` writes, and bring it in with `tandem host approve`",
        )
    nearest = min((registers for registers, _ in differing), key=len)
    raise Refused(
        "TDM-HOST-STATE-CHANGED",
        f"the pTPM does not unseal {what}: PCR {_listed(nearest)} changed since the nearest "
        "approval",
        hint="boot the host as it was, or approve this state with `tandem host approve --key KEY`; "
        "after a change that nobody planned and without that key, `tandem host recover`",
    )


def install(directory: Path, approval: Approval, owner: int) -> Path:
    """Write an approval where every later start finds it, whole or not at all."""
    content = write_approval(approval)
    name = f"{approval.generation}-{hashlib.sha256(content).hexdigest()[:16]}"
    beside, path = directory / f"{name}.new", directory / f"{name}{SUFFIX}"
    with beside.open("wb") as file:
        os.fchown(file.fileno(), owner, owner)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    sync_directory(directory)
    return path


def keep_only(directory: Path, generation: int) -> None:
    """Remove the approvals of other generations: nothing opens with them any more."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if not path.name.startswith(f"{generation}-"):
            path.unlink(missing_ok=True)


def _differing(approved: HostState, present: HostState) -> tuple[int, ...]:
    """Give the registers that do not hold what was approved, in the banks that it names."""
    banks = {bank: present.banks.get(bank, {}) for bank in approved.banks}
    chosen = {
        bank: {index: values[index] for index in approved.registers if index in values}
        for bank, values in banks.items()
    }
    return approved.differing(HostState(banks=chosen))


def _listed(registers: Iterable[int]) -> str:
    return ", ".join(map(str, registers))
