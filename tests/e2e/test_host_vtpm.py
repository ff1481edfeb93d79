"""The host's own vTPM, on a machine whose kernel makes the device: sealing, quotes, the next boot.

One machine serves all of these tests, in this order, set up as the how-to says: the disk that is
enrolled and opened there is the one that opens, or does not, here.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from peers.host_machine import HostMachine
from tandem.builder.own_vtpm import UID
from tandem.evidence.deep_quote import DeepQuoteRequest
from tandem.evidence.event_log import parse_event_log, write_launch_log
from tandem.evidence.host_plan import HOST, host_configuration_event
from tandem.evidence.launch import LaunchEvent, Tag
from tandem.evidence.launch_plan import builder_event
from tandem.evidence.pcr_values import replay
from tandem.installation import installed_version, source_digest
from tests.docs.test_commands import commands_of, missing_lines

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "how-to" / "give-the-host-a-tpm.md"
DEVICE: Final = "/dev/tpmrm0"
VOLUME: Final = "/var/lib/volume"
ATTACH: Final = (
    f"/lib/systemd/systemd-cryptsetup attach opened /dev/loop0 - tpm2-device={DEVICE},headless=1"
)
SEALED: Final = "what only this host may read"
EXTENDED: Final = "11" * 32
pytestmark = pytest.mark.timeout(900)  # a minute each for setup and reboot, if all is quiet


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """The machine's host, provisioned and enrolled, with the policy for its own vTPM."""

    machine: HostMachine
    work: Path
    source: bytes  # digest of the Tandem in the image: this tree's, when the image was made

    def verdict(self) -> dict[str, Any]:
        """Ask the mailbox for a deep quote with stock tools, and appraise it away from the host."""
        nonce = secrets.token_bytes(32)
        self.machine.put("request", DeepQuoteRequest(nonce=nonce).encode())
        self.machine.run("tpm2_nvwrite -Q -C 0x01400101 -i request 0x01400101")
        self.machine.run(
            "rm -f answer; for i in 0 1 2 3 4 5 6 7; do "
            "tpm2_nvread -C 0x0140011$i 0x0140011$i 2>/dev/null >> answer; done; true"
        )
        Path(self.work, "answer.bin").write_bytes(self.machine.get("answer"))
        done = tandem(
            *("verify", self.work / "answer.bin", "--policy", self.work / "policy.toml"),
            *("--nonce", nonce.hex(), "--json"),
            check=False,
        )
        judged: dict[str, Any] = json.loads(done.stdout)
        return judged


