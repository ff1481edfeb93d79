"""Whatever an entry says, it stays inside its own option."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tandem.evidence.guest_entry import DirectBoot, GuestEntry, Machine, PlatformAuth
from tandem.evidence.launch_plan import machine_configuration
from tandem.evidence.manifest_file import ManifestFile
from tandem.hypervisor.qemu_args import Numbers, arguments

FILE = ManifestFile(path="file", size=1, sha256=bytes(32), sha384=bytes(48))
ENTRY = GuestEntry(
    name="web",
    hypervisor="qemu",
    group="default",
    ephemeral=False,
    boot=DirectBoot(
        kernel=FILE,
        initrd=FILE,
        firmware=FILE,
        roms=(),
        command_line="",
        platform_auth=PlatformAuth.FIRMWARE,
    ),
    disks=(),
    machine=Machine(type="q35", cpu="max", cpus=1, memory_mib=256),
)
NUMBERS = Numbers(
    **{name: 10 + at for at, name in enumerate(Numbers.__annotations__) if name != "disks"},
    disks={},
)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200)


@given(command_line=PRINTABLE, cpus=st.integers(1, 255), memory=st.integers(16, 1 << 22))
def test_an_entry_adds_no_argument(command_line: str, cpus: int, memory: int) -> None:
    # Given any command line and any size of machine
    machine = replace(ENTRY.machine, cpus=cpus, memory_mib=memory)
    plain = arguments(machine_configuration(ENTRY, "tcg"), "", NUMBERS)
    # When the arguments are generated
    entry = replace(ENTRY, machine=machine)
    argv = arguments(machine_configuration(entry, "tcg"), command_line, NUMBERS)
    # Then only the values of three options differ
    differing = {index for index, pair in enumerate(zip(plain, argv, strict=True))
                 if pair[0] != pair[1]}  # fmt: skip
    allowed = {argv.index(option) + 1 for option in ("-append", "-smp", "-m")}
    assert differing <= allowed
    assert argv[argv.index("-append") + 1] == command_line
