"""An opened host, made once and opened at each start: pTPM with its keys, store, CA, host log."""

from __future__ import annotations

import datetime
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from tandem.errors import HostError, UsageError
from tandem.evidence.certificates import parse_certificate, same_key
from tandem.evidence.host_approval import PrivateKey, PublicKey
from tandem.evidence.host_export import MAX_CHAIN
from tandem.evidence.host_state import refuse_blank
from tandem.evidence.ima_log import IMA_REGISTER
from tandem.evidence.tpm_types import Algorithm, parse_public
from tandem.manager import embedded, host_log, records
from tandem.manager.approvals import choose, install, read_approvals
from tandem.manager.generations import HostKeys, Terms, new_master_key, seal_generation
from tandem.manager.groups import Clock, Groups, GroupTerms, found_group
from tandem.manager.identity import (
    EMBEDDED,
    SIMULATOR,
    Identity,
    check_proof,
    derived_auths,
    write_identity,
)
from tandem.manager.ptpm import EkKind, Ptpm
from tandem.manager.rotation import tidy
from tandem.manager.store import Store
from tandem.manager.tcti import PtpmFailed
from tandem.manager.vtpms import KEY_SIZE, Vtpms
from tandem.settings import UID_BASE, HostPaths
from tandem.values import Secret

# Without O_NONBLOCK the kernel waits for the TPM within write(2), and nobody can give up on it.
DEVICE_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, kw_only=True)
class OpenPtpm:
    """A reachable pTPM, the host's event log and IMA list, and how to let go of all."""

    ptpm: Ptpm
    log: bytes
    ima_list: int | None = None  # a descriptor; None where the kernel extends no such list in here
    close: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Host:
    """Everything that the Manager serves from."""

    paths: HostPaths
    identity: Identity
    record: records.HostRecord
    ptpm: Ptpm
    store: Store
    groups: Groups
    vtpms: Vtpms
    log: bytes
    ima_list: int | None = None  # a descriptor, where the kernel extends PCR 10 with what is in it

    @property
    def quoted_registers(self) -> tuple[int, ...]:
        """The registers in each quote: those sealed to, and the kernel's own where it has one."""
        measured = () if self.ima_list is None else (IMA_REGISTER,)
        return tuple(sorted({*self.identity.registers, *measured}))

    @property
    def ek_kind(self) -> EkKind:
        """Which of its EKs the host is known by."""
        is_rsa = parse_public(self.record.ek).type is Algorithm.RSA
        return EkKind.RSA_2048 if is_rsa else EkKind.ECC_P256

    @property
    def hardware_root(self) -> bool:
        """Whether the pTPM is the machine's own."""
        return not self.identity.ptpm.startswith((EMBEDDED, SIMULATOR))


def initialise(
    paths: HostPaths,
    ptpm: str,
    registers: tuple[int, ...],
    now: datetime.datetime,
    *,
    approval_key: PrivateKey | PublicKey,
    rollback_window: int = 0,
) -> Secret:
    """Provision the host: keys in the pTPM, master key sealed, store anchored.

    Gives the recovery key.  With the private approval key the present state is approved at once.
    """
    terms = Terms(
        number=1, slot=0, epoch=1, device=ptpm, registers=registers, approval_key=approval_key
    )
    opened = reach_ptpm(paths, ptpm)
    try:
        present = opened.ptpm.read_state(registers)
        refuse_blank(present)
        root_name = opened.ptpm.make_root()
        try:
            identity, recovery = _found(paths, opened.ptpm, terms, root_name, now, rollback_window)
            paths.approvals.mkdir(mode=0o700)
            for approval in terms.approvals(present):
                install(paths.approvals, approval, UID_BASE)
            for path in (paths.manager, *paths.manager.iterdir()):
                os.chown(path, UID_BASE, UID_BASE)
            write_identity(paths.identity, identity)
        except BaseException:  # an interrupt, too, leaves nothing behind in a TPM
            with suppress(PtpmFailed):  # a pTPM that failed; the first error says why
                opened.ptpm.remove_host()
            raise
        opened.ptpm.close()
    finally:
        opened.close()
    return recovery


def _found(
    paths: HostPaths,
    ptpm: Ptpm,
    terms: Terms,
    root_name: bytes,
    now: datetime.datetime,
    rollback_window: int,
) -> tuple[Identity, Secret]:
    """Make the first generation and its store; gives the identity and the recovery key."""
    master = new_master_key()
    auths = derived_auths(master)
    ak = ptpm.create_ak(auths["ak"])
    keys = HostKeys(root_name=root_name, ak=ak)
    identity, recovery = seal_generation(ptpm, terms, keys, master)
    ptpm.define_chain_index(terms.slot, auths["chain"])
    ptpm.use_keys(terms.slot, ak, auths)
    _make_store(paths, identity, ptpm, master, now, rollback_window)
    return identity, recovery


def _make_store(
    paths: HostPaths,
    identity: Identity,
    ptpm: Ptpm,
    master: Secret,
    now: datetime.datetime,
    rollback_window: int,
) -> None:
    store = Store.create(paths.manager / identity.store, master, ptpm)
    record = replace(endorsement(ptpm), rollback_window=rollback_window)
    store.stage(records.HOST, records.encode(record))
    group = found_group(ptpm, GroupTerms(name=records.DEFAULT_GROUP, authority=None), now)
    store.stage(records.group_id(records.DEFAULT_GROUP), records.encode(group))
    store.commit()
    store.close()


