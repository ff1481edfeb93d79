"""`make demo`: a real guest attested down to the physical TPM, and every cheat refused."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from demo import attacks, good_run
from demo.stage import Stage, Surprise


def main() -> int:
    """Run every step from nothing; the first surprise ends the demonstration with status 1."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--image", type=Path, required=True, help="directory of the guest image")
    parser.add_argument("--work", type=Path, default=Path(".cache/demo"))
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    # Not below `work`: the Manager's own user must be able to reach the host's directory.
    with tempfile.TemporaryDirectory(prefix="tandem-demo-", dir="/var/tmp") as directory:
        host = Path(directory)
        host.chmod(0o711)
        stage = Stage(host=host, work=work, image=arguments.image.resolve())
        try:
            return perform(stage)
        except Surprise as surprise:
            print(f"\nThe demonstration stopped: {surprise}", file=sys.stderr)
            return 1
        finally:
            stage.tandem("host", "down", expect=None)


def perform(stage: Stage) -> int:
    """Play the good run, then each attack on it."""
    print("Tandem: a guest and its vTPM, built, measured and proven as one pair\n")
    good_run.provision_host(stage)
    good_run.sign_library(stage)
    good_run.start_guest(stage)
    good_run.trust_the_host(stage)
    nonce = secrets.token_hex(32)
    report = good_run.attest_and_verify(stage, nonce)
    print("\nThe same, attacked\n")
    attacks.changed_kernel(stage)
    attacks.other_command_line(stage)
    attacks.replayed_quote(stage)
    attacks.killed_guest(stage)
    attacks.copied_guest(stage)
    print(f"\nThe report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
