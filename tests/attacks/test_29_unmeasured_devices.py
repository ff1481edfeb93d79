"""29: a machine gets what nobody measured: a debugger, a shared folder, a disk, a fw_cfg file.

Attacker: host administrator.
Control: QEMU on swtpm with each of them added: PCR 0 to 15 are the same, and stock tools accept.
Shows: QEMU is started from the measured configuration alone; unknown keys are refused in the
library (TDM-MANIFEST-BAD) and in the driver (TDM-QEMU-CONFIGURATION-UNKNOWN); a changed machine is
a finding that shows both sides (configuration-matches-manifest).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from demo.good_run import GUEST
from demo.stage import Stage
from peers.tiny_kernel import tiny_kernel
from tandem.appraisal.rules import Rule
from tandem.errors import HostError, UntrustedInput
from tandem.evidence.launch import LaunchEvent, Tag, json_event
from tandem.evidence.launch_plan import machine_configuration
from tandem.evidence.manifest import parse_manifest
from tandem.hypervisor import qemu_args
from tests.attacks.launches import against, booted, changed, registers_of, verdict_on
from tests.integration.vtpm.pair_harness import PairUnderTest
from tests.unit.appraisal.forge import Forge, guest_entry, library

MACHINE = {"type": "q35", "cpu": "max", "cpus": 1, "memory_mib": 256}
FORBIDDEN = ("-gdb", "-s", "-fw_cfg", "-virtfs", "-fsdev", "-monitor", "-qmp", "-plugin", "-trace")
ADDED = {
    "a debugger": ("-gdb", "unix:{directory}/gdb.sock,server=on,wait=off"),
    "a file": ("-fw_cfg", "name=opt/org.evil/key,string=1"),
    "a folder": (
        *("-fsdev", "local,id=f,path={directory},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=f,mount_tag=evil"),
    ),
    "a disk": ("-drive", "file={directory}/disk,format=raw,if=none,id=x"),
    "a monitor": ("-qmp", "unix:{directory}/qmp.sock,server=on,wait=off"),
}


@pytest.mark.parametrize("added", ADDED)
def test_control_the_registers_are_the_same(control: Path, tmp_path: Path, added: str) -> None:
    # Given a machine, and the quote of its good start
    (tmp_path / "disk").write_bytes(bytes(65536))
    kernel = tmp_path / "kernel"
    kernel.write_bytes(tiny_kernel("it"))
    direct = ("-kernel", str(kernel), "-append", "quiet")
    good = booted(control, *direct, said=b"booted it.")

    # When the attacker adds something to it
    more = (word.format(directory=tmp_path) for word in ADDED[added])
    evil = booted(control, *direct, *more, said=b"booted it.")

    # Then PCR 0 to 15 are as they were, and stock tools accept the quote
    assert evil.passes_checkquote(tmp_path)
    assert evil.ak.name == good.ak.name
    assert evil.quote.pcr_digest == good.quote.pcr_digest


@pytest.fixture
def hosted(stage: Stage) -> Iterator[Stage]:
    """A host, without a guest afterwards."""
    yield stage
    stage.tandem("guest", "stop", GUEST, "--kill", expect=None)


def test_a_running_machine_has_none_of_them(hosted: Stage) -> None:
    # Given a guest that the builder started
    [pair] = hosted.ask("guest", "start", GUEST)

    # When its hypervisor's arguments are read
    arguments = Path(f"/proc/{pair['hypervisor_pid']}/cmdline").read_bytes().decode().split("\0")

    # Then there is nothing that was not measured, and no path to anything
    assert not set(arguments) & set(FORBIDDEN)
    assert not [word for word in arguments if "path=" in word or "type=tcp" in word]


def test_what_it_has_from_disk_beside_that_is_roots_alone(hosted: Stage) -> None:
    # Given a guest that the builder started
    [pair] = hosted.ask("guest", "start", GUEST)
    process = Path(f"/proc/{pair['hypervisor_pid']}")

    # When the files that its hypervisor mapped or holds are listed
    mapped = {
        line.split(maxsplit=5)[5].strip() for line in (process / "maps").open() if "/" in line
    }
    held = {os.readlink(link) for link in (process / "fd").iterdir()}
    files = {Path(name) for name in mapped | held if name.startswith("/") and "memfd:" not in name}

    # Then what was not measured are QEMU's libraries and modules, which nobody but root writes: the
    # host's IMA list has them
    libraries = {path for path in files if path.is_relative_to("/usr/lib")}
    own = {path for path in files if path.is_relative_to(hosted.host / "run" / "pairs")}
    assert {path.name for path in own} <= {"console.log", "hypervisor.log", "qmp.log", "roms"}
    assert files - libraries - own <= {Path("/usr/bin/qemu-system-x86_64"), Path("/dev/null")}
    for path in libraries:
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o022) == (0, 0), path


@pytest.mark.parametrize("key", ["fw_cfg", "gdb", "arguments", "drive"])
def test_a_library_cannot_ask_for_what_is_not_measured(key: str) -> None:
    # Given a library whose entry has a key that stands for nothing measured
    entries = {"web": {**guest_entry(), key: "evil"}}
    payload = json.dumps(library(entries=entries)).encode()

    # When it is read
    with pytest.raises(UntrustedInput) as raised:
        parse_manifest(payload)

    # Then it is refused, and the place is named
    assert raised.value.code == "TDM-MANIFEST-BAD"
    assert key in raised.value.problem
    assert "web" in raised.value.problem


@pytest.mark.parametrize(
    "change", [{"fw_cfg": ["evil"]}, {"network": ["tap"]}, {"user_configuration": True}]
)
def test_a_driver_starts_nothing_of_an_unknown_configuration(change: dict[str, object]) -> None:
    # Given a configuration with more in it than the driver carries out
    entry = Forge().manifest.entries["web"]
    configuration = machine_configuration(entry, "tcg") | change  # type: ignore[arg-type]
    members = (each.name for each in fields(qemu_args.Numbers))
    numbers = qemu_args.Numbers(**dict.fromkeys(members, 0))  # type: ignore[arg-type]

    # When QEMU's arguments are asked for
    with pytest.raises(HostError) as raised:
        qemu_args.arguments(configuration, None, numbers)

    # Then there are none
    assert raised.value.code == "TDM-QEMU-CONFIGURATION-UNKNOWN"


@pytest.mark.parametrize("change", [{"memory_mib": 512}, {"cpus": 2}, {"cpu": "max,+vmx"}], ids=str)
def test_another_machine_is_in_pcr_17_and_in_the_verdict(
    make_pair: Callable[..., PairUnderTest], change: dict[str, object]
) -> None:
    # Given the launch of an entry, and of the same with another machine, both signed
    good, evil = changed(), changed(machine=MACHINE | change)

    # When both are launched, and the second one's evidence is appraised by the first one's library
    registers = [registers_of(make_pair, events) for events in (good, evil)]
    found = against(verdict_on(evil))

    # Then PCR 17 differs and 18 does not, and the finding shows what was changed
    assert registers[0][17] != registers[1][17]
    assert registers[0][18] == registers[1][18]
    [name] = change
    assert name in found[Rule.CONFIGURATION.title].found


@pytest.mark.parametrize("device", ["virtio-9p-pci", "vhost-vsock-pci", "edu"])
def test_another_device_is_in_the_verdict(device: str) -> None:
    # Given a launch whose measured machine has one device more than its entry
    events = [with_device(event, device) for event in changed()]

    # When its evidence is appraised
    found = against(verdict_on(events))

    # Then the finding names the device
    assert device in found[Rule.CONFIGURATION.title].found


def with_device(event: LaunchEvent, device: str) -> LaunchEvent:
    """Add a device to the configuration that an event measures."""
    if event.tag is not Tag.CONFIGURATION:
        return event
    fields = json.loads(event.data)
    return json_event(event.tag, {**fields, "devices": [{"driver": device}, *fields["devices"]]})
