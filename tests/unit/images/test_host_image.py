"""The host image: modules after those they need, Python's files beside their compiled form."""

from __future__ import annotations

from pathlib import Path

from build_host_image import compiled, module_entries

MODULES = {
    "drivers/md/dm-crypt": "dm-mod",
    "drivers/md/dm-mod": "",
    "drivers/char/tpm/tpm_vtpm_proxy": "",
    "fs/unwanted": "",
}


def tree_with(modules: dict[str, str], folder: Path) -> Path:
    """Make a tree with kernel modules that say what they depend on, in .modinfo's form."""
    for name, needed in modules.items():
        path = folder / "lib" / "modules" / "6.1" / "kernel" / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF\0license=GPL\0depends=" + needed.encode() + b"\0retpoline=Y\0")
    return folder


def test_a_module_comes_after_those_that_it_needs(tmp_path: Path) -> None:
    # Given a kernel some of whose modules the image wants, and others built in
    tree = tree_with(MODULES, tmp_path)
    # When the image's modules are chosen
    entries = {entry.path: entry.data for entry in module_entries(tree)}
    # Then each stands after those it needs, and no other is taken
    assert entries["lib/modules/order"].split() == [b"dm_mod", b"dm_crypt", b"tpm_vtpm_proxy"]
    assert set(entries) == {
        *(f"lib/modules/{name}.ko" for name in ("dm_mod", "dm_crypt", "tpm_vtpm_proxy")),
        "lib/modules/order",
    }


def test_a_package_is_taken_with_its_compiled_form(tmp_path: Path) -> None:
    # Given a package with a module, data, tests and what this Python left in it
    package = tmp_path / "package"
    for name in ("one.py", "data.toml", "test/test_one.py", "__pycache__/one.cpython-311.pyc"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(b"VALUE = 7\n")
    # When it is taken
    entries = {entry.path: entry.data for entry in compiled(package, "usr/lib/package")}
    # Then source, data and a form that does not look at its source's time are there
    cached = "usr/lib/package/__pycache__/one.cpython-311.pyc"
    assert set(entries) == {"usr/lib/package/one.py", "usr/lib/package/data.toml", cached}
    flags = int.from_bytes(entries[cached][4:8], "little")
    assert flags == 0b01  # hash-based, unchecked (PEP 552)
    assert b"/usr/lib/package/one.py" in entries[cached]
