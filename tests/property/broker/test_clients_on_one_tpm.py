"""Any number of clients in any order on one real TPM: each sees only its own, and nothing leaks."""

from __future__ import annotations

import hashlib
import hmac
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tandem.broker.connection import Connection
from tandem.wire.broker_rights import Rights
from tandem.wire.tpm_commands import sized
from tandem.wire.tpm_requests import code_of
from tests import gated_tpm as tpm
from tests.gated_tpm import GatedTpm, SoftwareTpm

RIGHTS = Rights(objects=5, sessions=4)
UIDS = (1, 2, 3)
REFUSED = 0x000B0000
TRANSIENT, LOADED, SAVED = 0x80000000, 0x02000000, 0x03000000
POLICY_COMMAND_CODE = tpm.CODES["PolicyCommandCode"].to_bytes(4)


class Held:
    """Something that a client holds on a connection."""

    def __init__(self, connection: Connection, handle: int) -> None:
        self.connection = connection
        self.handle = handle


class Key(Held):
    secret: bytes


class Sequence(Held):
    data: bytes


class Policy(Held):
    digest: bytes


class Clients(RuleBasedStateMachine):
    """The model: what each handle of each connection must answer."""

    shared: SoftwareTpm
    connections = Bundle("connections")
    keys = Bundle("keys")
    sequences = Bundle("sequences")
    policies = Bundle("policies")
    contexts = Bundle("contexts")

    @initialize()
    def start(self) -> None:
        self.gated = GatedTpm(self.shared, tpm.everybody(RIGHTS))
        self.live: set[Connection] = set()
        self.held: list[Held] = []

    @rule(target=connections, uid=st.sampled_from(UIDS))
    def connect(self, uid: int) -> Connection:
        connection = self.gated.connect(uid)
        self.live.add(connection)
        return connection

    @rule(connection=consumes(connections))
    def leave(self, connection: Connection) -> None:
        connection.close()
        self.live.discard(connection)
        self.held = [each for each in self.held if each.connection is not connection]

    @rule(target=keys, connection=connections, secret=st.binary(min_size=1, max_size=16))
    def load_key(self, connection: Connection, secret: bytes) -> Any:
        answer = connection.execute(tpm.load_hmac_key(secret))
        return self._took(Key, connection, answer, secret=secret)

    @rule(key=keys, data=st.binary(max_size=8))
    def use_key(self, key: Key, data: bytes) -> None:
        answer = key.connection.execute(tpm.hmac_of(key.handle, data))
        if key in self.held:
            expected = hmac.digest(key.secret, data, "sha256")
            assert tpm.body(answer) == sized(expected)
        else:
            self._is_not_the_keys(key, answer, data)

    @rule(target=sequences, connection=connections)
    def start_sequence(self, connection: Connection) -> Any:
        answer = connection.execute(tpm.start_hash())
        return self._took(Sequence, connection, answer, data=b"")

    @rule(sequence=sequences, data=st.binary(max_size=64))
    def update_sequence(self, sequence: Sequence, data: bytes) -> None:
        if sequence in self.held:
            answer = sequence.connection.execute(tpm.update_hash(sequence.handle, data))
            assert code_of(answer) == 0
            sequence.data += data

    @rule(sequence=consumes(sequences))
    def complete_sequence(self, sequence: Sequence) -> None:
        if sequence in self.held:
            answer = sequence.connection.execute(tpm.complete_hash(sequence.handle))
            digest = hashlib.sha256(sequence.data).digest()
            assert tpm.body(answer)[:34] == sized(digest)
            self.held.remove(sequence)

    @rule(target=policies, connection=connections)
    def start_policy(self, connection: Connection) -> Any:
        answer = connection.execute(tpm.start_policy_session())
        uid = connection.client.uid
        others = [each for each in self.held if isinstance(each, Policy)]
        own = [each for each in others if each.connection.client.uid == uid]
        if code_of(answer):
            assert code_of(answer) == REFUSED | 0x905
            assert len(own) == RIGHTS.sessions
            return multiple()
        return self._took(Policy, connection, answer, digest=bytes(32))

    @rule(policy=policies)
    def go_on_with_policy(self, policy: Policy) -> None:
        if policy in self.held:
            restrict = tpm.ask("PolicyCommandCode", policy.handle, parameters=POLICY_COMMAND_CODE)
            answer = policy.connection.execute(restrict)
            assert code_of(answer) in (0, 0x1C4)  # TPM_RC_VALUE: it is restricted already
            if not code_of(answer):
                extended = policy.digest + POLICY_COMMAND_CODE * 2
                policy.digest = hashlib.sha256(extended).digest()
            asked = policy.connection.execute(tpm.ask("PolicyGetDigest", policy.handle))
            assert asked[10:] == sized(policy.digest)

    @rule(target=contexts, held=st.one_of(keys, policies))
    def save(self, held: Held) -> Any:
        if held not in self.held:
            return multiple()
        answer = held.connection.execute(tpm.save(held.handle))
        assert code_of(answer) == 0
        if isinstance(held, Policy):
            self.held.remove(held)
        return held, answer

    @rule(target=keys, saved=contexts, connection=connections)
    def load_saved_key(self, saved: tuple[Held, bytes], connection: Connection) -> Any:
        held, context = saved
        answer = connection.execute(tpm.load(context))
        if held.connection.client.uid != connection.client.uid:
            assert code_of(answer) == REFUSED | 0x1DF
            return multiple()
        if isinstance(held, Key):
            return self._took(Key, connection, answer, secret=held.secret)
        if not code_of(answer):
            assert isinstance(held, Policy)
            self._took(Policy, connection, answer, digest=held.digest)
        return multiple()

    @rule(held=st.one_of(keys, sequences, policies))
    def flush(self, held: Held) -> None:
        if held in self.held:
            assert code_of(held.connection.execute(tpm.flush(held.handle))) == 0
            self.held.remove(held)

    @rule(held=st.one_of(keys, sequences, policies), connection=connections)
    def take_anothers(self, held: Held, connection: Connection) -> None:
        own = {each.handle for each in self.held if each.connection is connection}
        if held.handle not in own and isinstance(held, Key | Sequence):
            answer = connection.execute(tpm.flush(held.handle))
            assert code_of(answer) == REFUSED | 0x1CB
            answer = connection.execute(tpm.ask("ReadPublic", held.handle))
            assert code_of(answer) == REFUSED | 0x910

    @rule()
    def leave_room_for_the_manager(self) -> None:
        with self.gated.gate.cleared():
            assert not self.shared.handles(TRANSIENT)
            assert not self.shared.handles(LOADED)

    @invariant()
    def the_managers_slots_are_free(self) -> None:
        assert len(self.shared.handles(TRANSIENT)) <= 2
        assert len(self.shared.handles(LOADED)) <= 3

    def teardown(self) -> None:
        if hasattr(self, "gated"):
            self.gated.gate.close()
        for first in (TRANSIENT, LOADED, SAVED):
            assert not self.shared.handles(first)

    def _took(self, kind: type, connection: Connection, answer: bytes, **known: Any) -> Any:
        """Keep what a client got, unless it has all that it may have."""
        if issubclass(kind, Key | Sequence) and code_of(answer):
            uid = connection.client.uid
            held = [
                each
                for each in self.held
                if not isinstance(each, Policy) and each.connection.client.uid == uid
            ]
            assert code_of(answer) == REFUSED | 0x902
            assert len(held) == RIGHTS.objects
            return multiple()
        held = kind(connection, tpm.handle_of(answer))
        vars(held).update(known)
        self.held.append(held)
        return held

    def _is_not_the_keys(self, key: Key, answer: bytes, data: bytes) -> None:
        """A handle that is over is refused, or is another key of the connection's by now."""
        others = [
            each.secret
            for each in self.held
            if isinstance(each, Key)
            and (each.connection, each.handle) == (key.connection, key.handle)
        ]
        if others:
            expected = hmac.digest(others[0], data, "sha256")
            assert tpm.body(answer) == sized(expected)
        else:
            assert code_of(answer) != 0


def test_clients_see_their_own_whatever_the_others_do() -> None:
    # Given a TPM, gate and broker, and clients that load, use, save, flush and leave at random
    with tempfile.TemporaryDirectory() as directory, tpm.software_tpm(Path(directory)) as shared:
        Clients.shared = shared

        # When they do so, and the Manager takes its slots in between
        # Then every answer is what each client's own TPM would give, no slot of the Manager's is
        # ever taken, and nothing is left at the end
        run_state_machine_as_test(
            Clients,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
