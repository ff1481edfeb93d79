"""Bad input: one message with a code, the right exit status, and nothing half-made left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.cli import doctor
from tandem.cli.main import GROUPS, main
from tests.integration.builder.running_host import IMAGE, ROOT, RunningHost
from tests.integration.manager.running_manager import ready

NONCE = "5a" * 32
AS_NOBODY = """
import importlib, os, sys
from tandem.cli.main import GROUPS, main
for module, _ in GROUPS.values():  # the checkout may be closed to others, as one below /root is
    importlib.import_module(module)
import tandem.manager.embedded, tandem.manager.host
os.setgroups([]), os.setgid(65534), os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""
needs_root = pytest.mark.skipif(not ready(), reason="needs root and swtpm")
needs_guests = pytest.mark.skipif(
    not ready() or not IMAGE.exists(), reason="needs root, swtpm and the guest image"
)


def tandem(host: Path, *arguments: str, before: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run a command in a process of its own; give its status, output and errors."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "tandem", "--host", str(host), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        timeout=90,
    )
    return done.returncode, done.stdout, done.stderr


def code_of(errors: str) -> str:
    """Give the code of the one message that there may be."""
    record: dict[str, str] = json.loads(errors)
    assert record["problem"]
    assert record["hint"]
    return record["code"]


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory that every user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="tandem-bad-", dir="/var/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def running_host() -> Iterator[RunningHost]:
    host = RunningHost()
    yield host
    host.close()


