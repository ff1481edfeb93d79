"""A deep quote with nothing of Tandem's in the guest: stock tpm2-tools, typed as in the how-to."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import attacks, good_run
from demo.good_run import GUEST
from demo.stage import Stage
from peers.console import Console
from tandem.evidence.deep_quote import ANSWER_HEADER_SIZE, DeepQuoteRequest
from tandem.wire.tpm_commands import command

VENDOR_DEEP_QUOTE = 0x20000001
PAGE_HEAD = 10 + 4 + 2  # response header, total, size of the page


@pytest.fixture(scope="module")
def console(stage: Stage) -> Iterator[Console]:
    """The console of a running guest, at its shell."""
    stage.tandem("guest", "start", GUEST)
    with stage.console(GUEST) as console:
        attacks.ready(console)
        yield console
    stage.tandem("guest", "stop", GUEST, "--kill")


def put(console: Console, path: str, content: bytes) -> None:
    """Write a small file in the guest."""
    console.run(f"echo {base64.b64encode(content).decode()} | base64 -d > {path}")


def get(console: Console, path: str) -> bytes:
    """Read a file of the guest."""
    return base64.b64decode(console.run(f"base64 {path}"))


def appraise(stage: Stage, answer: bytes, nonce: bytes) -> dict[str, Any]:
    """Appraise a bare answer, as it came out of the vTPM."""
    evidence = Path(stage.work, "answer.bin")
    evidence.write_bytes(answer)
    return good_run.verify(stage, evidence, nonce.hex())


def test_a_deep_quote_through_the_nv_mailbox_is_trusted(stage: Stage, console: Console) -> None:
    # Given a request in a file of the guest
    nonce = secrets.token_bytes(32)
    put(console, "request", DeepQuoteRequest(nonce=nonce, registers=(10,)).encode())

    # When it is written to the mailbox and the answer read, through the resource manager
    console.run("export TPM2TOOLS_TCTI=device:/dev/tpmrm0")
    console.run("tpm2_nvwrite -Q -C 0x01400101 -i request 0x01400101")
    console.run(
        "rm -f answer; for i in 0 1 2 3 4 5 6 7; do "
        "tpm2_nvread -C 0x0140011$i 0x0140011$i 2>/dev/null >> answer; done; true"
    )
    verdict = appraise(stage, get(console, "answer"), nonce)

    # Then the answer, as it is, is evidence that the policy trusts
    assert verdict["trusted"], verdict


def test_a_deep_quote_by_vendor_command_is_trusted(stage: Stage, console: Console) -> None:
    # Given a request, and the kernel's direct device
    nonce = secrets.token_bytes(32)
    request = DeepQuoteRequest(nonce=nonce).encode()
    answer, total = b"", 1

    # When it is sent with tpm2_send, and the further pages are asked for
    while len(answer) < total:
        body = len(answer).to_bytes(4) + (b"" if answer else request)
        put(console, "command", command(VENDOR_DEEP_QUOTE, parameters=body))
        console.run("tpm2_send -T device:/dev/tpm0 -o page command")
        page = get(console, "page")
        total = int.from_bytes(page[10:14])
        answer += page[PAGE_HEAD : PAGE_HEAD + int.from_bytes(page[14:16])]

    # Then they are evidence that the policy trusts
    assert total > ANSWER_HEADER_SIZE
    assert appraise(stage, answer, nonce)["trusted"]


def test_the_vendor_command_is_listed(console: Console) -> None:
    # Given a guest
    # When it lists the commands of its TPM
    listed = console.run("tpm2_getcap commands -T device:/dev/tpm0")

    # Then the deep quote is one of them
    assert "0x20000001" in listed.lower()


def test_a_guest_cannot_write_an_answer(console: Console) -> None:
    # Given a forged answer in the guest
    put(console, "forged", b"TDQ1 forged")

    # When its root writes it where answers stand
    status = console.run(
        "tpm2_nvwrite -Q -C o -i forged 0x01400110 2>/dev/null; s1=$?; "
        "tpm2_nvwrite -Q -C 0x01400110 -i forged 0x01400110 2>/dev/null; echo $s1 $?"
    )

    # Then neither the owner nor the index's own authorisation lets it
    assert "0" not in status.split()


def test_a_vtpm_that_its_guest_cleared_is_not_trusted_until_the_next_launch(
    stage: Stage, console: Console
) -> None:
    # Given a guest whose root runs TPM2_Clear, which sets the reset and restart counts to 0
    console.run("tpm2_clear -Q")

    # When it is attested, and again after its next launch
    cleared = attacks.attest_now(stage, "cleared.json")
    stage.tandem("guest", "stop", GUEST, "--kill")
    stage.tandem("guest", "start", GUEST)
    after = attacks.attest_now(stage, "after.json")

    # Then the deep quote is still made, its verdict names the counts, and the next launch is good
    assert attacks.named_finding(cleared, "reset") == "vtpm-was-not-reset"
    assert after["trusted"], after["findings"]
