"""A launch: measured before the guest's first instruction, fresh, and never twice."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest

from tandem.evidence.attest import parse_quote
from tandem.evidence.event_log import parse_event_log
from tandem.evidence.pair_record import parse_pair_record
from tandem.evidence.pcr_values import replay
from tandem.vtpm.authorizations import LOCKOUT_AUTH_SET, PERMANENT
from tandem.vtpm.provisioning import AK_HANDLE
from tandem.wire import tpm_commands as tpm
from tandem.wire.control import Command
from tandem.wire.tpm_commands import Code, StartupType
from tests.integration.vtpm.guest import Guest
from tests.integration.vtpm.manager_double import ManagerDouble
from tests.integration.vtpm.pair_harness import LAUNCH_LOG, PairUnderTest, gone

MakePair = Callable[..., PairUnderTest]


def test_the_launch_registers_are_what_the_launch_log_explains(pair: PairUnderTest) -> None:
    # Given a guest
    guest = Guest(pair)

    # When it starts its TPM
    guest.start()

    # Then PCR 17 and 18 are the replay of the builder's log, in both banks
    expected = replay(parse_event_log(LAUNCH_LOG))
    for bank, name in ((tpm.SHA256, "sha256"), (tpm.SHA384, "sha384")):
        assert guest.register(17, bank) == expected[name][17]
        assert guest.register(18, bank) == expected[name][18]


@pytest.mark.parametrize("register", [17, 18])
def test_a_guest_cannot_extend_a_launch_register(pair: PairUnderTest, register: int) -> None:
    # Given a started guest, at locality 0 and then 1
    guest = Guest(pair)
    guest.start()
    before = guest.register(register)

    # When it extends a launch register
    codes = [guest.code(tpm.pcr_extend(register, {tpm.SHA256: bytes(32)}))]
    assert pair.ask(Command.SET_LOCALITY, 1, 0, 0, 0) == bytes(4)
    codes.append(guest.code(tpm.pcr_extend(register, {tpm.SHA256: bytes(32)})))

    # Then it gets TPM_RC_LOCALITY, and the register keeps its value
    assert codes == [0x907, 0x907]
    assert guest.register(register) == before


def test_a_first_startup_of_state_is_refused_and_clear_still_works(pair: PairUnderTest) -> None:
    # Given a guest that wants to resume
    guest = Guest(pair)

    # When it sends Startup(STATE)
    code = guest.code(tpm.startup(StartupType.STATE))

    # Then it gets TPM_RC_VALUE for its first parameter, and Startup(CLEAR) is still open to it
    assert code == 0x1C4
    guest.start()


def test_no_register_of_one_launch_is_seen_in_the_next(make_pair: MakePair) -> None:
    # Given a guest that extended PCR 10, sent Shutdown(STATE) and ended
    first = begin(make_pair)
    guest = Guest(first)
    guest.start()
    assert guest.code(tpm.pcr_extend(10, {tpm.SHA256: b"\x01" * 32})) == 0
    assert guest.code(tpm.shutdown(StartupType.STATE)) == 0
    first.kill_guest()
    assert gone(first.pidfd, 1.0)

    # When the next launch's first command is Startup(STATE), and then Startup(CLEAR)
    second = Guest(begin(make_pair))
    resumed = second.code(tpm.startup(StartupType.STATE))
    second.start()

    # Then nothing was resumed
    assert resumed == 0x1C4
    assert second.register(10) == bytes(32)


@pytest.mark.parametrize("orderly", [True, False])
def test_the_counts_of_each_launch_are_those_that_its_record_expects(
    make_pair: MakePair, orderly: bool
) -> None:
    # Given three launches of one vTPM, ended in order or by the power
    counts = []
    for _ in range(3):
        pair = begin(make_pair)
        guest = Guest(pair)
        guest.start()

        # When the guest asks for a deep quote
        quote = guest.deep_quote()

        # Then the quote's counts are those of the pair record, which the vTPM promised beforehand
        record = parse_pair_record(quote.record)
        attest = parse_quote(quote.vtpm_attest)
        expected = (record.reset_count, record.restart_count)
        assert (attest.reset_count, attest.restart_count) == expected
        counts.append(expected)
        if orderly:
            pair.kill_guest()
        else:
            os.kill(pair.pid, 9)
        assert gone(pair.pidfd, 1.0)

    # and no two launches have the same
    assert len(set(counts)) == len(counts)


def test_an_init_under_a_live_guest_ends_the_pair(pair: PairUnderTest) -> None:
    # Given a started guest
    Guest(pair).start()

    # When the hypervisor initializes the TPM again
    pair.ask(Command.STOP)
    answer = pair.ask(Command.INIT, 0)

    # Then it is refused, and both halves end
    assert answer not in (bytes(4), b"")
    assert pair.ended().code == "TDM-VTPM-RESET-REFUSED"
    assert gone(pair.pidfd, 1.0)
    assert gone(pair.guest_pidfd, 1.0)


def test_before_init_a_command_fails_without_reaching_the_engine(make_pair: MakePair) -> None:
    # Given a vTPM with its data connection, not initialized
    pair = make_pair()
    pair.ready()
    pair.start_guest()
    pair.ask(Command.SET_DATAFD, descriptors=[pair.vtpm_data.fileno()])

    # When QEMU's probe comes, and even a Startup
    answers = [pair.execute(tpm.read_clock()), pair.execute(tpm.startup(StartupType.CLEAR))]

    # Then both get the bare failure that QEMU expects, and INIT and Startup still work after it
    assert answers == [bytes.fromhex("80010000000a00000101")] * 2
    pair.ask(Command.INIT, 0)
    Guest(pair).start()


def test_a_guest_that_the_vtpm_cannot_watch_does_not_start_its_tpm(make_pair: MakePair) -> None:
    # Given a hypervisor whose process the builder has not named yet
    pair = make_pair()
    pair.ready()
    pair.start_guest(name=False)
    pair.connect()

    # When its guest starts the TPM
    pair.data.sendall(tpm.startup(StartupType.CLEAR))
    pair.data.settimeout(0.3)
    with pytest.raises(TimeoutError):
        pair.data.recv(10)

    # Then it waits until the process is named
    pair.name_guest()
    pair.data.settimeout(5)
    assert pair.data.recv(10)[6:] == bytes(4)


@pytest.mark.parametrize(("firmware", "code"), [(True, 0), (False, 0x9A2)])
def test_platform_auth_is_set_by_the_vtpm_only_where_no_firmware_does(
    make_pair: MakePair, firmware: bool, code: int
) -> None:
    # Given a guest with firmware, or without
    guest = Guest(begin(make_pair, firmware=firmware))
    guest.start()

    # When it uses the platform hierarchy with an empty authorization
    # Then that works where its firmware will change it, and gets TPM_RC_BAD_AUTH elsewhere
    assert guest.code(tpm.hierarchy_change_auth(tpm.PLATFORM, b"mine")) == code


@pytest.mark.parametrize("strict", [False, True])
def test_lockout_auth_is_set_by_the_vtpm_only_where_the_entry_is_strict(
    make_pair: MakePair, strict: bool
) -> None:
    # Given a guest whose entry is strict, or not
    guest = Guest(begin(make_pair, strict=strict))
    guest.start()

    # When its system looks whether lockoutAuth is set, and then wants to set it
    asked = guest.run(tpm.get_capability(tpm.CAPABILITY_PROPERTIES, PERMANENT, 1)).parameters
    code = guest.code(tpm.hierarchy_change_auth(tpm.LOCKOUT, b"mine"))

    # Then it may where the entry leaves it to it, and only there
    assert bool(int.from_bytes(asked[-4:]) & LOCKOUT_AUTH_SET) is strict
    assert (code == 0) is not strict


def test_the_ak_cannot_be_used_or_evicted_by_the_guest(make_pair: MakePair) -> None:
    # Given a guest without firmware
    guest = Guest(begin(make_pair, firmware=False))
    guest.start()

    # When it quotes with the AK, evicts it as owner, and tries the platform
    quoting = guest.code(tpm.quote(AK_HANDLE, b"", b"", [0]))
    by_owner = guest.code(tpm.evict_control(tpm.OWNER, AK_HANDLE, AK_HANDLE))
    by_platform = guest.code(tpm.evict_control(tpm.PLATFORM, AK_HANDLE, AK_HANDLE))

    # Then each is refused, without counting towards lockout
    assert quoting == 0x9A2  # TPM_RC_BAD_AUTH of session 1
    assert by_owner != 0
    assert by_platform == 0x9A2


def test_only_sha256_and_sha384_banks_exist(pair: PairUnderTest) -> None:
    # Given a started guest
    guest = Guest(pair)
    guest.start()

    # When the allocated banks are listed (TPM_CAP_PCRS)
    parameters = guest.run(tpm.get_capability(5, 0, 1)).parameters
    (count,) = struct.unpack_from(">I", parameters, 5)
    banks = [struct.unpack_from(">HB3s", parameters, 9 + 6 * number) for number in range(count)]

    # Then no other bank has a register
    assert {bank for bank, _, bitmap in banks if bitmap != bytes(3)} == {tpm.SHA256, tpm.SHA384}


def test_the_endorsement_keys_have_their_certificates(
    pair: PairUnderTest, manager: ManagerDouble
) -> None:
    # Given a started guest
    guest = Guest(pair)
    guest.start()

    # When it reads the NV indices of the EK credential profile
    # Then each begins with a DER certificate, and their objects are persistent
    for index in (0x01C00002, 0x01C0000A):
        read = guest.run(tpm.nv_read(index, index, 64, 0, tpm.password()))
        assert read.parameters[2:4] == b"\x30\x82"
    assert {0x81010001, 0x81010016, AK_HANDLE} <= set(guest.handles(0x81000000))


def test_the_vendor_command_is_listed_and_counted(pair: PairUnderTest) -> None:
    # Given a started guest
    guest = Guest(pair)
    guest.start()

    # When Linux counts commands, and lists as many
    total = guest.run(tpm.get_capability(tpm.CAPABILITY_PROPERTIES, 0x129, 1)).parameters
    (count,) = struct.unpack_from(">I", total, 13)
    listed = guest.run(tpm.get_capability(tpm.CAPABILITY_COMMANDS, 0x11F, count)).parameters

    # Then the list is complete and ends with the vendor command
    assert struct.unpack_from(">BII", listed) == (0, tpm.CAPABILITY_COMMANDS, count)
    assert listed[-4:] == Code.DEEP_QUOTE.to_bytes(4)


def begin(make_pair: MakePair, **options: object) -> PairUnderTest:
    """Give a pair whose guest is about to send its first command."""
    pair = make_pair(**options)
    pair.ready()
    pair.start_guest()
    pair.connect()
    return pair