@pytest.fixture
def host(running_host: RunningHost) -> Iterator[RunningHost]:
    """Give a host whose guest `web` ran and has state."""
    yield running_host
    running_host.stop_all()


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "a\nb", "a\n", "", "A", "é", "a" * 64])
@pytest.mark.parametrize("verb", ["start", "stop", "show", "console"])
def test_a_bad_name_is_a_usage_error(
    verb: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a name that could be a path or break a log
    # When a command is given it
    status = main(["--host", str(tmp_path), "guest", verb, name, "--json"])
    # Then it says so before it asks anybody
    assert (status, code_of(capsys.readouterr().err)) == (2, "TDM-NAME-NOT-A-LABEL")


@pytest.mark.parametrize(
    "words",
    [
        ("stop", "web", "--timeout", "99999999999999999999"),
        ("stop", "web", "--timeout", "-1"),
        ("stop", "web", "--timeout", "nan"),
        ("stop", "web", "--timeout", "\u00b2"),
        ("attest", "web", "--nonce", NONCE, "-o", "x", "--timeout", "-1"),
        ("attest", "web", "--nonce", NONCE, "-o", "x", "--timeout", "99999999999999999999"),
    ],
)
def test_a_time_that_is_none_is_a_usage_error(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a time to wait that no clock has
    # When a command is given it
    status = main(["--host", str(tmp_path), "guest", *words, "--json"])
    # Then the command line is at fault, not the host
    assert (status, code_of(capsys.readouterr().err)) == (2, "TDM-CLI-USAGE")


@pytest.mark.parametrize("directory", ["", "a\nb", "a\0b", "\udcff"])
def test_a_host_without_a_usable_name_is_a_usage_error(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a variable that was not set, or a name that no message could show
    # When it is named as the host
    status = main(["--host", directory, "host", "init", "--json"])
    # Then nothing is made in the working directory or elsewhere
    assert (status, code_of(capsys.readouterr().err)) == (2, "TDM-CLI-USAGE")


@pytest.mark.parametrize("directory", ["/etc/passwd", f"/run/{'a' * 300}"])
@pytest.mark.parametrize("action", ["init", "up", "down", "status"])
@needs_root
def test_a_host_that_cannot_be_a_directory_is_a_host_error(
    action: str, directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a file, or a name that is too long
    # When it is named as the host
    status = main(["--host", directory, "host", action, "--json"])
    # Then that is said, whatever is asked
    assert status == 3
    assert code_of(capsys.readouterr().err).startswith("TDM-")


def test_an_interrupt_has_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a command that is interrupted half-way
    def interrupted(_: Path) -> Iterator[doctor.Finding]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", interrupted)
    # When it runs
    status = main(["doctor", "--json"])
    # Then the status is a shell's for SIGINT, and the message one like any other
    assert (status, code_of(capsys.readouterr().err)) == (130, "TDM-CLI-INTERRUPTED")


def test_an_interrupt_while_python_loads_shows_no_traceback(place: Path) -> None:
    # Given modules that are being loaded
    (place / "sitecustomize.py").write_text(
        "import builtins\nreal = builtins.__import__\n"
        "def load(name, *more, **named):\n"
        "    if name == 'tandem.cli.main': raise KeyboardInterrupt\n"
        "    return real(name, *more, **named)\n"
        "builtins.__import__ = load\n"
    )
    # When SIGINT comes
    done = subprocess.run(
        [sys.executable, "-m", "tandem", "doctor"],
        env={**os.environ, "PYTHONPATH": f"{place}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    # Then one line says so
    assert done.stderr == "tandem: interrupted [TDM-CLI-INTERRUPTED]\n"
    assert done.returncode != 0


def test_a_module_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a machine with the verifier's part alone
    def missing(_: Path) -> Iterator[doctor.Finding]:
        raise ModuleNotFoundError(name="tpm2_pytss")

    monkeypatch.setattr(doctor, "examine", missing)
    # When a command needs more, wherever it finds that out
    status = main(["doctor", "--json"])
    # Then the module is named
    error = capsys.readouterr().err
    assert (status, code_of(error)) == (3, "TDM-CLI-PART-MISSING")
    assert "tpm2_pytss" in error


def test_the_doctor_works_without_the_host_s_modules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a machine without qemu.qmp, which is for the doctor to say
    monkeypatch.delitem(sys.modules, "tandem.hypervisor.qemu", raising=False)
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    # When it looks
    status = main(["doctor", "--json"])
    # Then it looks at all else, too
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert status == 3
    assert found["qemu"]["standing"] == "lacks"
    assert "disk space" in found


@pytest.mark.parametrize(
    ("kernel", "refusal"),
    [
        ("/dev/zero", (3, "TDM-LIBRARY-FILE")),
        ("/dev", (3, "TDM-LIBRARY-FILE")),
        ("a\\u0000b", (4, "TDM-LIBRARY-SOURCE-BAD")),  # no path at all
        ("/nonexistent", (3, "TDM-LIBRARY-FILE")),
    ],
)
def test_what_is_no_file_is_not_taken_into_a_library(
    kernel: str, refusal: tuple[int, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a source that names a device, a directory, or nothing
    source = tmp_path / "library.toml"
    source.write_text(f'[entries.a]\nkernel = "{kernel}"\n')
    main(["library", "keygen", "-o", str(tmp_path / "key")])
    capsys.readouterr()
    # When it is signed
    words = ["library", "sign", str(source), "--key", str(tmp_path / "key"), "--json"]
    status = main(["--host", str(tmp_path), *words])
    # Then it is refused at once
    assert (status, code_of(capsys.readouterr().err)) == refusal
    assert not (tmp_path / "library.dsse.json").exists()


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_help_shows_examples(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a group of commands
    # When its help is asked for
    with pytest.raises(SystemExit):
        main([group, "--help"])
    # Then it shows how it is used
    assert "examples:" in capsys.readouterr().out


@needs_root
@pytest.mark.parametrize(
    "words",
    [
        ("host", "init"),
        ("host", "up"),
        ("host", "down"),
        ("host", "status"),
        ("guest", "list"),
        ("library", "keygen", "-o", "/root/no/key"),
    ],
)
def test_who_may_not_is_told_so(words: tuple[str, ...], place: Path) -> None:
    # Given a user without privilege
    # When a command is given that needs it
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "--host", str(place / "host"), *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    # Then it is the host's error, in one message, and nothing is made
    assert done.returncode == 3
    assert code_of(done.stderr).startswith("TDM-")
    assert not (place / "host").exists()


@needs_root
def test_a_host_without_qemu_says_how_to_get_it(place: Path) -> None:
    # Given a machine without QEMU: an empty file in its place, for this process alone
    empty = place / "empty"
    empty.touch()
    script = f'mount --bind {empty} /usr/bin/qemu-system-x86_64 && exec "$@"'
    # When the doctor looks
    before = ("unshare", "--mount", "sh", "-c", script, "sh")
    status, output, _ = tandem(place, "doctor", "--json", before=before)
    # Then it lacks QEMU, and the remedy is there
    [qemu] = [each for each in json.loads(output) if each["name"] == "qemu"]
    assert (status, qemu["standing"]) == (3, "lacks")
    assert qemu["remedy"]


@needs_root
@pytest.mark.parametrize("size", ["40k", "100k"])
def test_a_host_is_not_half_made_on_a_full_disk(size: str, place: Path) -> None:
    # Given a disk with hardly any room
    script = f'mount -t tmpfs -o size={size},mode=755 tmpfs {place} && "$@"; status=$?; ls {place}'
    before = ("unshare", "--mount", "sh", "-c", f"{script}; exit $status", "sh")
    # When a host is made there
    status, left, errors = tandem(place / "host", "host", "init", "--json", before=before)
    # Then it says so, and nothing is left
    assert status == 3
    assert code_of(errors).startswith("TDM-")
    assert left == ""


@needs_root
def test_a_host_does_not_come_up_by_half(place: Path) -> None:
    # Given a host whose builder cannot start: its socket's place is taken
    host = place / "host"
    assert tandem(host, "host", "init")[0] == 0
    (host / "run" / "builder.sock" / "taken").mkdir(parents=True)
    # When it is started
    status, _, errors = tandem(host, "host", "up", "--json")
    # Then the Manager that did start is ended again, and leaves no socket
    assert status == 3
    assert code_of(errors) == "TDM-SERVICE-NOT-STARTED"
    assert not (host / "run" / "manager.sock").exists()
    assert not (host / "run" / "manager.pid").exists()
    assert tandem(host, "host", "status")[0] == 3


@needs_guests
def test_a_busy_name_is_refused(host: RunningHost) -> None:
    # Given a guest that runs
    pair = host.start()
    # When another is started by its name
    status, _, errors = tandem(host.host, "guest", "start", "web", "--json")
    # Then that is refused, and the first runs on
    assert (status, code_of(errors)) == (5, "TDM-GUEST-RUNNING")
    assert [each["pair_id"] for each in host.pairs()] == [pair["pair_id"]]


@needs_guests
@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("gone", 5, "TDM-STATE-MISSING"),
        ("emptied", 5, "TDM-STATE-MISSING"),
        ("older", 5, "TDM-STATE-OLDER"),
        ("flipped", 5, "TDM-STATE-DAMAGED"),
        ("directory", 3, "TDM-STATE-UNREADABLE"),
        ("link", 3, "TDM-STATE-UNREADABLE"),
    ],
)
def test_a_vtpm_s_state_that_is_not_the_newest_is_refused(
    what: str, status: int, code: str, host: RunningHost, tmp_path: Path
) -> None:
    # Given a vTPM with state, and copies of it of two ages
    state, old, new = host.host / "vtpm" / "web", tmp_path / "old", tmp_path / "new"
    for copy in (old, new):
        host.start()
        host.tandem("guest", "stop", "web", "--kill")
        shutil.copytree(state, copy)
    # When it is damaged, and the guest started
    damage(state, old, what)
    got, _, errors = tandem(host.host, "guest", "start", "web", "--json")
    # Then it is refused by name, with what to do, and nothing of the pair is left
    assert (got, code_of(errors)) == (status, code)
    assert "reference page" not in errors
    assert host.pairs() == []
    assert host.leftovers() == []
    # And with the newest copy it starts again
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(new, state)
    host.start()


def damage(state: Path, old: Path, what: str) -> None:
    """Do to a vTPM's state what a disk or an attacker would."""
    first, second = slots = sorted(state.iterdir())
    if what in ("gone", "older"):
        shutil.rmtree(state)
    if what == "older":
        shutil.copytree(old, state)
    if what in ("emptied", "flipped"):
        for slot in slots:
            content = bytearray(slot.read_bytes())
            content[len(content) // 2] ^= 1
            slot.write_bytes(content if what == "flipped" else b"")
    if what in ("directory", "link"):
        first.unlink()
    if what == "directory":
        first.mkdir()
    if what == "link":
        first.symlink_to(second)
