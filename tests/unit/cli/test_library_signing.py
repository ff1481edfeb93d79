"""Several signers, a time that ends, and what differs: `tandem library` beyond one key."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tandem.cli.main import main

FILES = ("vmlinuz", "initrd", "firmware", "kvmvapic.bin", "linuxboot_dma.bin")
SOURCE = """\
[entries.web]
kernel = "vmlinuz"
initrd = "initrd"
firmware = "firmware"
roms = ["kvmvapic.bin", "linuxboot_dma.bin"]
command_line = "quiet"
"""
BOTH = """\
[library]
name = "bank"
expires_days = 30
signers = ["../../alice.pub", "../../bob.pub", "../../carol.pub"]
threshold = 2

"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A library with files in it, and keys of three people whom the host trusts."""
    library = tmp_path / "host" / "library"
    library.mkdir(parents=True)
    for name in FILES:
        (library / name).write_bytes(name.encode())
    (library / "library.toml").write_text(BOTH + SOURCE)
    people = ("alice", "bob", "carol")
    for name in people:
        assert main(["library", "keygen", "-o", str(tmp_path / name)]) == 0
    assert run(library, "trust", *(str(tmp_path / f"{name}.pub") for name in people)) == 0
    return library


def run(directory: Path, *arguments: str) -> int:
    return main(["--host", str(directory.parent), "library", *arguments])


def key(directory: Path, *names: str) -> list[str]:
    folder = directory.parents[1]
    return [word for name in names for word in ("--key", str(folder / name))]


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().err.splitlines()[-1])


