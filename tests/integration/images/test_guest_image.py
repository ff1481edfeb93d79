"""The guest image boots, and its tools and its attester speak to a TPM, here swtpm's."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from peers.console import PROMPT_MARK, Console
from peers.plain import Image, guest, swtpm
from tandem.evidence.deep_quote import DeepQuoteRequest, frame_answer, parse_request

ROOT: Final = Path(__file__).parents[3]
COMMAND_LINE: Final = (
    "console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000 mitigations=off nokaslr "
    "random.trust_cpu=on cryptomgr.notests"
)
BOOT_SECONDS: Final = 60.0
REQUEST_INDEX: Final = "0x01400101"
NONCE: Final = bytes(range(32))


@pytest.fixture(scope="module")
def image() -> Path:
    script = ROOT / "images" / "build_initramfs.py"
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def console(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    directory = tmp_path_factory.mktemp("plain")
    booted = Image(
        kernel=image / "vmlinuz", initrd=image / "initramfs.cpio", command_line=COMMAND_LINE
    )
    with swtpm(directory) as control, guest(booted, control, directory) as connected:
        connected.wait_for(PROMPT_MARK, BOOT_SECONDS)
        yield connected


def last_line(console: Console, command: str) -> str:
    return console.run(command).splitlines()[-1]


def test_stock_tools_reach_the_tpm(console: Console) -> None:
    # Given the booted guest
    # When tpm2-tools ask through the resource manager and past it
    random = [
        last_line(console, f"tpm2_getrandom -T device:/dev/{device} --hex 16; echo")
        for device in ("tpmrm0", "tpm0")
    ]

    # Then the TPM answers both ways
    assert all(len(bytes.fromhex(each)) == 16 for each in random)


def test_the_attester_names_a_tpm_without_a_mailbox(console: Console) -> None:
    # Given a TPM that Tandem did not make
    # When the attester is asked by hand
    said = console.run(f"! python3 -m tandem_attester --nonce {NONCE.hex()} 2>&1")

    # Then it says so
    assert "TDM-ATTESTER-NO-MAILBOX" in said
    assert "TPM_RC_HANDLE" in said


def test_the_attester_reads_a_mailbox_of_a_real_tpm(console: Console) -> None:
    # Given NV indices laid out as the mailbox, with an answer longer than one of them
    quote = NONCE * 90
    for number in range(8):
        attributes = "authread|authwrite"
        console.run(f"tpm2_nvdefine -Q -C o -s 2048 -a '{attributes}' 0x0140011{number}")
    console.run(f"tpm2_nvdefine -Q -C o -s 100 -a 'authread|authwrite' {REQUEST_INDEX}")
    header = "".join(f"\\{byte:03o}" for byte in frame_answer(quote)[:12])
    console.run(f"for i in $(seq 90); do echo {NONCE.hex()}; done | xxd -r -p > quote")
    console.run(f"(printf '{header}'; cat quote) > answer; head -c 2048 answer > first")
    console.run("tail -c +2049 answer > second")
    console.run("tpm2_nvwrite -C 0x01400110 -i first 0x01400110")
    console.run("tpm2_nvwrite -C 0x01400111 -i second 0x01400111")

    # When the attester is asked by hand
    console.run(
        f"python3 -m tandem_attester --nonce {NONCE.hex()} --user-data abcd --pcr 10 -o evidence"
    )

    # Then the evidence holds that answer, and the mailbox the request
    evidence = json.loads(last_line(console, "cat evidence"))
    assert base64.b64decode(evidence["answer"]) == frame_answer(quote)
    assert evidence["kernel_release"] == last_line(console, "uname -r")
    read = f"tpm2_nvread -C {REQUEST_INDEX} {REQUEST_INDEX} 2>/dev/null | xxd -p -c 100"
    request = bytes.fromhex(last_line(console, read))
    expected = DeepQuoteRequest(nonce=NONCE, user_data=b"\xab\xcd", registers=(10, 17, 18))
    assert parse_request(request) == expected
