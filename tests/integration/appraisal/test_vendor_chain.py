"""A TPM that brings its EK certificate and the CAs above it in NV, as a vendor delivers it."""

from __future__ import annotations

import datetime
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.appraisal.anchor import Standing, standing_of
from tandem.errors import Refused
from tandem.evidence.certificate_files import parse_certificates
from tandem.evidence.certificates import parse_certificate
from tandem.evidence.host_export import HostExport, parse_host_export, write_host_export
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tandem.manager.ptpm import EkKind, Ptpm
from tests.unit.appraisal.certificate_maker import Maker
from tests.unit.appraisal.forge import Forge

CHAIN_INDEX = 0x01C00100
PIECE = 700  # bytes of the chain in one index: certificates run on from one into the next


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[tuple[Ptpm, Path]]:
    """Give a swtpm whose own CA certified its EK, and that CA's directory."""
    ca, state = tmp_path / "ca", tmp_path / "state"
    state.mkdir()
    (tmp_path / "ca.conf").write_text(
        f"statedir = {ca}\nsigningkey = {ca}/key.pem\nissuercert = {ca}/issuer.pem\n"
        f"certserial = {ca}/serial\n"
    )
    (tmp_path / "ca.options").write_text("--platform-manufacturer T\n--platform-model T\n")
    (tmp_path / "setup.conf").write_text(
        f"create_certs_tool = swtpm_localca\ncreate_certs_tool_config = {tmp_path}/ca.conf\n"
        f"create_certs_tool_options = {tmp_path}/ca.options\n"
    )
    subprocess.run(
        [
            *("swtpm_setup", "--tpm2", "--tpm-state", str(state), "--createek", "--overwrite"),
            *("--create-ek-cert", "--config", str(tmp_path / "setup.conf")),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    ours, theirs = socket.socketpair()
    flags = ["--terminate", "--flags", "not-need-init,startup-clear"]
    command = ["swtpm", "socket", "--tpm2", "--fd", str(theirs.fileno()), *flags]
    process = subprocess.Popen(
        [*command, "--tpmstate", f"dir={state}"],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    theirs.close()
    ptpm = Ptpm(ours.fileno())
    ptpm.startup()
    yield ptpm, ca
    ours.close()
    process.wait(10)


def bring(ptpm: Ptpm, chain: bytes) -> None:
    """Put CAs where a vendor does, over as many indices as they take."""
    esys = ptpm._esys
    for number, at in enumerate(range(0, len(chain), PIECE)):
        part = chain[at : at + PIECE]
        public = tss.TPM2B_NV_PUBLIC(
            nvPublic=tss.TPMS_NV_PUBLIC(
                nvIndex=CHAIN_INDEX + number,
                nameAlg=tss.TPM2_ALG.SHA256,
                attributes=tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.OWNERWRITE | tss.TPMA_NV.NO_DA,
                dataSize=len(part),
            )
        )
        index = esys.nv_define_space(tss.TPM2B_AUTH(b""), public)
        esys.nv_write(index, tss.TPM2B_MAX_NV_BUFFER(part), 0, tss.ESYS_TR.OWNER)


def exported(ptpm: Ptpm, *, hardware: bool = True) -> HostExport:
    """Give what the host says of itself."""
    return parse_host_export(
        write_host_export(
            ptpm="/dev/tpm0",
            hardware_root=hardware,
            ek=ptpm.endorsement_key(EkKind.RSA_2048),
            ek_certificate=ptpm.endorsement_certificate(EkKind.RSA_2048),
            ek_chain=ptpm.endorsement_chain(),
            ak=vtpm_ak_public(Forge().host_ak.public_key()),
            authorities={"default": Forge().ca_certificate()},
            epoch=1,
        )
    )


def test_a_tpm_that_brings_its_chain_is_known_by_its_vendors_root(
    vendor: tuple[Ptpm, Path],
) -> None:
    # Given a TPM with its EK certificate, and two CAs over several indices, one a stranger's
    ptpm, ca = vendor
    [issuer] = parse_certificates((ca / "issuer.pem").read_bytes())
    bring(ptpm, issuer.der + Maker("a stranger").self_issued().der + b"\xff" * 40)
    [root] = parse_certificates((ca / "swtpm-localca-rootca-cert.pem").read_bytes())

    # When its host is enrolled with the vendor's root, and with another
    export, now = exported(ptpm), datetime.datetime.now(datetime.UTC)
    standing = standing_of(export, [], [root], now)
    with pytest.raises(Refused) as caught:
        standing_of(export, [], [Maker("another vendor").self_issued()], now)

    # Then it is the vendor's by the first alone, over the CA that it brought
    assert standing is Standing.VENDOR
    assert (export.ek_chain[0].der, len(export.ek_chain)) == (issuer.der, 2)
    assert "leads on to a given root" in caught.value.problem


def test_a_tpm_without_a_chain_needs_the_intermediate_given(vendor: tuple[Ptpm, Path]) -> None:
    # Given a TPM with its EK certificate alone
    ptpm, ca = vendor
    export, now = exported(ptpm), datetime.datetime.now(datetime.UTC)
    [issuer] = parse_certificates((ca / "issuer.pem").read_bytes())
    [root] = parse_certificates((ca / "swtpm-localca-rootca-cert.pem").read_bytes())

    # When it is enrolled with the intermediate beside the root
    # Then that is enough, and with the root alone it is not
    assert export.ek_chain == ()
    assert standing_of(export, [issuer], [root], now) is Standing.VENDOR
    with pytest.raises(Refused):
        standing_of(export, [], [root], now)


def test_an_ek_certificate_of_another_tpm_vouches_for_nothing(vendor: tuple[Ptpm, Path]) -> None:
    # Given a host that shows the EK certificate of somebody else's TPM
    ptpm, ca = vendor
    [issuer] = parse_certificates((ca / "issuer.pem").read_bytes())
    vectors = Path(__file__).parents[2] / "vectors" / "data" / "certificates"
    other = parse_certificate((vectors / "swtpm_ek_rsa.der").read_bytes())
    export = exported(ptpm)
    stolen = HostExport(**{**vars(export), "ek_certificate": other})

    # When it is enrolled
    with pytest.raises(Refused) as caught:
        standing_of(stolen, [], [issuer], datetime.datetime.now(datetime.UTC))

    # Then the key tells
    assert "for another key" in caught.value.problem
