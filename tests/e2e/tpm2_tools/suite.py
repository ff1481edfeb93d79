"""tpm2-tools' own integration tests, from Debian's source package of the version installed here.

They are fetched into `.cache/` once for each version and never committed.  Each runs as it is, with
two changes to the harness that they share: a TPM is there already, and `tpm2 clear`, which they use
to tidy up between cases, removes what the test made instead: the broker refuses TPM2_Clear.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
SECONDS = 240
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SCRIPTS = Path("test", "integration", "tests")
HARNESS = """
start_up() {
  switch_to_test_dir
  tpm2 startup -c
  tpm2 clear
}

tpm2() {
  if [ "$*" = clear ] || [ "$*" = "clear -Q" ]; then
    tidy
  else
    command tpm2 "$@"
  fi
}

tidy() {
  local handle
  for handle in $(command tpm2 getcap handles-persistent | tr -d -- '- '); do
    command tpm2 evictcontrol -Q -C o -c "$handle"
  done
  for handle in $(command tpm2 getcap handles-nv-index | tr -d -- '- '); do
    command tpm2 nvundefine -Q -C o "$handle"
  done
}
"""


class NotFetched(Exception):
    """The archive does not give the source package, and says why."""


def fetched() -> Path:
    """Give the folder of the suite, fetched where it is not there yet."""
    version = installed_version()
    place = ROOT / ".cache" / f"tpm2-tools-{version}"
    if not (place / SCRIPTS).is_dir():
        _fetch(place)
    return place


def installed_version() -> str:
    """Give the upstream version of the installed package."""
    asked = ["dpkg-query", "-W", "-f", "${source:Upstream-Version}", "tpm2-tools"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def names(suite: Path) -> set[str]:
    """List the tests of the suite."""
    return {path.stem for path in (suite / SCRIPTS).glob("*.sh")}


def run_script(suite: Path, name: str, tcti: str, work: Path) -> tuple[int, str]:
    """Run one test; gives its exit status and what it printed."""
    helpers = (suite / SCRIPTS.parent / "helpers.sh").read_text()
    (work / "helpers.sh").write_text(helpers + HARNESS)
    fixtures = suite / SCRIPTS.parent
    done = subprocess.run(
        ["bash", fixtures / "tests" / f"{name}.sh"],
        cwd=work,
        env=os.environ
        | {
            "PATH": f"{work}:{os.environ['PATH']}",  # `source helpers.sh` looks there first
            "PYTHON": "/usr/bin/python3",
            "TPM2TOOLS_TCTI": tcti,
            "TPM2TOOLS_TEST_TCTI": tcti,
            "TMPDIR": str(work),
            "abs_srcdir": str(suite),
            "abs_builddir": str(suite),
            "abs_top_srcdir": str(suite),
            "srcdir": str(suite),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout


def _source_version() -> str:
    asked = ["dpkg-query", "-W", "-f", "${source:Version}", "tpm2-tools"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def _archives() -> list[str]:
    """Give the archives that this machine has its packages from, each with its release."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"]
    chosen = ["Component: main", "Origin: Debian"]
    done = subprocess.run([*asked, *chosen], capture_output=True, text=True, check=True)
    return sorted(set(done.stdout.splitlines()))


def _fetch(place: Path) -> None:
    """Have apt fetch the source package, with a list of sources that nothing else sees."""
    work = place.with_suffix(".fetching")
    shutil.rmtree(work, ignore_errors=True)
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "sources.list").write_text(
        "".join(f"deb-src [signed-by={KEYRING}] {each} main\n" for each in _archives())
    )
    options = [
        *("-o", f"Dir::Etc::SourceList={work}/sources.list", "-o", "Dir::Etc::SourceParts=-"),
        *("-o", f"Dir::State::Lists={work}/lists", "-o", "APT::Sandbox::User=root"),
    ]
    try:
        source = ["source", "--download-only", f"tpm2-tools={_source_version()}"]
        for command in (["update"], source):
            done = subprocess.run(
                ["apt-get", "-qq", *options, *command],
                cwd=work,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise NotFetched(done.stderr.strip()[-300:])
        [archive] = work.glob("*.orig.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(work / "unpacked", filter="data")
        [top] = (work / "unpacked").iterdir()
        shutil.rmtree(place, ignore_errors=True)
        top.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(f"{fetched()}: {len(names(fetched()))} tests")
