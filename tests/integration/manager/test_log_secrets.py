"""No log, argument or environment of a whole run holds a key that the test knows."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from peers.faulty_tpm import QUOTE, Fault, FaultyTpm
from tandem.channel import Closed, expect
from tandem.errors import TandemError
from tandem.evidence.host_approval import parse_approval_private_key
from tandem.manager.identity import derived_auths, read_identity
from tandem.manager.recovery import read, unwrap
from tandem.wire.manager_rpc import AskDeepQuote, DeepQuoted
from tests.integration.manager.running_manager import RunningManager, ready, tandem

pytestmark = pytest.mark.skipif(not ready(), reason="needs root and swtpm-tools")


@pytest.fixture
def tpm(work: Path) -> Iterator[FaultyTpm]:
    directory = work / "tpm-of-a-whole-run"
    with FaultyTpm(directory) as faulty:
        yield faulty
    shutil.rmtree(directory)


def forms(secret: bytes) -> list[bytes]:
    """Give what a secret looks like in a log: raw, hexadecimal, base64, base32, as Python's."""
    return [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret).rstrip(b"=")[:-1],
        base64.urlsafe_b64encode(secret).rstrip(b"=")[:-1],
        base64.b32encode(secret).rstrip(b"=")[:-1],
        repr(secret)[2:-1].encode(),
        json.dumps(secret.decode("latin-1"))[1:-1].encode(),
    ]


def left_by(pids: list[int], run: Path) -> bytes:
    """Read what processes leave where others may look."""
    places = [Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ")]
    return b"".join(path.read_bytes() for path in (*places, *run.glob("*.log")))


def secrets_of(manager: RunningManager, recovery_key: str, approval: Path) -> dict[str, bytes]:
    """Give every secret of a host that its administrator could know."""
    identity = read_identity(manager.paths.identity)
    master = unwrap(identity, read(recovery_key))
    number = parse_approval_private_key(approval.read_bytes()).private_numbers().private_value
    return {
        "master key": master.reveal(),
        "recovery key": read(recovery_key).reveal(),
        "recovery key as shown": recovery_key.encode(),
        "approval key": number.to_bytes((number.bit_length() + 7) // 8),
        **{f"auth {name}": auth.reveal() for name, auth in derived_auths(master).items()},
    }


def assert_nowhere(secrets: Mapping[str, bytes], left: bytes) -> None:
    for name, secret in secrets.items():
        assert len(secret) >= 16, name
        assert not any(form in left for form in forms(secret)), name


def made_host(tpm: FaultyTpm, approval: Path) -> tuple[RunningManager, str]:
    """Make a host; give it, and its recovery key as it is shown."""
    manager = RunningManager(tpm.directory / "host")
    made = tandem(
        manager.paths.root,
        *("host", "init", "--json", "--ptpm", tpm.ptpm, "--approval-key", str(approval)),
    )
    assert made.returncode == 0, made.stderr
    return manager, json.loads(made.stdout)["recovery_key"]


def live_through_everything(manager: RunningManager, tpm: FaultyTpm) -> dict[str, bytes]:
    """Have pairs, commits and quotes, a fault and hostile clients; give the vTPMs' keys."""
    vtpms = [manager.vtpm(f"web-{number}") for number in range(3)]
    for vtpm in vtpms:
        vtpm.prepare()
        vtpm.commit(1)
    tpm.inject(Fault.LOCKOUT, code=QUOTE)
    with pytest.raises(TandemError):
        vtpms[0].channel.ask(AskDeepQuote(vtpm_quote_digest=bytes(32)), DeepQuoted)
    manager.status()
    for hostile in (manager.connect(), vtpms[1].channel):
        hostile.sock.send(b"no message of any protocol")
        with pytest.raises((TandemError, Closed)):
            expect(hostile.receive()[0], DeepQuoted)
    return {vtpm.welcome.vtpm: vtpm.welcome.key for vtpm in vtpms}


def test_no_log_of_a_whole_run_has_a_secret_of_the_host(tpm: FaultyTpm, work: Path) -> None:
    # Given a host whose secrets its administrator kept
    approval = work / "approval-of-a-whole-run.key"
    manager, recovery_key = made_host(tpm, approval)
    secrets = secrets_of(manager, recovery_key, approval)
    # When it lives through everything, and the Manager starts again
    manager.start()
    secrets |= live_through_everything(manager, tpm)
    left = left_by([manager.pid], manager.paths.run)
    manager.stop()
    manager.start()
    secrets["anew"] = manager.vtpm("anew").welcome.key
    left += left_by([manager.pid], manager.paths.run)
    # Then no log, no argument and no variable has one of them, in any form
    for event in (b"pair.opened", b"client.hostile", b"deep-quote.not-made"):
        assert event in left
    assert_nowhere(secrets, left)
    # And each line of the log is one JSON object with the same four names
    lines = manager.service.log.read_text().splitlines()
    manager.close()
    assert len(lines) >= 8
    for line in lines:
        assert {"time", "level", "process", "event"} <= json.loads(line).keys()