def tandem(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command here, outside of the machine."""
    command = [sys.executable, "-m", "tandem", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusted]:
    """A host that was set up as the how-to says, and enrolled."""
    script = ROOT / "images" / "build_host_image.py"
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=True)
    source, work = source_digest(), tmp_path_factory.mktemp("host")
    machine = HostMachine(Path(done.stdout.strip()), work)
    try:
        machine.boot()
        machine.run(f"export TPM2TOOLS_TCTI=device:{DEVICE}")
        follow(machine, PAGE.read_text().replace("```console host\n", "```console\n"))
        machine.run("cd /var/lib")
        enrol(machine, work, source)
        yield Trusted(machine=machine, work=work, source=source)
    finally:
        machine.close()


def follow(machine: HostMachine, page: str) -> None:
    """Type the commands of a page, and see that each prints what the page shows."""
    for command in commands_of(page):
        machine.put("/root/step", f"{command.text}\n".encode())
        said = machine.run(". /root/step")
        absent = missing_lines(command.shown, said)
        assert not absent, f"$ {command.text}\n{said}\nlacks: {absent}"


def enrol(machine: HostMachine, work: Path, source: bytes) -> None:
    """Enrol the host by credential activation, and write the policy for its own vTPM."""
    tandem("verifier", "keygen", "-o", work / "verifier.key")
    machine.run("tandem host export -o export.json")
    library = "/var/lib/tandem/library"
    files = ("export.json", f"{library}/library.dsse.json", f"{library}/keys/library.pub")
    for path in files:
        (work / Path(path).name).write_bytes(machine.get(path))
    secret, challenge = work / "secret", work / "challenge.json"
    tandem("verifier", "challenge", work / "export.json", "--secret", secret, "-o", challenge)
    machine.put("challenge.json", challenge.read_bytes())
    machine.run("tandem host activate challenge.json -o proof.json")
    (work / "proof.json").write_bytes(machine.get("proof.json"))
    tandem(
        *("verifier", "enroll", work / "export.json", "--key", work / "verifier.key"),
        *("--proof", work / "proof.json", "--secret", secret, "-o", work / "anchor.json"),
    )
    tandem(
        *("policy", "new", "--anchor", work / "anchor.json"),
        *("--anchor-key", work / "verifier.key.pub", "--entry", HOST, "--guest", HOST),
        *("--manifest", work / "library.dsse.json", "--manifest-key", work / "library.pub"),
        *("--allow-no-hardware-root", "--builder", source.hex(), "-o", work / "policy.toml"),
    )


def register(machine: HostMachine, index: int) -> str:
    return machine.run(f"cat /sys/class/tpm/tpm0/pcr-sha256/{index}").strip().lower()


def test_the_device_comes_with_the_host_and_holds_its_launch(trusted: Trusted) -> None:
    # Given a host that is to have a vTPM, and was started
    machine = trusted.machine
    status = machine.tandem("host", "vtpm", "status")

    # When its PCR 17 is computed from what this Tandem is, and 18 from what was measured
    identity: list[LaunchEvent] = [
        builder_event(installed_version(), trusted.source),
        host_configuration_event(first_of_boot=True),
    ]
    expected = replay(parse_event_log(write_launch_log(identity)))["sha256"][17]

    # Then the kernel's device holds both, in its first launch, and its process is confined
    assert (status["state"], status["device"], status["launch_number"]) == ("running", DEVICE, 1)
    assert register(machine, 17) == expected.hex() == status["launch"]["registers"]["17"]
    assert register(machine, 18) == status["launch"]["registers"]["18"]
    assert {event["event"] for event in status["launch"]["events"]} == {
        tag.name.lower().replace("_", "-")
        for tag in (Tag.BUILDER, Tag.CONFIGURATION, Tag.FIRMWARE, Tag.KERNEL, Tag.COMMAND_LINE)
    }
    process = machine.run(f"grep -E 'Uid|NoNewPrivs|Seccomp:' /proc/{status['vtpm_pid']}/status")
    facts = dict(line.split(":\t") for line in process.strip().splitlines())
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert set(facts["Uid"].split("\t")) == {str(UID)}


def test_nobody_on_the_host_changes_its_launch_measurement(trusted: Trusted) -> None:
    # Given the registers of the launch
    machine = trusted.machine
    before = [register(machine, index) for index in (17, 18)]

    # When root extends them, resets them, and asks for locality 4 with the kernel's own command
    statuses = [
        machine.status(f"tpm2_pcrextend 17:sha256={EXTENDED}"),
        machine.status("tpm2_pcrreset 18"),
        machine.status(
            "printf '\\200\\001\\000\\000\\000\\013\\040\\000\\020\\000\\004' > /dev/tpm0"
        ),
    ]

    # Then the vTPM refuses the first two, the kernel the third, and nothing has changed
    assert 0 not in statuses
    assert [register(machine, index) for index in (17, 18)] == before


def test_secrets_are_sealed_and_quotes_made_with_tpm2_tools(trusted: Trusted) -> None:
    # Given a secret sealed to PCR 11, extended by the system, and to the launch
    machine = trusted.machine
    machine.run(f"printf '{SEALED}' > secret && tpm2_pcrextend 11:sha256={EXTENDED}")
    machine.run("tpm2_createprimary -Q -C o -c primary.ctx && tpm2_createpolicy -Q --policy-pcr "
                "-l sha256:11,17,18 -L policy && tpm2_create -Q -C primary.ctx -L policy -i secret "
                "-u sealed.pub -r sealed.priv && rm secret")  # fmt: skip

    # When it is unsealed, and a key of the vTPM quotes the launch
    unsealed = machine.run(unseal("11,17,18"))
    machine.run("tpm2_createek -Q -G ecc -c ek.ctx && tpm2_createak -Q -C ek.ctx -G ecc -g sha256 "
                "-s ecdsa -c ak.ctx -u ak.pem -f pem && tpm2_flushcontext -t")  # fmt: skip
    machine.run("tpm2_quote -Q -c ak.ctx -l sha256:17,18 -q 00ff -m quote -s sig -o pcrs -g sha256")

    # Then the secret is the one sealed, and the quote is good
    assert unsealed == SEALED
    machine.run("tpm2_checkquote -Q -u ak.pem -m quote -s sig -f pcrs -g sha256 -q 00ff")


def test_a_deep_quote_of_the_host_is_trusted_elsewhere(trusted: Trusted) -> None:
    # Given a verifier that enrolled the host, and a policy for the host's own vTPM
    # When a deep quote comes through the vTPM's mailbox
    verdict = trusted.verdict()

    # Then the verdict is that of a host launched as its library says
    assert verdict["trusted"], [each for each in verdict["findings"] if each["tier"] != "AFFIRMING"]
    assert found(verdict, "hypervisor-is-known") == "none: the vTPM is the host's own"


def test_the_vtpm_outlives_its_builder_and_is_adopted(trusted: Trusted) -> None:
    # Given the vTPM's process
    machine = trusted.machine
    before = machine.tandem("host", "vtpm", "status")
    builder = machine.tandem("host", "status")["services"]["builder"]

    # When the builder is killed, and started again
    machine.run(f"kill -9 {builder}; sleep 1")
    alone = register(machine, 17)
    machine.run("tandem host up")

    # Then the vTPM answered meanwhile, and is the same one for the new builder
    assert alone == before["launch"]["registers"]["17"]
    assert machine.tandem("host", "vtpm", "status") == before


def test_a_vtpm_started_again_under_the_running_host_opens_nothing(trusted: Trusted) -> None:
    # Given the control: swtpm as a vTPM of the kernel, with a secret sealed to PCR 11
    machine = trusted.machine
    machine.run("cd /root && mkdir plain && export TPM2TOOLS_TCTI=device:/dev/tpmrm1")
    start_swtpm(machine)
    machine.run(f"tpm2_pcrextend 11:sha256={EXTENDED} && printf '{SEALED}' > secret")
    machine.run("tpm2_createprimary -Q -C o -c primary.ctx && tpm2_createpolicy -Q --policy-pcr "
                "-l sha256:11 -L policy && tpm2_create -Q -C primary.ctx -L policy -i secret "
                "-u sealed.pub -r sealed.priv && rm secret")  # fmt: skip

    # When root starts it again and extends what the boot extended
    stop_swtpm(machine)
    start_swtpm(machine)
    machine.run(f"tpm2_pcrextend 11:sha256={EXTENDED} && tpm2_createprimary -Q -C o -c primary.ctx")
    stolen = machine.run(unseal("11"))
    stop_swtpm(machine)
    machine.run(f"export TPM2TOOLS_TCTI=device:{DEVICE}; cd /var/lib")
    # and does the same with the host's own vTPM
    machine.run("tandem host vtpm stop && tandem host vtpm start")
    machine.run(f"tpm2_pcrextend 11:sha256={EXTENDED} && tpm2_createprimary -Q -C o -c primary.ctx")

    # Then the control gives its secret away; here secret and disk stay closed, as a verdict says
    assert stolen == SEALED
    assert machine.status(unseal("11,17,18")) != 0
    assert machine.status(ATTACH) != 0
    verdict = trusted.verdict()
    assert not verdict["trusted"]
    assert "started again" in found(verdict, "configuration-matches-manifest")


def test_after_a_reboot_the_disk_opens_and_no_register_is_left(trusted: Trusted) -> None:
    # Given a machine whose vTPM has a sealed secret, an enrolled disk and an extended PCR 11
    machine = trusted.machine
    extended = register(machine, 11)

    # When its power is cut, and it boots again
    machine.cut_power()
    machine.boot()
    machine.run(f"export TPM2TOOLS_TCTI=device:{DEVICE}; losetup /dev/loop0 {VOLUME}")
    machine.run("tandem host up")

    # Then it is a new launch, the first of its boot: it opens the disk, and is trusted again
    status = machine.tandem("host", "vtpm", "status")
    assert (status["state"], status["first_of_boot"]) == ("running", True)
    assert register(machine, 11) == "0" * 64 != extended
    machine.run(ATTACH)
    assert trusted.verdict()["trusted"]


def start_swtpm(machine: HostMachine) -> None:
    """Start a plain swtpm behind /dev/vtpmx: the peer, as its manual page shows.

    On a busy machine it answers the kernel's self test too late, now and then, and is tried again.
    """
    machine.run("for try in 1 2 3 4; do swtpm chardev --vtpm-proxy --tpm2 -d "
                "--tpmstate dir=/root/plain --pid file=/root/plain/pid --flags startup-clear; "
                "for wait in $(seq 50); do [ -e /dev/tpmrm1 ] && break 2; sleep 0.1; done; "
                "kill $(cat plain/pid); sleep 1; done; [ -e /dev/tpmrm1 ]")  # fmt: skip


def stop_swtpm(machine: HostMachine) -> None:
    """End it, and wait until process and device are gone."""
    machine.run("pid=$(cat plain/pid); kill $pid; while kill -0 $pid 2>/dev/null "
                "|| [ -e /dev/tpmrm1 ]; do sleep 0.1; done")  # fmt: skip


def unseal(registers: str) -> str:
    return (
        "tpm2_load -Q -C primary.ctx -u sealed.pub -r sealed.priv -c sealed.ctx && "
        f"tpm2_unseal -c sealed.ctx -p pcr:sha256:{registers}"
    )


def found(verdict: dict[str, Any], rule: str) -> str:
    [said] = [each["found"] for each in verdict["findings"] if each["rule"] == rule]
    return str(said)
