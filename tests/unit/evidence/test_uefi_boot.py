"""Pieces of a boot, read as firmware and boot loaders read them."""

from __future__ import annotations

import datetime
import hashlib
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tandem.errors import Refused, UntrustedInput
from tandem.evidence.boot_options import (
    ACTIVE,
    AUTOMATIC,
    END,
    BootManager,
    LoadOption,
    parse_load_option,
    pci_path,
    refresh,
)
from tandem.evidence.fat import FatFiles
from tandem.evidence.firmware_volume import (
    MAX_COMPRESSED,
    Volume,
    measured_volumes,
)
from tandem.evidence.gpt import parse_gpt
from tandem.evidence.guid import EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE
from tandem.evidence.kernel_image import Started, load_options, systemd_program, unified_events
from tandem.evidence.pe_image import parse_pe
from tandem.evidence.prediction import Part, Prediction, predicted
from tandem.evidence.qemu_kernel import as_loaded
from tandem.evidence.signature_database import authority, certificate_names
from tandem.evidence.systemd_boot import LOADER, chosen_entry, compare_versions, extra_files
from tandem.evidence.variable_store import BEING_DELETED, SECURE_BOOT_ENABLE, parse_variable_store
from tests.unit.evidence.uefi_writer import (
    compressed,
    fat_partition,
    firmware_image,
    gpt_disk,
    pe_image,
    signature_list,
    variable_store,
    volume_section,
)

NO_VOLUME = Volume(data=b"", name=bytes(16))
KERNEL = pe_image({b".text": b"code"})


def unified(release: str, command_line: bytes = b"quiet\n") -> bytes:
    return pe_image({b".osrel": release.encode(), b".cmdline": command_line, b".linux": KERNEL})


def store_of(**variables: bytes) -> bytes:
    return variable_store({(EFI_GLOBAL_VARIABLE, name): data for name, data in variables.items()})


def test_a_signature_does_not_change_what_it_is_over() -> None:
    # Given one application, without a signature and with one
    sections = {b".text": b"code", b".data": b"data"}

    # When firmware's digest of each is computed
    plain = parse_pe(pe_image(sections)).authenticode("sha256")
    signed = parse_pe(pe_image(sections, b"\x30\x02\x05\x00")).authenticode("sha256")

    # Then they are the same, and another section's content gives another
    assert plain == signed
    assert plain != parse_pe(pe_image({b".text": b"c0de", b".data": b"data"})).authenticode(
        "sha256"
    )


def test_the_padding_of_a_certificate_table_is_not_a_part_of_the_signature() -> None:
    # Given a signature of four bytes in a table of eight
    image = parse_pe(pe_image({b".text": b"x"}, b"\x30\x02\x05\x00"))

    # When the signatures are read
    # Then there is that one, without the padding
    assert image.signatures == (b"\x30\x02\x05\x00",)


def test_a_section_is_as_long_as_it_is_in_memory() -> None:
    # Given a section that its file pads
    image = parse_pe(pe_image({b".cmdline": b"quiet"}))

    # When its content is taken
    section = image.section(b".cmdline")

    # Then the padding is no part of it
    assert section is not None
    assert image.content(section) == b"quiet"


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({(EFI_GLOBAL_VARIABLE, "PK"): b"key"}, True),
        ({(EFI_GLOBAL_VARIABLE, "PK"): b"key", (SECURE_BOOT_ENABLE, "SecureBootEnable"): b"\0"},
         False),
    ],
)  # fmt: skip
def test_secure_boot_takes_a_platform_key_and_no_switch_against_it(
    variables: dict[tuple[bytes, str], bytes], on: bool
) -> None:
    # Given a store of variables
    # When it is read
    store = parse_variable_store(variable_store(variables))

    # Then Secure Boot is on as firmware would have it
    assert store.secure_boot is on


