"""Guests of Debian's packages: what decides what is made, and the entry that comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.cli.library_build import entry_of
from tandem.cli.main import main
from tandem.errors import HostError, UsageError
from tandem.images import debian_tree
from tandem.images.debian import Image, digest_of_inputs, only_kernel
from tandem.images.debian_tree import (
    Recipe,
    apt_sources,
    attester_files,
    checked_package,
    lay_over,
)
from tandem.images.initramfs import module_order
from tandem.images.running import require_programs, run
from tandem.images.verity import Verity

DEPENDENCIES = """\
kernel/fs/squashfs/squashfs.ko:
kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/virtio_ring.ko
"""
RECIPE = Recipe(name="web", suite="bookworm")
IMAGE = Image(
    folder=Path("/library/debian/web"),
    verity=Verity(root_hash="ab" * 32, hash_offset=4096),
    packages={},
    is_new=True,
)


def test_a_module_is_loaded_after_those_it_needs() -> None:
    # Given what depmod wrote
    # When some are asked for, one of them built in
    order = list(module_order(DEPENDENCIES, ("virtio_blk", "ext4", "dm-verity", "squashfs")))
    # Then each comes after what it needs
    assert [Path(path).stem for path in order] == [
        *("virtio_ring", "virtio", "virtio_blk", "dm-mod", "dm-bufio", "dm-verity", "squashfs"),
    ]


def test_a_new_entry_boots_from_the_image_and_nothing_else() -> None:
    # Given an image, and a source without its entry
    # When the entry is made
    entry = entry_of(IMAGE, "debian/web", {})
    # Then the command line has the root hash, and the disk as well
    assert entry["disks"] == [
        {"id": "root", "kind": "verity", "path": "debian/web/root.img", "root_hash": "ab" * 32}
    ]
    assert f"tandem.roothash={'ab' * 32}" in entry["command_line"].split()
    assert "tandem.hashoffset=4096" in entry["command_line"].split()


def test_what_somebody_changed_in_an_entry_stays() -> None:
    # Given an entry that somebody gave memory, an option and a disk
    known: dict[str, Any] = entry_of(IMAGE, "debian/web", {})
    data = {"id": "data", "kind": "data", "path": "data.img"}
    known |= {
        "machine": {"cpus": 4, "memory_mib": 2048},
        "command_line": f"{known['command_line']} mitigations=auto",
        "disks": [*known["disks"], data],
        "vtpm": "ephemeral",
    }
    # When the image is made anew, with another root hash
    newer = replace(IMAGE, verity=Verity(root_hash="cd" * 32, hash_offset=8192))
    entry = entry_of(newer, "debian/web", known)
    # Then only what the image decides has changed
    words = entry["command_line"].split()
    assert entry["machine"] == {"cpus": 4, "memory_mib": 2048}
    assert entry["vtpm"] == "ephemeral"
    assert "mitigations=auto" in words
    assert [word for word in words if word.startswith("tandem.")] == [
        *(f"tandem.roothash={'cd' * 32}", "tandem.hashoffset=8192"),
    ]
    assert [disk["id"] for disk in entry["disks"]] == ["root", "data"]
    assert entry["disks"][0]["root_hash"] == "cd" * 32


def test_whatever_goes_into_an_image_decides_whether_it_is_made_anew(tmp_path: Path) -> None:
    # Given a recipe, and others that differ in one thing each
    (tmp_path / "file").write_text("one")
    overlaid = replace(RECIPE, overlay=tmp_path)
    digests = {digest_of_inputs(RECIPE), digest_of_inputs(overlaid)}
    digests.add(digest_of_inputs(replace(RECIPE, autologin=True)))
    digests.add(digest_of_inputs(replace(RECIPE, packages=("nginx",))))
    (tmp_path / "file").write_text("two")
    digests.add(digest_of_inputs(overlaid))
    (tmp_path / "file").chmod(0o600)
    digests.add(digest_of_inputs(overlaid))
    (tmp_path / "link").symlink_to("file")
    digests.add(digest_of_inputs(overlaid))
    # When their digests are compared
    # Then no two are the same, and one recipe has always the same
    assert len(digests) == 7
    assert digest_of_inputs(RECIPE) == digest_of_inputs(Recipe(name="web", suite="bookworm"))


def test_the_attester_that_goes_into_guests_is_whole() -> None:
    # Given this installation
    # When its attester's files are read
    files = attester_files()
    # Then its program is among them
    assert {"__main__.py", "serve.py", "collect.py"} <= files.keys()


def test_packages_that_bring_a_second_kernel_are_refused_by_name(tmp_path: Path) -> None:
    # Given a tree with one kernel
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.1.0-cloud-amd64").touch()
    assert only_kernel(tmp_path).name == "vmlinuz-6.1.0-cloud-amd64"
    # When a package that was asked for brought another
    (tmp_path / "boot/vmlinuz-6.1.0-amd64").touch()
    with pytest.raises(UsageError) as refused:
        only_kernel(tmp_path)
    # Then it is said which there are, after minutes of work not by a traceback
    assert refused.value.code == "TDM-IMAGE-KERNELS"
    assert "vmlinuz-6.1.0-amd64" in refused.value.problem


def test_an_overlay_replaces_links_and_never_follows_one_out_of_the_tree(tmp_path: Path) -> None:
    # Given a tree with links to a place of the host, one as a file's name, one as a folder's
    tree, overlay, host = (tmp_path / name for name in ("tree", "overlay", "host"))
    for folder in (tree / "etc", tree / "var", tree / "usr/lib", overlay / "etc", host):
        folder.mkdir(parents=True)
    (host / "file").write_text("the host's")
    (tree / "etc" / "file").symlink_to(host / "file")
    (tree / "var" / "run").symlink_to(host)
    (tree / "lib").symlink_to("usr/lib")
    (overlay / "lib").mkdir()
    (overlay / "lib" / "x").write_text("x")
    (overlay / "etc" / "file").write_text("the guest's")
    (overlay / "etc" / "file").chmod(0o4755)
    (overlay / "etc" / "link").symlink_to("file")
    # When the overlay is laid over the tree, and then one that goes through the folder's link
    lay_over(overlay, tree)
    (overlay / "var" / "run").mkdir(parents=True, mode=0o700)
    mode = host.stat().st_mode
    (overlay / "var" / "run" / "file").write_text("the guest's")
    with pytest.raises(UsageError) as refused:
        lay_over(overlay, tree)
    # Then the guest has its files, and the host has what it had
    assert (tree / "etc" / "file").read_text() == "the guest's"
    assert (tree / "etc" / "file").stat().st_mode & 0o7777 == 0o4755
    assert (tree / "etc" / "link").readlink() == Path("file")
    assert (tree / "usr" / "lib" / "x").read_text() == "x"
    assert refused.value.code == "TDM-IMAGE-OVERLAY-LINK"
    assert [path.read_text() for path in host.iterdir()] == ["the host's"]
    assert host.stat().st_mode == mode


@pytest.mark.parametrize("name", ["", "-o", "a b", "Nginx", "a,b", "nginx\n", "../x", "a" * 200])
def test_what_is_no_name_of_a_package_never_reaches_apt(name: str) -> None:
    # Given something else than a name
    # When it is checked
    with pytest.raises(UsageError) as refused:
        checked_package(name, "package")
    # Then it is refused
    assert refused.value.code == "TDM-IMAGE-PACKAGE-NAME"


def test_a_host_without_sources_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a host whose apt has no sources
    monkeypatch.setattr(debian_tree, "APT", tmp_path)
    # When they are looked for
    with pytest.raises(HostError) as failed:
        apt_sources()
    # Then the error names the folder
    assert failed.value.code == "TDM-IMAGE-NO-SOURCES"
    assert str(tmp_path) in failed.value.problem


def test_a_missing_program_is_named_with_the_package_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a host without any of them
    monkeypatch.setenv("PATH", "/nonexistent")
    # When one is run, and when an image is begun
    with pytest.raises(HostError) as failed:
        run("mksquashfs", "-version")
    with pytest.raises(HostError) as before:
        require_programs()
    # Then the hint names the package, and nothing is begun
    assert "squashfs-tools" in failed.value.hint
    assert before.value.code == "TDM-IMAGE-NO-PROGRAM"


def test_an_overlay_that_is_no_folder_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a file in place of a folder
    (tmp_path / "overlay").write_text("")
    build = ("library", "build", "debian", "web", "--overlay", str(tmp_path / "overlay"))
    # When an image is asked for
    status = main(["--host", str(tmp_path / "host"), *build, "--json"])
    # Then it is refused, and nothing was written
    assert status == 2
    assert "TDM-IMAGE-OVERLAY" in capsys.readouterr().err
    assert not (tmp_path / "host").exists()
