"""A kernel measures files into its TPM; its list explains the register, violations named.

The guest's kernel and vTPM stand in for a host's: what a host with IMA shows is read the same way.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import attacks
from demo.good_run import GUEST
from demo.stage import Stage
from peers.console import Console
from tandem.evidence.bundle import parse_evidence
from tandem.evidence.ima_log import IMA_REGISTER, parse_ima_log, replay_ima

IMA = "/sys/kernel/security/ima"
POLICY = (
    r"measure func=BPRM_CHECK template=ima-ng\n"
    r"measure func=FILE_CHECK mask=MAY_READ template=ima-sig\n"
)


@pytest.fixture(scope="module")
def console(stage: Stage) -> Iterator[Console]:
    """The console of a running guest, at its shell."""
    stage.tandem("guest", "start", GUEST)
    with stage.console(GUEST) as console:
        attacks.ready(console)
        yield console
    stage.tandem("guest", "stop", GUEST, "--kill")


def test_the_list_of_a_running_kernel_explains_the_quoted_register(
    stage: Stage, console: Console
) -> None:
    # Given a kernel that measures what is run and read, and a file written while it was read
    console.run(f"printf '{POLICY}' > /tmp/policy; cat /tmp/policy > {IMA}/policy")
    console.run("echo one > /tmp/file; exec 8</tmp/file; echo two >> /tmp/file; exec 8<&-")

    # When a deep quote with PCR 10 is made, and the list is read after it
    evidence, nonce = stage.work / "ima.json", secrets.token_hex(32)
    attest = ("guest", "attest", GUEST, "--nonce", nonce, "--pcrs", "10", "-o", evidence)
    stage.tandem(*attest)
    quoted = parse_evidence(evidence.read_bytes()).answer.vtpm_pcrs[IMA_REGISTER]
    lists = [
        parse_ima_log(base64.b64decode(console.run(f"base64 {IMA}/{form}_runtime_measurements")))
        for form in ("binary", "ascii")
    ]

    # Then a part of it leads to the quoted value, in either form, and the violation is in that part
    for entries in lists:
        found = replay_ima(entries, quoted)
        assert found is not None
        assert 0 < found.entries < len(entries)
        violated = [Path(each.path).name for each in entries[: found.entries] if each.violates]
        assert violated == ["file"]
