"""The Manager imports nothing once it is not root: Tandem may be installed below `/root`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
STORY = """
import sys, tempfile
from pathlib import Path
import tandem.manager.__main__
from tandem.manager.pairs import Pairs
from tandem.manager.warm_up import warm_up
from tandem.wire.manager_rpc import CertifyEks, CommitState, Prepare, VTPM_ANSWERS
from tests.unit.manager import software_host as soft

if sys.argv[1] == "warm":
    warm_up(soft.NOW)
before = set(sys.modules)
host, _ = soft.software_host(Path(tempfile.mkdtemp()))
pairs = Pairs(host, lambda: soft.NOW)
pair, opened = pairs.open(soft.open_pair())
VTPM_ANSWERS.encode(pairs.welcome(pair))
ek = soft.rsa_ek()
VTPM_ANSWERS.encode(pairs.certify(pair, CertifyEks(rsa=ek, ecc=soft.ecc_ek())))
VTPM_ANSWERS.encode(
    pairs.prepare(pair, Prepare(ek=ek, ak=soft.ak(), reset_count=1, restart_count=1))
)
pairs.commit_state(pair, CommitState(version=1, digest=bytes(32)))
host.store.commit()
print(sorted(set(sys.modules) - before))
"""


def imported_late(how: str) -> str:
    """Play one pair's story in a fresh interpreter and give what it imported by the way."""
    done = subprocess.run(
        [sys.executable, "-c", STORY, how],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_pairs_story_imports_nothing_after_the_warm_up() -> None:
    # Given an interpreter that has imported the Manager
    # When a pair is opened, certified, prepared and committed, cold and warmed up
    cold, warm = imported_late("cold"), imported_late("warm")

    # Then a cold Manager would have imported, and a warm one does not
    assert "cryptography.hazmat.backends.openssl" in cold
    assert warm == "[]"
