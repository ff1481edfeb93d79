"""An opened host, made once and opened at each start: pTPM with its keys, store, CA, host log."""

from __future__ import annotations

import datetime
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from tandem.errors import HostError, UsageError
from tandem.evidence.certificates import parse_certificate, same_key
from tandem.evidence.tpm_types import Algorithm, Public, parse_public
from tandem.manager import embedded, host_log, records
from tandem.manager.ca import Authority, TpmSigningKey
from tandem.manager.identity import (
    EMBEDDED,
    FORMAT,
    Identity,
    derived_auths,
    write_identity,
)
from tandem.manager.ptpm import EkKind, Ptpm, public_area
from tandem.manager.store import Store
from tandem.manager.tcti import PtpmFailed
from tandem.settings import UID_BASE, HostPaths
from tandem.values import Secret

MASTER_KEY_SIZE: Final = 32
STORE: Final = "store.sqlite"


@dataclass(frozen=True, kw_only=True)
class OpenPtpm:
    """A reachable pTPM, the host's event log, and how to let go of both."""

    ptpm: Ptpm
    log: bytes
    close: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Host:
    """Everything that the Manager serves from."""

    identity: Identity
    record: records.HostRecord
    ptpm: Ptpm
    store: Store
    authority: Authority
    ca_certificate: bytes
    log: bytes

    @property
    def ek_kind(self) -> EkKind:
        """Which of its EKs the host is known by."""
        is_rsa = parse_public(self.record.ek).type is Algorithm.RSA
        return EkKind.RSA_2048 if is_rsa else EkKind.ECC_P256

    @property
    def hardware_root(self) -> bool:
        """Whether the pTPM is the machine's own."""
        return self.identity.ptpm != EMBEDDED


def initialise(
    paths: HostPaths, ptpm: str, registers: tuple[int, ...], now: datetime.datetime
) -> None:
    """Provision the host: keys in the pTPM, master key sealed, store anchored."""
    opened = reach_ptpm(paths, ptpm)
    try:
        master = Secret(os.urandom(MASTER_KEY_SIZE))
        auths = derived_auths(master)
        identity = _make_keys(opened.ptpm, ptpm, registers, master)
        opened.ptpm.define_chain_index(auths["chain"])
        try:
            opened.ptpm.load_keys(identity.ak, identity.ca, auths)
            _make_store(paths, identity, opened.ptpm, master, now)
            write_identity(paths.identity, identity)
            for path in (paths.manager, *paths.manager.iterdir()):
                os.chown(path, UID_BASE, UID_BASE)
        except BaseException:  # an interrupt, too, leaves nothing behind in a TPM
            with suppress(PtpmFailed):  # a pTPM that failed; the first error says why
                opened.ptpm.undefine_chain_index()
            raise
        opened.ptpm.close()
    finally:
        opened.close()


def _make_store(
    paths: HostPaths, identity: Identity, ptpm: Ptpm, master: Secret, now: datetime.datetime
) -> None:
    store = Store.create(paths.manager / STORE, master, ptpm)
    certificate = _authority(identity, ptpm).own_certificate(now)
    store.stage(records.HOST, records.encode(_endorsement(ptpm)))
    group = records.GroupRecord(ca_certificate=certificate)
    store.stage(records.group_id(records.DEFAULT_GROUP), records.encode(group))
    store.commit()
    store.close()


def open_host(paths: HostPaths, identity: Identity, opened: OpenPtpm) -> Host:
    """Open the host for service: unseal, load keys, check the store against the pTPM."""
    master = opened.ptpm.unseal(identity.sealed, identity.pcrs)
    opened.ptpm.load_keys(identity.ak, identity.ca, derived_auths(master))
    store = Store.load(paths.manager / STORE, master, opened.ptpm)
    group = _present(store, records.group_id(records.DEFAULT_GROUP))
    return Host(
        identity=identity,
        record=records.decode(records.HostRecord, _present(store, records.HOST)),
        ptpm=opened.ptpm,
        store=store,
        authority=_authority(identity, opened.ptpm),
        ca_certificate=records.decode(records.GroupRecord, group).ca_certificate,
        log=opened.log,
    )


def reach_ptpm(paths: HostPaths, ptpm: str) -> OpenPtpm:
    """Connect to the pTPM: the embedded one is started and measured into, a device is opened."""
    if ptpm != EMBEDDED:
        descriptor = _open_device(Path(ptpm))
        return OpenPtpm(
            ptpm=_started(descriptor),
            log=host_log.firmware_log(),
            close=lambda: os.close(descriptor),
        )
    entries = host_log.measure_host()
    process, sock = embedded.start(paths.ptpm, paths.ptpm_log, UID_BASE)
    close = _closer(process, sock)
    try:
        connected = _started(sock.fileno())
        for register, digest in host_log.extensions(entries):
            connected.pcr_extend(register, digest)
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


def _open_device(path: Path) -> int:
    try:
        is_tpm = _is_tpm(path.stat())  # before it is opened: that alone starts a watchdog
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC) if is_tpm else -1
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


def _endorsement(ptpm: Ptpm) -> records.HostRecord:
    """Read the EK that has a certificate, RSA before ECC, and check that it is for that key."""
    for kind in EkKind:
        certificate = ptpm.endorsement_certificate(kind)
        if certificate:
            break
    else:
        return records.HostRecord(ek=ptpm.endorsement_key(EkKind.RSA_2048), ek_certificate=b"")
    ek = ptpm.endorsement_key(kind)
    certified = parse_certificate(certificate).key
    if certified is None or not same_key(certified, parse_public(ek).key):
        raise HostError(
            "TDM-EK-CERTIFICATE-FOREIGN",
            "the EK certificate in the pTPM is for another key than its EK",
            hint="ask the TPM's vendor for the certificate of this TPM",
        )
    return records.HostRecord(ek=ek, ek_certificate=certificate)


def _make_keys(ptpm: Ptpm, device: str, registers: tuple[int, ...], master: Secret) -> Identity:
    auths = derived_auths(master)
    sealed, pcrs = ptpm.seal(master, registers)
    ak, ca = ptpm.create_ak(auths["ak"]), ptpm.create_ca_key(auths["ca"])
    return Identity(
        format=FORMAT,
        ptpm=device,
        pcrs=pcrs,
        ak_public=ak.public,
        ak_private=ak.private,
        ca_public=ca.public,
        ca_private=ca.private,
        sealed_public=sealed.public,
        sealed_private=sealed.private,
    )


def _authority(identity: Identity, ptpm: Ptpm) -> Authority:
    public: Public = parse_public(public_area(identity.ca))
    if not isinstance(public.key, ec.EllipticCurvePublicKey):
        raise TypeError("the CA key is made as ECDSA P-256")
    return Authority(records.DEFAULT_GROUP, TpmSigningKey(public.key, ptpm.sign_digest))


def _present(store: Store, name: str) -> bytes:
    content = store.get(name)
    if content is None:
        raise HostError(
            "TDM-STORE-INCOMPLETE",
            f"the Manager's store has no record {name}",
            hint="restore the newest backup of the host's directory",
        )
    return content