def test_a_variable_that_is_being_replaced_still_counts() -> None:
    # Given a store that a power loss left with a variable whose successor was not written
    data = variable_store({(EFI_GLOBAL_VARIABLE, "BootOrder"): b"\1\0"}, BEING_DELETED)

    # When it is read
    store = parse_variable_store(data)

    # Then the variable has its value
    assert store.read(EFI_GLOBAL_VARIABLE, "BootOrder") == b"\1\0"


def test_files_of_a_partition_are_found_whatever_the_case_of_their_names() -> None:
    # Given a disk with a file of several clusters in folders with long names
    content = bytes(range(256)) * 20
    disk = gpt_disk(fat_partition({"EFI/Linux/Tandem guest.efi": content, "empty": b""}))

    # When its partition is read
    [partition] = parse_gpt(disk, len(disk)).partitions
    files = FatFiles(partition.content(disk))

    # Then the file is whole, the empty one is empty, and what is not there is not
    assert files.read("efi/linux/TANDEM GUEST.EFI") == content
    assert files.read("empty") == b""
    assert files.read("EFI/Linux") is None
    assert files.read("EFI/none") is None


def test_a_table_of_partitions_is_measured_without_its_free_entries() -> None:
    # Given a disk with one partition of 128 entries
    disk = gpt_disk(bytes(512 * 8))

    # When its table is read
    table = parse_gpt(disk, len(disk))

    # Then the event has the header, a count and that entry
    assert len(table.event_data) == 92 + 8 + 128
    assert struct.unpack_from("<Q", table.event_data, 92) == (1,)


def test_the_boot_manager_keeps_a_users_options_and_renews_its_own() -> None:
    # Given an option of a user, and one that the boot manager made for a disk that has gone
    users = LoadOption(attributes=ACTIVE, description="mine", path=END)
    old = LoadOption(attributes=ACTIVE, description="UEFI Misc Device", path=pci_path(9, 0) + END,
                     data=AUTOMATIC)  # fmt: skip
    manager = BootManager(numbers=[3, 0], options={3: users, 0: old})

    # When it looks at the disks that are there
    refresh(manager, NO_VOLUME, [(2, 0), (4, 0)])

    # Then the user's is first as before, and each disk has one, under the numbers that were free
    assert manager.numbers == [3, 0, 1]
    assert [manager.options[each].description for each in manager.numbers] == [
        "mine",
        "UEFI Misc Device",
        "UEFI Misc Device 2",
    ]


@pytest.mark.parametrize("name", ["Tandem", "\ud800"])
def test_a_load_option_reads_back(name: str) -> None:
    # Given an option with all its parts, also one whose name is not quite UTF-16
    option = LoadOption(attributes=1, description=name, path=pci_path(2, 0) + END, data=b"x\0")

    # When it is written and read
    # Then it is the same
    assert parse_load_option(option.encode()) == option


@pytest.mark.parametrize(
    ("older", "newer"),
    [("123~rc1-1", "123"), ("123", "123-a"), ("123-a", "123-a.1"), ("123-1.1", "123^post1"),
     ("123^post1", "123.a-1"), ("123.1-1", "123a-1"), ("6.1.9", "6.1.10"), ("a", "1"),
     ("09", "10"), ("8" * 5000, "9" * 5000)],
)  # fmt: skip
def test_versions_are_compared_as_systemd_boot_does(older: str, newer: str) -> None:
    # Given two versions, as systemd's own documentation orders them
    # When they are compared
    # Then the older is below the newer, and the other way round
    assert compare_versions(older, newer) < 0 < compare_versions(newer, older)