def open_host(paths: HostPaths, identity: Identity, opened: OpenPtpm, clock: Clock) -> Host:
    """Open the host for service: unseal, load keys, check the store against the pTPM."""
    master = open_master(paths, identity, opened.ptpm)
    opened.ptpm.use_keys(identity.slot, identity.ak, derived_auths(master))
    store = Store.load(paths.manager / identity.store, master, opened.ptpm)
    tidy(paths, opened.ptpm, identity)
    groups = Groups(store, opened.ptpm, clock, identity.approver)
    groups.opened(records.DEFAULT_GROUP)
    groups.follow(identity.generation)  # after a recovery, a restore, or a rotation cut short
    if store.dirty:
        store.commit()
    return Host(
        paths=paths,
        identity=identity,
        record=records.decode(records.HostRecord, _present(store, records.HOST)),
        ptpm=opened.ptpm,
        store=store,
        groups=groups,
        vtpms=Vtpms(store),
        log=opened.log,
        ima_list=opened.ima_list,
    )


def open_master(paths: HostPaths, identity: Identity, ptpm: Ptpm) -> Secret:
    """Unseal the master key, where the host is in a state that was approved."""
    ptpm.open_root(identity.root_name)
    present = ptpm.read_state(identity.registers)
    approvals = read_approvals(paths.approvals, identity)
    approval = choose(approvals, present, "the master key")
    master = ptpm.unseal(identity.sealed, approval, identity.approver)
    check_proof(identity, master)
    return master


def reach_ptpm(paths: HostPaths, ptpm: str) -> OpenPtpm:
    """Connect to the pTPM: the embedded one is started and measured into, a device is opened.

    A simulator is somebody else's software TPM, who starts it and measures into it.
    """
    if ptpm.startswith(SIMULATOR):
        sock = _connect_simulator(Path(ptpm.removeprefix(SIMULATOR)))
        return OpenPtpm(ptpm=_started(sock.fileno()), log=b"", close=sock.close)
    if ptpm != EMBEDDED:
        descriptor = _open_device(Path(ptpm))
        return OpenPtpm(
            ptpm=_started(descriptor),
            log=host_log.firmware_log(),
            ima_list=host_log.open_ima_list(Path(ptpm)),
            close=lambda: os.close(descriptor),
        )
    entries = host_log.measure_host()
    process, sock = embedded.start(paths.ptpm, paths.ptpm_log, UID_BASE)
    close = _closer(process, sock)
    try:
        connected = _started(sock.fileno())
        connected.tcti.stored = partial(embedded.sync, paths.ptpm)
        for register, _, data in entries:
            connected.measure(register, data)
    except BaseException:
        close()
        raise
    return OpenPtpm(ptpm=connected, log=host_log.embedded_log(entries), close=close)


def _closer(process: subprocess.Popen[bytes], sock: socket.socket) -> Callable[[], None]:
    return lambda: embedded.end(process, sock)


def _started(descriptor: int) -> Ptpm:
    ptpm = Ptpm(descriptor)
    ptpm.startup()
    return ptpm


def _connect_simulator(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise HostError(
            "TDM-PTPM-NOT-OPENED",
            f"the software TPM at {path} cannot be reached: {error.strerror or error}",
            hint="start it; it listens for raw TPM commands on a Unix stream socket",
        ) from error
    return sock


def _open_device(path: Path) -> int:
    try:
        is_tpm = _is_tpm(path.stat())  # before it is opened: that alone starts a watchdog
        descriptor = os.open(path, DEVICE_FLAGS) if is_tpm else -1
    except OSError as error:
        raise HostError(
            "TDM-PTPM-NOT-OPENED",
            f"the physical TPM {path} cannot be opened: {error.strerror}",
            hint="end whatever else has it open (the kernel allows one), and ask as root",
        ) from error
    if not is_tpm:
        raise UsageError(
            "TDM-PTPM-NOT-A-TPM",
            f"{path} is no TPM of this machine",
            hint="name its character device, as /dev/tpm0; the resource manager's is shared",
        )
    return descriptor


def _is_tpm(status: os.stat_result) -> bool:
    """Whether a file is a TPM's own device (class `tpm` in sysfs)."""
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    subsystem = Path("/sys/dev/char", number, "subsystem").resolve()
    return stat.S_ISCHR(status.st_mode) and subsystem.name == "tpm"


def endorsement(ptpm: Ptpm) -> records.HostRecord:
    """Read the EK that has a certificate, RSA before ECC, and check that it is for that key."""
    for kind in EkKind:
        certificate = ptpm.endorsement_certificate(kind)
        if certificate:
            break
    else:
        return _host_record(ptpm.endorsement_key(EkKind.RSA_2048), b"", ())
    ek = ptpm.endorsement_key(kind)
    certified = parse_certificate(certificate).key
    if certified is None or not same_key(certified, parse_public(ek).key):
        raise HostError(
            "TDM-EK-CERTIFICATE-FOREIGN",
            "the EK certificate in the pTPM is for another key than its EK",
            hint="ask the TPM's vendor for the certificate of this TPM",
        )
    return _host_record(ek, certificate, ptpm.endorsement_chain()[:MAX_CHAIN])


def _host_record(ek: bytes, certificate: bytes, chain: tuple[bytes, ...]) -> records.HostRecord:
    return records.HostRecord(
        ek=ek,
        ek_certificate=certificate,
        ek_chain=chain,
        epoch=1,
        rollback_window=0,
        wear_budget=records.WEAR_BUDGET,
        ticket_key=os.urandom(KEY_SIZE),
    )


def _present(store: Store, name: str) -> bytes:
    content = store.get(name)
    if content is None:
        raise HostError(
            "TDM-STORE-INCOMPLETE",
            f"the Manager's store has no record {name}",
            hint="restore the newest backup of the host's directory",
        )
    return content
