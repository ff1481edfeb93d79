"""The broker's core and the Manager's gate on a real TPM, in one process."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.broker.connection import Connection
from tandem.wire.broker_rights import Range, Rights, RightsFile
from tandem.wire.tpm_commands import NULL, OWNER, get_capability, sized
from tandem.wire.tpm_requests import code_of
from tandem.wire.tpm_table import TABLE, Rule
from tests import gated_tpm as tpm
from tests.gated_tpm import GatedTpm, SoftwareTpm, ask, body, handle_of

REFUSED = 0x000B0000
USER, OTHER, BLIND = 1000, 1001, 1002
INDEX, PERSISTENT = 0x01500000, 0x81008000
RIGHTS = RightsFile(
    default=None,
    users={
        USER: Rights(
            extend=frozenset({16}),
            nv=(Range(first=INDEX, last=INDEX + 3),),
            nv_size=64,
            nv_writes=4,
            persistent=(Range(first=PERSISTENT, last=PERSISTENT + 1),),
        ),
        OTHER: Rights(nv=(Range(first=INDEX + 16, last=INDEX + 19),)),
        BLIND: Rights(read_registers=False),
    },
)
HANDLE_1, HANDLE_2, PARAMETER_1, PARAMETER_2 = 0x18B, 0x28B, 0x1CB, 0x2CB
NO_POINT = sized(bytes(4)) + sized(b"") * 2  # of TPM2_Commit: P1, s2 and y2 left out
LOCALITY, LOCKOUT, EXCLUSIVE, NV_RATE = 0x907, 0x921, 0x121, 0x920


@pytest.fixture(name="plain")
def _plain(tmp_path: Path) -> Iterator[SoftwareTpm]:
    """A TPM with nothing before it."""
    with tpm.software_tpm(tmp_path) as plain:
        yield plain


@pytest.fixture(name="gated")
def _gated(plain: SoftwareTpm) -> GatedTpm:
    """The same TPM behind gate and broker."""
    return GatedTpm(plain, RIGHTS)


def test_the_tables_handles_are_the_tpms(plain: SoftwareTpm) -> None:
    # Given the attributes that a TPM gives for each command (TPMA_CC: Part 2, 8.9)
    answer = plain.transceive(get_capability(2, 0, 254))
    attributes = struct.unpack(f">{int.from_bytes(answer[15:19])}I", answer[19:])

    # When they are compared with the table
    known = {each & 0xFFFF: each for each in attributes if not each >> 29 & 1}

    # Then handles in command and response, and what is flushed, are the same in both
    for code, found in known.items():
        row = TABLE[code]
        assert len(row.places) == found >> 25 & 7, row.name
        has_handle = row.creates is not None or row.name == "ContextLoad"
        assert has_handle == bool(found >> 28 & 1), row.name
        assert (row.ends is not None) == bool(found >> 24 & 1), row.name
    assert len(known) > 90


def test_a_key_is_made_loaded_and_used_with_two_commands_only_where_nothing_is_swapped(
    gated: GatedTpm,
) -> None:
    # Given a client with a storage key and a signing key below it
    client = gated.connect(USER)
    parent = handle_of(client.execute(tpm.create_primary()))
    key = handle_of(client.execute(ask("Load", parent, parameters=_created(client, parent))))

    # When it signs ten times
    gated.tpm.asked.clear()
    for _ in range(10):
        assert code_of(client.execute(_sign(key))) == 0

    # Then the TPM was asked for ten signatures and for nothing else
    assert gated.tpm.asked == {tpm.CODES["Sign"]: 10}


def test_more_keys_than_slots_are_used_in_turn(gated: GatedTpm) -> None:
    # Given a client that loads three times as many keys as a TPM has slots
    client = gated.connect(USER)
    secrets = [bytes([number]) for number in range(9)]
    keys = [handle_of(client.execute(tpm.load_hmac_key(secret))) for secret in secrets]

    # When it uses each, twice
    used = [body(client.execute(tpm.hmac_of(key, b"data"))) for key in keys * 2]

    # Then each is the key that it was, and each was saved once
    expected = [sized(_hmac(secret, b"data")) for secret in secrets]
    assert used == expected * 2
    assert gated.tpm.asked[tpm.CODES["ContextSave"]] == len(keys)


def test_a_sequence_goes_on_after_its_slot_was_needed(gated: GatedTpm) -> None:
    # Given two clients, each in the middle of a hash sequence
    clients = [gated.connect(USER), gated.connect(OTHER)]
    sequences = [handle_of(client.execute(tpm.start_hash())) for client in clients]

    # When they go on in turn, and use keys that need the slots
    for number in range(4):
        for client, sequence in zip(clients, sequences, strict=True):
            client.execute(tpm.update_hash(sequence, bytes([number])))
            client.execute(tpm.load_hmac_key(b"key"))

    # Then each gets the digest of its own data, though both have the same handle
    assert sequences[0] == sequences[1]
    for client, sequence in zip(clients, sequences, strict=True):
        digest = body(client.execute(tpm.complete_hash(sequence)))[2:34]
        assert digest == hashlib.sha256(bytes(range(4))).digest()


def test_a_saved_key_is_loaded_by_its_client_on_another_connection_alone(gated: GatedTpm) -> None:
    # Given a client that saved a key and left
    first = gated.connect(USER)
    key = handle_of(first.execute(tpm.load_hmac_key(b"key")))
    saved = first.execute(tpm.save(key))
    first.close()

    # When the same client, another one, and the owner of the TPM load it
    again = gated.connect(USER).execute(tpm.load(saved))
    foreign = gated.connect(OTHER).execute(tpm.load(saved))
    changed = bytearray(saved)
    changed[30] ^= 1
    forged = gated.connect(USER).execute(tpm.load(bytes(changed)))

    # Then only its client gets it, and only as it was
    assert code_of(again) == 0
    assert code_of(foreign) == code_of(forged) == REFUSED | 0x1DF


def test_the_control_a_plain_tpm_loads_anybodys_context(plain: SoftwareTpm) -> None:
    # Given a plain TPM and a context that one program saved
    key = handle_of(plain.transceive(tpm.load_hmac_key(b"key")))
    saved = plain.transceive(tpm.save(key))
    plain.transceive(tpm.flush(key))

    # When another program loads it
    # Then it has the key
    assert code_of(plain.transceive(tpm.load(saved))) == 0


def test_a_saved_session_goes_on_on_the_clients_next_connection(gated: GatedTpm) -> None:
    # Given a client that put a policy session aside and left, as tpm2-tools does
    first = gated.connect(USER)
    session = handle_of(first.execute(tpm.start_policy_session()))
    restrict = ask("PolicyCommandCode", session, parameters=tpm.CODES["Sign"].to_bytes(4))
    assert code_of(first.execute(restrict)) == 0
    saved = first.execute(tpm.save(session))
    first.close()

    # When it comes back, and another client tries
    second = gated.connect(USER)
    foreign = gated.connect(OTHER).execute(tpm.load(saved))
    loaded = handle_of(second.execute(tpm.load(saved)))
    digest = second.execute(ask("PolicyGetDigest", loaded))[12:]

    # Then it is the same session, once, and nobody else's
    code = tpm.CODES["PolicyCommandCode"].to_bytes(4) + tpm.CODES["Sign"].to_bytes(4)
    assert digest == hashlib.sha256(bytes(32) + code).digest()
    assert code_of(foreign) == REFUSED | 0x1DF
    assert code_of(second.execute(tpm.load(saved))) == REFUSED | PARAMETER_1


def test_the_managers_needs_cost_a_client_nothing(gated: GatedTpm) -> None:
    # Given a client with two loaded keys and three loaded sessions
    client = gated.connect(USER)
    keys = [handle_of(client.execute(tpm.load_hmac_key(bytes([n])))) for n in (1, 2)]
    sessions = [handle_of(client.execute(tpm.start_policy_session())) for _ in range(3)]

    # When the Manager takes every slot, and fills them
    with gated.gate.cleared(), gated.gate.cleared():
        own = [handle_of(gated.tpm.transceive(tpm.load_hmac_key(b"m"))) for _ in range(3)]
        started = [handle_of(gated.tpm.transceive(tpm.start_policy_session())) for _ in range(3)]
        for handle in (*own, *started):
            gated.tpm.transceive(tpm.flush(handle))

    # Then the client goes on as before
    for number, key in zip((1, 2), keys, strict=True):
        made = body(client.execute(tpm.hmac_of(key, b"data")))
        assert made == sized(_hmac(bytes([number]), b"data"))
    for session in sessions:
        assert code_of(client.execute(ask("PolicyGetDigest", session))) == 0


def test_what_is_lost_is_refused_and_is_nobody_elses(gated: GatedTpm) -> None:
    # Given two clients with a key each, and a TPM that loses both
    clients = [gated.connect(USER), gated.connect(OTHER)]
    keys = [handle_of(each.execute(tpm.load_hmac_key(b"key"))) for each in clients]
    sessions = [handle_of(each.execute(tpm.start_policy_session())) for each in clients]
    gated.gate.close()

    # When others load keys and start sessions in their place
    third = gated.connect(USER)
    other = [handle_of(third.execute(tpm.load_hmac_key(b"other"))) for _ in range(3)]
    again = [handle_of(third.execute(tpm.start_policy_session())) for _ in range(2)]

    # Then the lost ones are refused, and the new ones work
    for client, key, session in zip(clients, keys, sessions, strict=True):
        assert code_of(client.execute(tpm.hmac_of(key, b"data"))) == REFUSED | 0x910
        assert code_of(client.execute(ask("PolicyGetDigest", session))) == REFUSED | 0x910
    for key in other:
        made = body(third.execute(tpm.hmac_of(key, b"data")))
        assert made == sized(_hmac(b"other", b"data"))
    for client in clients:
        client.close()
    for session in again:
        assert code_of(third.execute(ask("PolicyGetDigest", session))) == 0


def test_registers_are_extended_where_granted_and_read_where_not_denied(gated: GatedTpm) -> None:
    # Given clients with and without the right
    user, other, blind = (gated.connect(uid) for uid in (USER, OTHER, BLIND))
    values = (1).to_bytes(4) + b"\x00\x0b" + bytes(32)
    read = ask("PCR_Read", parameters=bytes.fromhex("00000001000b03000001"))

    # When they extend and read
    extended = [
        code_of(client.execute(ask("PCR_Extend", register, parameters=values)))
        for client, register in ((user, 16), (other, 16), (user, 10), (user, 23))
    ]

    # Then the grant decides
    assert extended == [0, REFUSED | LOCALITY, REFUSED | LOCALITY, REFUSED | LOCALITY]
    assert code_of(user.execute(read)) == 0
    assert code_of(blind.execute(read)) == REFUSED | 0x143
    fields = sized(bytes(4)) + sized(tpm.ECC_SIGNING) + sized(b"")
    registers = bytes.fromhex("00000001000b03000001")
    with_registers = ask("CreatePrimary", OWNER, parameters=fields + registers)
    assert code_of(blind.execute(with_registers)) == REFUSED | 0x4C2
    assert code_of(user.execute(with_registers)) == 0


def test_an_index_is_the_clients_own(gated: GatedTpm) -> None:
    # Given a client that defines and writes an index of its range
    user, other = gated.connect(USER), gated.connect(OTHER)
    assert code_of(user.execute(_define(INDEX, 8))) == 0
    write = ask("NV_Write", INDEX, INDEX, parameters=sized(b"contents") + bytes(2))
    assert code_of(user.execute(write)) == 0

    # When it and another one read, list and remove it, and define beyond their ranges
    read = ask("NV_Read", INDEX, INDEX, parameters=b"\x00\x08\x00\x00")
    remove = ask("NV_UndefineSpace", OWNER, INDEX)
    listed = [_listed(client, 0x01000000) for client in (user, other)]

    # Then the other one neither sees nor touches it, and ranges are kept
    assert body(user.execute(read)) == sized(b"contents")
    assert listed == [[INDEX], []]
    assert code_of(other.execute(read)) == REFUSED | HANDLE_1
    assert code_of(other.execute(ask("NV_ReadPublic", INDEX))) == REFUSED | HANDLE_1
    assert code_of(other.execute(remove)) == REFUSED | HANDLE_2
    assert code_of(user.execute(_define(INDEX + 4, 8))) == REFUSED | PARAMETER_2
    assert code_of(user.execute(_define(INDEX + 1, 65))) == REFUSED | 0x2D5
    assert code_of(user.execute(remove)) == 0


def test_nv_memory_is_written_at_a_rate(gated: GatedTpm) -> None:
    # Given a client that may write four times an hour, and another one
    user, other = gated.connect(USER), gated.connect(OTHER)
    write = ask("NV_Write", INDEX, INDEX, parameters=sized(b"contents") + bytes(2))
    assert code_of(user.execute(_define(INDEX, 8))) == 0

    # When it writes without a pause, and again an hour's quarter later
    codes = [code_of(user.execute(write)) for _ in range(5)]
    others = code_of(other.execute(_define(INDEX + 16, 8)))
    gated.time += 900

    # Then it is told to wait, nobody else is, and reading costs nothing
    assert codes == [0] * 3 + [REFUSED | NV_RATE] * 2
    assert others == 0
    assert code_of(user.execute(write)) == 0
    assert code_of(user.execute(write)) == REFUSED | NV_RATE
    assert code_of(user.execute(ask("NV_ReadPublic", INDEX))) == 0


def test_a_broker_that_counts_nothing_writes_at_the_rate_of_all(gated: GatedTpm) -> None:
    # Given a hostile broker, whose clients may write some times an hour together
    together = RIGHTS.union().nv_writes
    assert code_of(gated.gate.execute(_define(INDEX, 8))) == 0
    write = ask("NV_Write", INDEX, INDEX, parameters=sized(b"contents") + bytes(2))

    # When it writes without end
    codes = [code_of(gated.gate.execute(write)) for _ in range(together + 10)]

    # Then the gate ends it
    assert codes.count(0) == together - 1
    assert codes[-1] == REFUSED | NV_RATE


def test_a_persistent_key_is_the_clients_own(gated: GatedTpm) -> None:
    # Given a client that keeps a key at a handle of its range
    user, other = gated.connect(USER), gated.connect(OTHER)
    parent = handle_of(user.execute(tpm.create_primary()))
    keep = ask("EvictControl", OWNER, parent, parameters=PERSISTENT.to_bytes(4))
    assert code_of(user.execute(keep)) == 0

    # When it uses it, and another client tries to, and to remove it
    made = user.execute(ask("ReadPublic", PERSISTENT))
    take = ask("EvictControl", OWNER, PERSISTENT, parameters=PERSISTENT.to_bytes(4))
    beyond = ask("EvictControl", OWNER, parent, parameters=(PERSISTENT + 2).to_bytes(4))

    # Then it is its own alone
    assert code_of(made) == 0
    assert _listed(user, 0x81000000) == [PERSISTENT]
    assert _listed(other, 0x81000000) == []
    assert code_of(other.execute(ask("ReadPublic", PERSISTENT))) == REFUSED | HANDLE_1
    assert code_of(other.execute(take)) == REFUSED | HANDLE_2
    assert code_of(user.execute(beyond)) == REFUSED | PARAMETER_1
    assert code_of(user.execute(take)) == 0


def test_a_persistent_parent_is_used_while_every_slot_is_taken(gated: GatedTpm) -> None:
    # Given a client whose parent is persistent, and that has loaded what it can
    user = gated.connect(USER)
    parent = handle_of(user.execute(tpm.create_primary()))
    user.execute(ask("EvictControl", OWNER, parent, parameters=PERSISTENT.to_bytes(4)))
    for number in range(4):
        handle_of(user.execute(tpm.load_hmac_key(bytes([number]))))

    # When it makes and loads a key below it
    blobs = _created(user, PERSISTENT)
    key = handle_of(user.execute(ask("Load", PERSISTENT, parameters=blobs)))

    # Then it can be used
    assert code_of(user.execute(_sign(key))) == 0


def test_wrong_guesses_lock_who_guesses_and_not_the_tpm(gated: GatedTpm) -> None:
    # Given two clients with keys under dictionary attack protection, and one that is exempt
    guesser, other = gated.connect(USER), gated.connect(OTHER)
    key = handle_of(guesser.execute(tpm.load_hmac_key(b"key", b"right", attributes=0)))
    exempt = handle_of(guesser.execute(tpm.load_hmac_key(b"key", b"right")))
    own = handle_of(other.execute(tpm.load_hmac_key(b"key", b"right", attributes=0)))

    # When one guesses ten times
    codes = [code_of(guesser.execute(tpm.hmac_of(key, b"", b"wrong"))) for _ in range(10)]

    # Then it is refused after the first, with the right password too, until the TPM forgets
    assert codes == [0x98E] + [REFUSED | LOCKOUT] * 9
    assert code_of(guesser.execute(tpm.hmac_of(key, b"", b"right"))) == REFUSED | LOCKOUT
    assert code_of(guesser.execute(tpm.hmac_of(exempt, b"", b"right"))) == 0
    assert code_of(other.execute(tpm.hmac_of(own, b"", b"right"))) == 0
    gated.time += 1001
    assert code_of(guesser.execute(tpm.hmac_of(key, b"", b"right"))) == 0


@pytest.mark.parametrize("taken_over", [False, True])
def test_guesses_through_a_bound_session_lock_nobody(gated: GatedTpm, taken_over: bool) -> None:
    # Given a session bound to a key under dictionary attack protection
    guesser = gated.connect(USER)
    key = handle_of(guesser.execute(tpm.load_hmac_key(b"key", b"right", attributes=0)))
    fields = sized(bytes(16)) + sized(b"") + b"\x00\x00\x10\x00\x0b"
    session = handle_of(guesser.execute(ask("StartAuthSession", NULL, key, parameters=fields)))
    bound = session.to_bytes(4) + sized(bytes(16)) + b"\x81" + sized(b"wrong".ljust(32))

    # When it guesses with commands that authorize nothing
    codes = []
    for _ in range(10):
        if taken_over:
            gated.broker._failures.clear()
        codes.append(code_of(guesser.execute(ask("GetRandom", parameters=bytes(2), auths=[bound]))))

    # Then it is refused before the TPM locks, by the gate where the broker does not
    refused_after = 2 if taken_over else 1
    assert codes == [0x98E] * refused_after + [REFUSED | LOCKOUT] * (10 - refused_after)


def test_no_number_of_guessers_locks_the_tpm(gated: GatedTpm) -> None:
    # Given many clients that guess, through a broker that counts for none of them
    for _ in range(10):
        client = gated.connect(USER)
        key = handle_of(client.execute(tpm.load_hmac_key(b"key", b"right", attributes=0)))
        gated.broker._failures.clear()  # it was taken over
        client.execute(tpm.hmac_of(key, b"", b"wrong"))

    # When the owner of the TPM asks how many failures it counted
    answer = gated.tpm.transceive(get_capability(6, 0x20E, 2))
    _, counted, _, most = struct.unpack(">4I", answer[19:])

    # Then the gate stopped one before the TPM locks
    assert counted == most - 1 == 2


def test_the_control_a_plain_tpm_locks_for_everybody(plain: SoftwareTpm) -> None:
    # Given a plain TPM and one program's key
    key = handle_of(plain.transceive(tpm.load_hmac_key(b"key", b"right", attributes=0)))

    # When another guesses
    for _ in range(3):
        plain.transceive(tpm.hmac_of(key, b"", b"wrong"))

    # Then the right password is refused as well
    assert code_of(plain.transceive(tpm.hmac_of(key, b"", b"right"))) == LOCKOUT


def test_a_client_sees_its_own_alone(gated: GatedTpm) -> None:
    # Given a client with objects and sessions, and the Manager's index and another's key
    plain = gated.tpm
    assert code_of(plain.transceive(_define(0x01800544, 32))) == 0
    user, other = gated.connect(USER), gated.connect(OTHER)
    for client in (user, other):
        for _ in range(3):
            client.execute(tpm.load_hmac_key(b"key"))
        client.execute(tpm.start_policy_session())
    user.execute(tpm.save(handle_of(user.execute(tpm.start_policy_session()))))

    # When another client lists what there is
    transient = _listed(other, 0x80000000)
    loaded, saved = _listed(other, 0x02000000), _listed(other, 0x03000000)
    counts = _properties(other)

    # Then it lists what it holds, and counts are its own
    assert transient == [0x80000000, 0x80000001, 0x80000002]
    assert (len(loaded), len(saved), _listed(other, 0x01000000)) == (1, 0, [])
    assert (counts[0x202], counts[0x203], counts[0x205], counts[0x208]) == (0, 1, 1, 0)
    assert counts[0x207] == 64 - 3
    assert 0x20A not in counts
    assert code_of(other.execute(get_capability(0x100, 0, 1))) >> 16 == 0x000B


def test_commands_that_are_refused_are_not_listed(gated: GatedTpm) -> None:
    # Given a client that asks which commands there are
    answer = gated.connect(USER).execute(get_capability(2, 0, 254))
    found = struct.unpack(f">{int.from_bytes(answer[15:19])}I", answer[19:])

    # When they are looked up
    rules = {TABLE[each & 0xFFFF].rule for each in found}

    # Then none is one that it may never give
    assert Rule.REFUSE not in rules
    assert len(found) > 60


def test_an_exclusive_audit_session_stays_so_while_others_wait(gated: GatedTpm) -> None:
    # Given a client that audits, and a scheduler with another one's commands
    auditor, other = gated.connect(USER), gated.connect(OTHER)
    session = handle_of(auditor.execute(tpm.start_policy_session(0)))
    other_key = handle_of(other.execute(tpm.load_hmac_key(b"key")))

    # When it audits a first command, the other one wants to work, and it goes on exclusively
    first = auditor.execute(_audited(session, 0x81))
    waits = other.waits(tpm.hmac_of(other_key, b""))
    refused = other.execute(tpm.hmac_of(other_key, b""))
    second = auditor.execute(_audited(session, 0x81))
    exclusive = auditor.execute(_audited(session, 0x83))

    # Then nothing came between, and the other one waits no longer than a moment
    assert [code_of(each) for each in (first, second, exclusive)] == [0, 0, 0]
    assert 0 < waits <= 1
    assert code_of(refused) == REFUSED | 0x922
    gated.time += 1.1
    assert other.waits(tpm.hmac_of(other_key, b"")) == 0


def test_the_control_another_program_ends_exclusivity(plain: SoftwareTpm) -> None:
    # Given a plain TPM and an audit session
    session = handle_of(plain.transceive(tpm.start_policy_session(0)))
    assert code_of(plain.transceive(_audited(session, 0x81))) == 0

    # When another program gives a command in between
    plain.transceive(ask("GetRandom", parameters=b"\x00\x04"))

    # Then the session is not exclusive any more
    assert code_of(plain.transceive(_audited(session, 0x83))) == EXCLUSIVE


def test_a_commitment_is_its_clients(gated: GatedTpm) -> None:
    # Given two clients with keys for anonymous signatures, one of which has a commitment open
    user, other = gated.connect(USER), gated.connect(OTHER)
    keys = [handle_of(each.execute(_ecdaa_key())) for each in (user, other)]
    commit = ask("Commit", keys[0], parameters=NO_POINT)
    made = body(user.execute(commit))
    counter = int.from_bytes(made[-2:])

    # When the other one signs with it, and wants to commit itself
    stolen = other.execute(_sign(keys[1], 0x001A, counter))
    waits = other.waits(ask("Commit", keys[1], parameters=NO_POINT))
    signed = user.execute(_sign(keys[0], 0x001A, counter))

    # Then it may not, it waits, and its owner signs once
    assert code_of(stolen) == REFUSED | 0x2C4
    assert waits > 0
    assert code_of(signed) == 0
    assert code_of(user.execute(_sign(keys[0], 0x001A, counter))) == REFUSED | 0x2C4
    assert other.waits(commit) == 0


def test_the_control_a_plain_tpm_lets_another_use_up_a_commitment(plain: SoftwareTpm) -> None:
    # Given a plain TPM, two keys, and a commitment for the first
    keys = [handle_of(plain.transceive(_ecdaa_key())) for _ in range(2)]
    made = body(plain.transceive(ask("Commit", keys[0], parameters=NO_POINT)))
    counter = int.from_bytes(made[-2:])

    # When another program signs with it
    assert code_of(plain.transceive(_sign(keys[1], 0x001A, counter))) == 0

    # Then its owner cannot any more
    assert code_of(plain.transceive(_sign(keys[0], 0x001A, counter))) != 0


def test_sessions_are_shared_out(gated: GatedTpm) -> None:
    # Given a client that starts sessions without end, keeping them
    greedy, other = gated.connect(USER), gated.connect(OTHER)
    codes = [code_of(greedy.execute(tpm.start_policy_session())) for _ in range(20)]

    # When another one starts one
    session = other.execute(tpm.start_policy_session())

    # Then the first has its share and no more, and the other one's works
    assert codes == [0] * 12 + [REFUSED | 0x905] * 8
    assert code_of(session) == 0


def test_a_session_put_aside_gives_way_to_the_clients_own_new_one(gated: GatedTpm) -> None:
    # Given a client that put aside as many sessions as it may have
    user = gated.connect(USER)
    started = (handle_of(user.execute(tpm.start_policy_session())) for _ in range(12))
    saved = [user.execute(tpm.save(session)) for session in started]

    # When it starts one more
    session = user.execute(tpm.start_policy_session())

    # Then the oldest is gone, and the next one is still there
    assert code_of(session) == 0
    assert code_of(user.execute(tpm.load(saved[0]))) == REFUSED | PARAMETER_1
    assert code_of(user.execute(tpm.load(saved[1]))) == 0


def test_started_is_started(gated: GatedTpm) -> None:
    # Given a client that starts the TPM, as tpm2_startup does
    user = gated.connect(USER)

    # When it asks for it
    # Then it hears that the TPM runs, and neither ends it nor runs its full test
    assert code_of(user.execute(ask("Startup", parameters=bytes(2)))) == 0x100
    assert code_of(user.execute(ask("Shutdown", parameters=bytes(2)))) == REFUSED | 0x143
    assert code_of(user.execute(ask("SelfTest", parameters=b"\x01"))) == REFUSED | 0x143
    assert code_of(user.execute(ask("SelfTest", parameters=b"\x00"))) == 0


def test_a_tpm_12_command_is_answered_in_the_form_of_tpm_12(gated: GatedTpm) -> None:
    # Given TPM_GetCapability of TPM 1.2, as TrouSerS sends it
    command = bytes.fromhex("00c1000000160000006500000005000000040000" + "0103")

    # When the broker is asked
    # Then it answers TPM_BADTAG, in a form that the asker reads
    assert gated.connect(USER).execute(command) == bytes.fromhex("00c40000000a0000001e")


def _created(client: Connection, parent: int) -> bytes:
    """Give private and public part of a new signing key."""
    fields = sized(bytes(4)) + sized(tpm.ECC_SIGNING) + sized(b"") + bytes(4)
    made = body(client.execute(ask("Create", parent, parameters=fields)))
    end = 2 + int.from_bytes(made[:2])
    return made[: end + 2 + int.from_bytes(made[end : end + 2])]


def _sign(key: int, scheme: int = 0x0010, counter: int = 0) -> bytes:
    how = scheme.to_bytes(2)
    if scheme != 0x0010:
        how += b"\x00\x0b" + counter.to_bytes(2)
    ticket = b"\x80\x24" + NULL.to_bytes(4) + sized(b"")
    return ask("Sign", key, parameters=sized(bytes(32)) + how + ticket)


def _ecdaa_key() -> bytes:
    """TPM2_CreatePrimary of an ECDAA key on the curve BN P-256."""
    public = bytes.fromhex("0023000b" + "00040472" + "0000" + "0010" + "001a000b0000")
    return tpm.create_primary(public + bytes.fromhex("0010" + "0010" + "0000" + "0000"))


def _audited(session: int, attributes: int) -> bytes:
    """TPM2_GetRandom in an audit session, whose HMAC is empty without a key."""
    audit = session.to_bytes(4) + sized(b"") + bytes([attributes]) + sized(b"")
    return ask("GetRandom", parameters=b"\x00\x04", auths=[audit])


def _define(index: int, size: int) -> bytes:
    public = struct.pack(">IHIHH", index, 0x000B, 0x00040004, 0, size)
    return ask("NV_DefineSpace", OWNER, parameters=sized(b"") + sized(public))


def _listed(client: Connection, first: int) -> list[int]:
    answer = client.execute(get_capability(1, first, 254))
    assert code_of(answer) == 0
    return list(struct.unpack(f">{int.from_bytes(answer[15:19])}I", answer[19:]))


def _properties(client: Connection) -> dict[int, int]:
    answer = client.execute(get_capability(6, 0x200, 127))
    count = int.from_bytes(answer[15:19])
    numbers = struct.unpack(f">{2 * count}I", answer[19:])
    return dict(zip(numbers[::2], numbers[1::2], strict=True))


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")