def test_systemd_boot_starts_the_newest_image_unless_told_another() -> None:
    # Given two images of one system, and one of another that the settings name
    images = {
        "EFI/Linux/a.efi": unified("ID=tandem\nVERSION_ID=9\n"),
        "EFI/Linux/b.efi": unified("ID=tandem\nVERSION_ID=10\n"),
        "EFI/Linux/z.efi": unified("ID=other\n"),
    }
    named = images | {"loader/loader.conf": b"timeout 0\ndefault Z.efi\n"}
    wanted = variable_store({(LOADER, "LoaderEntryDefault"): "a*\0".encode("utf-16-le")})

    # When it chooses, from the images alone, by the settings, and by a variable
    empty = parse_variable_store(store_of())
    newest = chosen_entry(FatFiles(fat_partition(images)), parse_variable_store(store_of()))
    by_settings = chosen_entry(FatFiles(fat_partition(named)), empty)
    by_variable = chosen_entry(FatFiles(fat_partition(named)), parse_variable_store(wanted))

    # Then it is the first of the menu, the one named, and the variable before both
    assert newest.name == "z.efi"  # its sort key is the first
    assert by_settings.name == "z.efi"
    assert by_variable.name == "a.efi"
    assert by_variable.options == load_options("quiet")


@pytest.mark.parametrize(
    "files",
    [
        {"loader/entries/x.conf": b"linux /vmlinuz\n"},
        {"EFI/systemd/drivers/x.efi": b"MZ"},
        {"EFI/Linux/x+3.efi": b"MZ"},
        {"loader/loader.conf": b"default @saved\n"},
        {},
    ],
)
def test_what_cannot_be_foreseen_is_refused(files: dict[str, bytes]) -> None:
    # Given an image, and a disk with something that may change what is started
    image = {"EFI/Linux/a.efi": unified("ID=tandem\n")} if files else {"x": b""}

    # When systemd-boot's choice is asked for
    # Then it is refused by name
    with pytest.raises(Refused, match="cannot be foreseen"):
        chosen_entry(FatFiles(fat_partition({**image, **files})), parse_variable_store(store_of()))


def test_credentials_beside_an_image_are_found() -> None:
    # Given a credential for all images and one for this
    path = "EFI/Linux/a.efi"
    files = FatFiles(
        fat_partition({"loader/credentials/x.cred": b"x", f"{path}.extra.d/y.cred": b"y"})
    )

    # When what the stub passes on is listed
    # Then both are named
    assert extra_files(files, path) == ("loader/credentials/x.cred", f"{path}.extra.d/y.cred")


def test_a_given_command_line_counts_only_where_secure_boot_is_off() -> None:
    # Given a unified kernel image with a command line, started with another
    image = parse_pe(unified("ID=x\n"))
    given = load_options("init=/bin/sh")

    # When it starts with Secure Boot off, and on
    off = unified_events(image, parse_pe(KERNEL), Started(secure_boot=False, options=given))
    on = unified_events(image, parse_pe(KERNEL), Started(secure_boot=True, options=given))

    # Then it is measured and used in the one case, and the built-in one in the other
    digest = {"given": hashlib.sha256(given).digest(),
              "own": hashlib.sha256(load_options("quiet")).digest()}  # fmt: skip
    assert [e.register for e in off if e.digests["sha256"] == (digest["given"],)] == [12, 9]
    assert [e.register for e in on if e.digests["sha256"] == (digest["own"],)] == [9]
    assert not [e for e in on if e.register in (4, 12)]


def test_an_image_that_no_key_in_db_signed_is_refused() -> None:
    # Given an unsigned application, and a database with a certificate
    image = parse_pe(KERNEL)

    # When the key that vouches for it is looked for
    # Then Secure Boot would not let it run
    with pytest.raises(Refused, match="Secure Boot will not let it run"):
        authority(image, signature_list(b"certificate"), b"", "it")


def certificate() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(5)
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=9))
    return builder.public_key(key.public_key()).sign(key, hashes.SHA256())


def changed(data: bytes, old: str, new: str) -> bytes:
    assert bytes.fromhex(old) in data
    return data.replace(bytes.fromhex(old), bytes.fromhex(new))


VERSION_3, VERSION_8 = "a003020102", "a003020107"
P256, NO_CURVE = "06082a8648ce3d030107", "06082a8648ce3d030150"
PLAIN_DATA = bytes.fromhex("301506092a864886f70d010701a0080406414141414141")  # no SignedData


