"""`tandem library`: from a source to a signed manifest, and back to the files."""

from __future__ import annotations

import base64
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tandem.cli.library_source import TEMPLATE
from tandem.cli.main import main

SOURCE = """\
[entries.web]
kernel = "vmlinuz"
initrd = "{outside}/initrd"
firmware = "firmware"
roms = ["kvmvapic.bin", "linuxboot_dma.bin"]
command_line = "quiet"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A library with files in it and one outside of it, a key, and trust in that key."""
    library, outside = tmp_path / "host" / "library", tmp_path / "outside"
    for each in (library / "keys", outside):
        each.mkdir(parents=True)
    for name in ("vmlinuz", "firmware", "kvmvapic.bin", "linuxboot_dma.bin"):
        (library / name).write_bytes(name.encode())
    (outside / "initrd").write_bytes(b"initrd")
    (library / "library.toml").write_text(SOURCE.format(outside=outside))
    assert main(["library", "keygen", "-o", str(tmp_path / "key")]) == 0
    (library / "keys" / "key.pub").write_bytes((tmp_path / "key.pub").read_bytes())
    (library / "keys" / "key.pub").chmod(0o644)
    return library


def library(directory: Path, *arguments: str) -> int:
    return main(["--host", str(directory.parent), "library", *arguments])


def sign(directory: Path, *arguments: str) -> int:
    return library(directory, "sign", "--key", str(directory.parents[1] / "key"), *arguments)


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_what_was_signed_verifies(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a source
    # When it is signed and verified
    statuses = [sign(directory), library(directory, "verify", "--json")]
    # Then every file agrees, the one from outside as a copy in the library
    assert statuses == [0, 0]
    assert printed(capsys)["files"] == 5
    assert [path.name for path in directory.glob("blobs/*/*")] == ["initrd"]


def test_a_disk_that_the_kernel_does_not_vouch_for_does_not_verify(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a signed library with a disk by its fs-verity digest, on a file that has none
    (directory / "root.img").write_bytes(b"anything")
    with (directory / "library.toml").open("a") as source:
        source.write(
            '\n[[entries.web.disks]]\nid = "root"\nkind = "fs-verity"\npath = "root.img"\n'
            f'digest = "{"ab" * 32}"\n'
        )
    assert sign(directory) == 0
    # When it is verified
    status = library(directory, "verify", "--json")
    # Then it is not said to agree: a start would be refused
    assert status == 3
    assert json.loads(capsys.readouterr().err)["code"] == "TDM-DISK-NO-FSVERITY"


def test_a_changed_file_does_not_verify(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a signed library whose kernel changes
    sign(directory)
    (directory / "vmlinuz").write_bytes(b"VMLINUZ")
    # When it is verified
    status = library(directory, "verify", "--json")
    # Then it is refused by name
    assert status == 5
    assert json.loads(capsys.readouterr().err)["code"] == "TDM-INPUT-DIFFERS"


def test_the_version_only_rises(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a library signed as version 7
    sign(directory, "--version", "7")
    # When it is signed as an older one, as the same, and without saying
    statuses = [
        sign(directory, "--version", "6"),
        sign(directory, "--version", "7"),
        sign(directory, "--json"),
    ]
    # Then only the last succeeds, with the next version
    assert statuses == [5, 5, 0]
    assert printed(capsys)["version"] == 8


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('command_line = "quiet"', 'command_line = "quiet\\n"', "command_line"),
        ('command_line = "quiet"', "command_line = 1", "command_line"),
        ('command_line = "quiet"', 'command_lime = "quiet"', "command_lime"),
        ("[entries.web]", '[entries."bad name"]', "bad name"),
        ("[entries.web]", '[entries.web]\nkind = "sometimes"', "kind"),
        ("[entries.web]", '[entries.web]\ngroup = "../x"', "group"),
        ("[entries.web]", "[entries.web]\nmachine = { memory_mib = 1 }", "memory_mib"),
    ],
)
def test_a_source_that_is_wrong_is_refused_with_the_place(
    directory: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, place: str
) -> None:
    # Given a source with one thing wrong
    source = directory / "library.toml"
    source.write_text(source.read_text().replace(old, new))
    # When it is signed
    status = sign(directory, "--json")
    # Then nothing is written, and the error names the place
    assert status == 4
    assert place in json.loads(capsys.readouterr().err)["problem"]
    assert not (directory / "library.dsse.json").exists()


def test_a_source_that_is_no_toml_or_names_no_file_is_refused(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a source that is no TOML, and one whose kernel is missing
    source = directory / "library.toml"
    good = source.read_text()
    codes = []
    for text in ("[entries", "answer = 42", good.replace('"vmlinuz"', '"nowhere"')):
        source.write_text(text)
        # When it is signed
        sign(directory, "--json")
        codes.append(json.loads(capsys.readouterr().err)["code"])
    # Then each error says what it is
    assert codes == ["TDM-LIBRARY-SOURCE-BAD", "TDM-LIBRARY-SOURCE-BAD", "TDM-LIBRARY-FILE"]


def test_a_key_is_its_owners_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    # Given a key
    key = tmp_path / "key"
    main(["library", "keygen", "-o", str(key)])
    content = key.read_bytes()
    # When another is made in its place
    status = main(["library", "keygen", "-o", str(key)])
    # Then that is refused, and the first is as it was
    assert status == 2
    assert key.read_bytes() == content
    assert key.stat().st_mode & 0o777 == 0o600


def test_the_template_is_toml_and_init_leaves_a_source_alone(tmp_path: Path) -> None:
    # Given a host without a library
    # When a source is written twice
    statuses = [main(["--host", str(tmp_path), "library", "init"]) for _ in range(2)]
    # Then the second time it is left alone, and it is TOML
    assert statuses == [0, 2]
    assert "demo" in tomllib.loads(TEMPLATE)["entries"]


def test_the_running_kernel_is_named_by_its_build_id(directory: Path) -> None:
    # Given an entry for this host that takes the kernel that runs
    source = '[entries.host]\nkind = "build-once"\nrole = "host"\nbuild_id = "running"\n'
    (directory / "library.toml").write_text(source)
    # When it is signed
    assert sign(directory) == 0
    # Then the manifest has the number that this kernel shows of itself
    envelope = json.loads((directory / "library.dsse.json").read_text())
    manifest = json.loads(base64.b64decode(envelope["payload"]))
    shown = manifest["entries"]["host"]["build_id"]
    assert bytes.fromhex(shown) in Path("/sys/kernel/notes").read_bytes()
    assert len(shown) >= 2 * 8