def test_a_library_of_two_signers_holds_once_the_second_has_signed(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a library that takes two of three, signed by one
    run(directory, "sign", *key(directory, "alice"), "--json")
    assert not printed(capsys)["complete"]
    assert run(directory, "verify", "--json") == 5
    assert refused(capsys)["code"] == "TDM-LIBRARY-SIGNATURES"
    # When another signs it, too
    assert run(directory, "countersign", *key(directory, "carol"), "--json") == 0
    assert printed(capsys)["complete"]
    # Then it verifies, with both named
    assert run(directory, "verify", "--json") == 0
    assert len(printed(capsys)["key_ids"]) == 2


def test_signing_twice_with_one_key_is_one_signature(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a library that takes two signers
    run(directory, "sign", *key(directory, "alice", "alice"))
    # When the same signs again
    run(directory, "countersign", *key(directory, "alice"))
    # Then it is not complete
    assert run(directory, "verify", "--json") == 5
    assert refused(capsys)["code"] == "TDM-LIBRARY-SIGNATURES"


def test_a_key_that_the_library_does_not_name_cannot_countersign(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a signed library, and a key of somebody else
    run(directory, "sign", *key(directory, "alice", "bob"))
    main(["library", "keygen", "-o", str(directory.parents[1] / "mallory")])
    before = (directory / "library.dsse.json").read_bytes()
    # When that key countersigns
    status = run(directory, "countersign", *key(directory, "mallory"), "--json")
    # Then it is refused, and the file is as it was
    assert (status, refused(capsys)["code"]) == (5, "TDM-LIBRARY-NOT-A-SIGNER")
    assert (directory / "library.dsse.json").read_bytes() == before


def test_a_host_may_ask_for_more_signers_than_a_library_names(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a library by alice alone, who says that her key is enough
    (directory / "library.toml").write_text(SOURCE)
    run(directory, "sign", *key(directory, "alice"))
    assert run(directory, "verify") == 0
    # When the host asks for two of those it trusts
    assert run(directory, "trust", "--threshold", "2", "--json") == 0
    assert printed(capsys)["threshold"] == 2
    # Then her library is not enough
    assert run(directory, "verify", "--json") == 5
    assert refused(capsys)["code"] == "TDM-ENVELOPE-NOT-SIGNED"


@pytest.mark.parametrize("threshold", ["0", "4", "-1"])
def test_a_threshold_that_cannot_be_met_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str], threshold: str
) -> None:
    # Given three trusted keys
    # When another number of them is asked for than there can be
    status = run(directory, "trust", f"--threshold={threshold}", "--json")
    # Then it is refused, and nothing has changed
    assert (status, refused(capsys)["code"]) == (2, "TDM-LIBRARY-THRESHOLD")
    run(directory, "trust", "--json")
    assert printed(capsys)["threshold"] == 1


@pytest.mark.parametrize(
    "text", ["threshold = 4", "threshold = true", "treshold = 1", "threshold", "", "\xff"]
)
def test_a_damaged_trust_file_trusts_nobody(
    directory: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    # Given a signed library, and a trust file that says something else than a threshold
    run(directory, "sign", *key(directory, "alice", "bob"))
    (directory / "keys" / "trust.toml").write_bytes(text.encode("latin-1"))
    # When the library is verified
    status = run(directory, "verify", "--json")
    # Then that is refused: no threshold would be less than what was meant
    error = refused(capsys)
    assert (status, error["code"]) == (4, "TDM-LIBRARY-TRUST-BAD")
    assert "keys/trust.toml" in error["problem"]


def test_a_library_whose_time_is_over_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a library that was signed for thirty days
    run(directory, "sign", *key(directory, "alice", "bob"), "--json")
    expires = datetime.datetime.fromisoformat(printed(capsys)["expires"])
    assert run(directory, "verify", "--json") == 0
    assert printed(capsys)["expires"] == expires.isoformat()

    # When it is verified at the second in which they end
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
            return cls.fromtimestamp(expires.timestamp(), tz)

    monkeypatch.setattr("tandem.cli.library.datetime.datetime", Clock)
    # Then it is refused by name
    assert run(directory, "verify", "--json") == 5
    assert refused(capsys)["code"] == "TDM-LIBRARY-EXPIRED"


def test_what_signing_would_change_is_shown_and_nothing_is_written(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a signed library whose source and kernel have changed since, the latter from elsewhere
    run(directory, "sign", *key(directory, "alice", "bob"))
    outside = directory.parents[1] / "vmlinuz"
    outside.write_bytes(b"a newer kernel")
    source = directory / "library.toml"
    text = source.read_text().replace('"vmlinuz"', f'"{outside}"').replace('"quiet"', '"loud"')
    source.write_text(text + '[entries.new]\nkind = "build-once"\nrole = "manager"\n')
    capsys.readouterr()
    # When the two are compared
    status = run(directory, "diff", "--json")
    # Then each place is named, and no file was copied
    found = {each["place"]: each for each in printed(capsys)["differences"]}
    assert status == 1
    assert found["entries.web.boot.command_line"]["before"] == "quiet"
    assert found["entries.web.boot.command_line"]["after"] == "loud"
    assert "14 bytes" in found["entries.web.boot.kernel"]["after"]
    assert found["entries.new"]["before"] == "-"
    assert not (directory / "blobs").exists()


def test_the_same_library_differs_in_nothing(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a signed library
    run(directory, "sign", *key(directory, "alice", "bob"))
    # When it is compared with its source
    # Then there is no difference
    assert run(directory, "diff") == 0


def test_what_is_in_the_library_is_listed(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a signed library
    run(directory, "sign", *key(directory, "alice", "bob"))
    capsys.readouterr()
    # When it is listed
    assert run(directory, "list") == 0
    text = capsys.readouterr().out
    run(directory, "list", "--json")
    # Then entry, version, time and signers are there
    assert "library bank, version 1, expires at " in text
    assert "in 29 days" in text
    assert "2 of 3 keys" in text
    assert [each["entry"] for each in printed(capsys)["entries"]] == ["web"]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('name = "bank"', 'name = "The Bank"', "$.library.name"),
        ('name = "bank"', "name = 1", "$.library.name"),
        ("expires_days = 30", "expires_days = 0", "$.library.expires_days"),
        ("expires_days = 30", "expires_days = 99999", "$.library.expires_days"),
        ("expires_days = 30", 'expires_days = "30"', "$.library.expires_days"),
        ("expires_days = 30", "expires = 30", "$.library"),
        ("threshold = 2", "threshold = 4", "$.signers.threshold"),
        ("threshold = 2", "threshold = 0", "$.library.threshold"),
        ('"../../alice.pub"', "7", "$.library.signers.0"),
        ('"../../alice.pub"', '"../../bob.pub"', "$.signers.threshold"),
        ("[library]", "[[library]]", "$.library"),
        ('kernel = "vmlinuz"', "kernel = 5", "$.entries.web.kernel"),
        ('kernel = "vmlinuz"', 'kernel = ["vmlinuz"]', "kernel"),
        ('kernel = "vmlinuz"', 'kernel = "a\\nb"', "$.entries.web.kernel"),
        ('kernel = "vmlinuz"', f'kernel = "{"k" * 5000}"', "$.entries.web.kernel"),
        ('roms = ["kvmvapic.bin", ', "roms = [1, ", "$.entries.web.roms.0"),
    ],
)
def test_what_is_wrong_in_a_source_is_refused_by_its_place(
    directory: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, place: str
) -> None:
    # Given a source with one thing wrong
    source = directory / "library.toml"
    text = source.read_text().replace(old, new, 1)
    if place == "$.signers.threshold" and "bob" in new:  # twice the same of three, all asked for
        text = text.replace("threshold = 2", "threshold = 3")
    source.write_text(text)
    # When it is signed
    status = run(directory, "sign", *key(directory, "alice"), "--json")
    # Then nothing is written, and file and place are named
    error = refused(capsys)
    assert status == 4
    assert place in error["problem"]
    assert str(source) in error["problem"]
    assert not (directory / "library.dsse.json").exists()


@pytest.mark.parametrize("make", ["directory", "pipe", "huge", "empty", "device"])
def test_what_is_no_file_for_a_launch_is_refused_at_once(
    directory: Path, capsys: pytest.CaptureFixture[str], make: str
) -> None:
    # Given a kernel that is no plain file, or a sparse one of a terabyte
    kernel = directory / "vmlinuz"
    kernel.unlink()
    if make == "directory":
        kernel.mkdir()
    elif make == "pipe":
        os.mkfifo(kernel)
    elif make == "device":
        kernel.symlink_to("/dev/zero")
    else:
        with kernel.open("wb") as file:
            file.truncate((1 << 40) if make == "huge" else 0)
    # When the library is signed
    status = run(directory, "sign", *key(directory, "alice"), "--json")
    # Then it is refused, by place and path
    error = refused(capsys)
    assert (status, error["code"]) == (3, "TDM-LIBRARY-FILE")
    assert "$.entries.web.kernel" in error["problem"]
    assert "vmlinuz" in error["problem"]


def test_an_entry_is_added_and_signed(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a source
    add = (
        *("add", "mail", "--kernel", "vmlinuz", "--initrd", "initrd", "--firmware", "firmware"),
        *("--command-line", f"roothash={'ab' * 32}", "--cpus", "2", "--ephemeral"),
        *("--disk", f"root:verity:root.img:{'ab' * 32}", "--disk", "more:data:more.img"),
    )
    # When an entry is added, and once more
    assert run(directory, *add, "--json") == 0
    assert run(directory, *add, "--json") == 2
    assert refused(capsys)["code"] == "TDM-LIBRARY-ENTRY-EXISTS"
    assert run(directory, *add, "--replace") == 0
    # Then it can be signed, beside what was there
    assert run(directory, "sign", *key(directory, "alice", "bob"), "--json") == 0
    assert printed(capsys)["entries"] == ["mail", "web"]


@pytest.mark.parametrize("disk", ["root", "root:verity:a", "a:data:b:c", "::", ""])
def test_a_disk_that_is_not_told_whole_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str], disk: str
) -> None:
    # Given a disk in words that say too little or too much
    # When it is added
    status = run(directory, "add", "mail", "--disk", disk, "--json")
    # Then it is refused, and the source is as it was
    assert (status, refused(capsys)["code"]) == (2, "TDM-LIBRARY-DISK")
    assert "mail" not in (directory / "library.toml").read_text()