@pytest.mark.parametrize("piece", [(VERSION_3, VERSION_8), (P256, NO_CURVE)])
def test_certificates_of_an_unknown_kind_vouch_for_nothing(piece: tuple[str, str]) -> None:
    # Given a certificate of a version or on a curve that nobody knows
    good = certificate()
    der = good.public_bytes(Encoding.DER)
    signature = pkcs7.serialize_certificates([good], Encoding.DER)
    database = signature_list(changed(der, *piece))
    signed = parse_pe(pe_image({b".text": b"code"}, signature))
    by_unknown = parse_pe(pe_image({b".text": b"code"}, changed(signature, *piece)))

    # When it stands in db, or in the signature of an application
    # Then the application is refused, and the certificate has a line for people
    for image, db in ((signed, database), (by_unknown, signature_list(der))):
        with pytest.raises(Refused, match="no signature of it is by a key in db"):
            authority(image, db, b"", "it")
    assert len(list(certificate_names(database))) == 1


def test_a_signature_that_is_no_signed_data_vouches_for_nothing() -> None:
    # Given an application whose signature is PKCS #7, but plain data
    image = parse_pe(pe_image({b".text": b"code"}, PLAIN_DATA))
    db = signature_list(certificate().public_bytes(Encoding.DER))

    # When the key that vouches for it is looked for
    # Then it is refused
    with pytest.raises(Refused, match="no signature of it"):
        authority(image, db, b"", "it")


def test_a_loader_with_an_endless_version_is_refused() -> None:
    # Given a boot loader whose version has more digits than Python reads
    magic = b"#### LoaderInfo: systemd-boot " + b"9" * 5000 + b" ####"

    # When its kind is asked for
    # Then it is refused by name
    with pytest.raises(Refused, match="may measure in another way"):
        systemd_program(parse_pe(pe_image({b".sdmagic": magic})))


def test_a_kernel_without_a_setup_header_is_handed_over_as_it_is() -> None:
    # Given an EFI application that is no Linux kernel
    # When QEMU hands it to the firmware
    # Then nothing in it changes
    assert as_loaded(KERNEL.ljust(9000, b"\0"), 5, 256) == KERNEL.ljust(9000, b"\0")


def test_a_register_has_a_value_for_each_alternative_and_zero_for_none() -> None:
    # Given a register with an event that may be of two things, and one without events
    event = predicted(0, Part.FIRMWARE, "volume", b"narrow", b"wide")
    prediction = Prediction(secure_boot=False, events=(event,), unpredicted={})

    # When the values are computed
    # Then there are two, in either bank, and a zero
    assert len(set(prediction.values(0))) == 2
    assert len(prediction.values(0, "sha384")[0]) == 48
    assert prediction.values(3) == (bytes(32),)


def test_the_databases_of_secure_boot_have_their_own_vendor() -> None:
    # Given a store with db
    store = parse_variable_store(variable_store({(IMAGE_SECURITY_DATABASE, "db"): b"list"}))

    # When it is read by name
    # Then it is found there, and not among the global variables
    assert store.security("db") == b"list"
    assert store.read(EFI_GLOBAL_VARIABLE, "db") == b""


def test_an_image_of_many_compressed_sections_is_not_unpacked_for_ever() -> None:
    # Given volumes that are within a compressed section, behind sections that unpack to nothing
    inner = firmware_image(b"")
    wanted = firmware_image(compressed(volume_section(inner)))
    empty = firmware_image(compressed(bytes(64)))

    # When an image has as many sections as are looked into, and one more
    found = measured_volumes(empty * (MAX_COMPRESSED - 1) + wanted)

    # Then the volumes are found, and the other image is refused
    assert [each.data for each in found] == [inner]
    with pytest.raises(UntrustedInput, match="no compressed volume"):
        measured_volumes(empty * MAX_COMPRESSED + wanted)
