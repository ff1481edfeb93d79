"""The commands of the verifier, from files to exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tandem.cli.main import main
from tandem.evidence.envelope import PublicKey
from tandem.evidence.host_export import write_host_export
from tandem.evidence.vtpm_ak import vtpm_ak_public
from tests.unit.appraisal.forge import NONCE, NOW, Forge

AT = NOW.isoformat()


def pem(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def forge() -> Forge:
    return Forge()


@pytest.fixture
def place(tmp_path: Path, forge: Forge) -> Path:
    """A verifier's directory: anchor, library, export, evidence, the host's logs, policy."""
    policy = forge.policy()
    host = write_host_export(
        ptpm="embedded",
        hardware_root=False,
        ek=vtpm_ak_public(forge.ca.public_key()),
        ek_certificate=b"",
        ek_chain=(),
        ak=vtpm_ak_public(forge.host_ak.public_key()),
        authorities={"default": forge.ca_certificate()},
        epoch=1,
    )
    files = {
        "export.json": host,
        "anchor.json": policy.anchor,
        "anchor.pub": pem(policy.anchor_key),
        "library.dsse.json": policy.manifest,
        "library.pub": pem(policy.manifest_keys[0]),
        "host.log": forge.host_log,
        "ima.log": forge.kernel.log,
        "default.crl": forge.crl(),
        "evidence.json": forge.evidence(),
        "qemu": b"qemu-system-x86_64",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert new_policy(tmp_path, "--allow-no-hardware-root") == 0
    return tmp_path


def new_policy(place: Path, *more: str) -> int:
    named = {
        "--anchor": "anchor.json",
        "--anchor-key": "anchor.pub",
        "--manifest": "library.dsse.json",
        "--manifest-key": "library.pub",
        "--hypervisor": "qemu",
        "-o": "policy.toml",
    }
    files = [part for option, name in named.items() for part in (option, str(place / name))]
    expected = ("--entry", "web", "--guest", "web-01", "--builder", bytes(32).hex())
    return main(["policy", "new", *files, *expected, *more])


def verify(place: Path, *more: str, nonce: bytes = NONCE) -> int:
    argv = ["verify", str(place / "evidence.json"), "--policy", str(place / "policy.toml")]
    return main([*argv, "--nonce", nonce.hex(), "--at", AT, *more])


def test_true_evidence_exits_with_zero_and_says_trusted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given true evidence and a policy that takes the host's PCRs from its anchor
    # When it is verified, with a report
    status = verify(place, "--html", str(place / "report.html"))

    # Then it is trusted, and the report is a page
    assert status == 0
    assert "web-01: trusted" in capsys.readouterr().out
    assert (place / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_replay_exits_with_eleven_and_names_the_finding(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given true evidence
    # When it is verified with another nonce
    capsys.readouterr()
    status = verify(place, "--json", nonce=bytes(32))

    # Then the exit status and the JSON say so
    record = json.loads(capsys.readouterr().out)
    against = [each["rule"] for each in record["findings"] if each["tier"] == "CONTRAINDICATED"]
    assert status == 11
    assert record["trusted"] is False
    assert against == ["nonce-is-fresh"]


def test_a_demanded_hardware_root_exits_with_ten(place: Path) -> None:
    # Given a policy that waives nothing
    assert new_policy(place) == 0

    # When evidence of a host with an embedded TPM is verified
    # Then it is in doubt
    assert verify(place) == 10


def test_user_data_can_be_demanded_for_one_call(place: Path) -> None:
    # Given true evidence without user data
    # When a channel's key is demanded
    # Then it is not trusted
    assert verify(place, "--user-data", "00ff") == 11


def test_a_verifier_appraises_without_the_host_s_libraries(place: Path) -> None:
    # Given a Python in which neither libtpms' nor the TPM's binding can be imported
    program = (
        "import sys\n"
        "for name in ('tpm2_pytss', 'argcomplete', 'qemu'): sys.modules[name] = None\n"
        "from tandem.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["verify", str(place / "evidence.json"), "--policy", str(place / "policy.toml")]
    argv += ["--nonce", NONCE.hex(), "--at", AT]

    # When it verifies
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        env=environment, capture_output=True, check=False, timeout=60,
    )  # fmt: skip

    # Then it can
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "status", "code"),
    [
        (["nonsense"], 2, "TDM-CLI-USAGE"),
        (["verify"], 2, "TDM-CLI-USAGE"),
        (["verify", "no", "--policy", "no", "--nonce", "xy"], 2, "TDM-CLI-NOT-HEX"),
        (["verify", "no", "--policy", "no", "--nonce", "00"], 2, "TDM-VERIFY-NONCE-SIZE"),
        (["verify", "no", "--policy", "no", "--nonce", "00" * 32], 3, "TDM-CLI-FILE-UNREADABLE"),
    ],
)
def test_a_wrong_call_has_a_code_a_hint_and_its_status(
    argv: list[str], status: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a call that makes no sense
    # When it is made with --json
    found = main([*argv, "--json"])

    # Then one record says what is wrong and what to do
    record = json.loads(capsys.readouterr().err)
    assert (found, record["code"]) == (status, code)
    assert record["hint"]


def test_a_damaged_policy_is_refused_and_nothing_is_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a policy with a typing error
    policy = place / "policy.toml"
    policy.write_bytes(policy.read_bytes().replace(b"hardware_root", b"hardware_rot"))

    # When evidence is verified by it
    status = verify(place, "--html", str(place / "report.html"))

    # Then it is refused as input
    assert status == 4
    assert "TDM-POLICY-BAD" in capsys.readouterr().err
    assert not (place / "report.html").exists()


def test_a_policy_for_a_group_that_was_not_enrolled_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given an anchor with the CA of one group
    # When a policy is made for another
    status = new_policy(place, "--group", "tenant")
    # Then a rule refuses it
    assert status == 5
    assert "TDM-POLICY-NO-AUTHORITY" in capsys.readouterr().err


def test_demanded_logs_and_lists_are_judged_from_files(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a policy that demands logs, a list, and this vTPM
    crl = str(place / "default.crl")
    demands = ["--allow-no-hardware-root", "--event-log", "--ima", "--crl", crl, "--same-boot"]
    assert new_policy(place, *demands, "--strict-rollback", "--vtpm", "web-01") == 0

    # When evidence is verified without the logs, and with them
    logs = ["--host-log", str(place / "host.log"), "--ima-log", str(place / "ima.log")]
    without, complete = verify(place), verify(place, *logs)

    # Then what is missing is in doubt, and all together is trusted
    assert (without, complete) == (10, 0)
    shown = capsys.readouterr().out
    assert "host-log-replays: the host's log replays to PCR 0, 7" in shown
    assert "vtpm-is-not-revoked: list 3 of" in shown


def test_a_list_given_for_one_call_stands_before_the_policys(place: Path, forge: Forge) -> None:
    # Given a policy without a list, and a list of another CA
    (place / "other.crl").write_bytes(Forge().crl())
    # When evidence is verified by either list
    mine = verify(place, "--crl", str(place / "default.crl"))
    other = verify(place, "--crl", str(place / "other.crl"))
    # Then the group's own shows that nothing is revoked, and the other proves nothing
    assert (mine, other) == (0, 11)


def test_a_policy_s_files_can_be_checked(place: Path) -> None:
    # Given a policy and its files
    # When they are checked whole, and with a library of somebody else
    whole = main(["policy", "check", str(place / "policy.toml")])
    (place / "library.dsse.json").write_bytes(Forge().policy().manifest)

    # Then the first is in order and the second refused
    assert whole == 0
    assert main(["policy", "check", str(place / "policy.toml")]) == 5


def test_a_list_of_another_group_is_found_by_the_check(place: Path) -> None:
    # Given a policy with the group's list
    assert new_policy(place, "--crl", str(place / "default.crl")) == 0
    check = ["policy", "check", str(place / "policy.toml")]
    whole = main(check)

    # When that list is exchanged for one of another CA, and for something else
    (place / "default.crl").write_bytes(Forge().crl())
    other = main(check)
    (place / "default.crl").write_bytes(b"no list")

    # Then the check tells
    assert (whole, other, main(check)) == (0, 5, 4)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (["--threshold", "0"], 5),
        (["--user-data", "00" * 65], 4),
        (["--group", "default", "--entry", "none"], 2),
    ],
)
def test_no_policy_is_written_that_cannot_be_applied(
    place: Path, more: list[str], status: int
) -> None:
    # Given the files of a policy
    (place / "policy.toml").unlink()
    # When one is asked for that could not be read, or that names no entry
    # Then it is refused, and nothing is written
    assert new_policy(place, *more) == status
    assert not (place / "policy.toml").exists()


def test_keys_are_made_private_and_never_overwritten(tmp_path: Path) -> None:
    # Given a directory
    key = tmp_path / "verifier.key"

    # When a key is made twice under one name
    first, second = (main(["verifier", "keygen", "-o", str(key)]) for _ in range(2))

    # Then the first stands, readable by its owner alone
    assert (first, second) == (0, 2)
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "verifier.key.pub").read_bytes().startswith(b"-----BEGIN PUBLIC KEY")


def test_a_host_that_proves_nothing_is_not_enrolled(place: Path) -> None:
    # Given an export whose EK is none
    main(["verifier", "keygen", "-o", str(place / "key")])
    export, key, out = (str(place / name) for name in ("export.json", "key", "new-anchor.json"))

    # When it is enrolled
    status = main(["verifier", "enroll", export, "--key", key, "-o", out, "--via", "true"])

    # Then it is refused, and no anchor is written
    assert status == 5
    assert not Path(out).exists()


def test_the_completion_script_is_bash(capsys: pytest.CaptureFixture[str]) -> None:
    # Given the parsers
    # When the script is printed
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    # Then bash accepts it, and it knows the options of this verifier's commands
    subprocess.run(["bash", "-n"], input=script.encode(), check=True, timeout=10)
    assert '" verify") echo "' in script
    assert "--nonce" in script


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    # Given each group of the verifier
    for argv in ([], ["verify"], ["verifier"], ["policy"]):
        # When its help is asked for
        with pytest.raises(SystemExit) as ended:
            main([*argv, "--help"])

        # Then it ends well and shows examples
        assert ended.value.code == 0
        assert "examples:" in capsys.readouterr().out
