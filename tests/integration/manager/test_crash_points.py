"""A crash between any two steps leaves one consistent newest state, and loses nothing promised.

The store on a real file, anchored in a real swtpm: killed after every single write, sync and TPM
command of what it does, then started again.  And once more for each of these points with the power
cut instead, so that writes that were not synced are gone, all of them or some.
"""

from __future__ import annotations

import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peers.faulty_tpm import FaultyTpm
from tandem.errors import HostError, Refused
from tandem.manager.ptpm import Ptpm
from tandem.manager.store import Store
from tandem.manager.tpm_templates import CHAIN_INDICES, VERSION_INDICES
from tandem.values import Secret
from tests.integration.manager.crash_points import Kind, Run, copy_all, power_cut, run
from tests.integration.manager.running_manager import ready

pytestmark = pytest.mark.skipif(
    not ready() or platform.machine() != "x86_64", reason="needs swtpm, and x86-64 for its tracer"
)
MASTER, GROUP_KEY = Secret(b"m" * 32), Secret(b"g" * 32)
AUTH = Secret(b"a secret of the anchor")
BEGIN, ACKNOWLEDGED = b"begin", b"acknowledged"
POINTS_MOST = 200
WHOLE = {"host": b"the host's"}
Contents = dict[str, bytes]
Say = Callable[[bytes], None]
# Which of the changes that were not synced a power cut spares, counted from the last one
SURVIVALS: dict[str, Callable[[int], bool]] = {
    "none": lambda _: False,
    "the last": lambda k: k == 0,
    "all but the last": lambda k: k != 0,
    "every other": lambda k: k % 2 == 0,
}


class Anchored:
    """A pTPM with an anchor of its own and a connection for each who asks."""

    def __init__(self, tpm: FaultyTpm) -> None:
        self._tpm = tpm
        self._connections: list[tuple[Ptpm, socket.socket]] = []

    def hang_up(self) -> None:
        """End the connections that this process has."""
        for ptpm, sock in self._connections:
            ptpm.close()
            sock.close()
        self._connections.clear()

    def connect(self) -> Ptpm:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self._tpm.path))
        ptpm = Ptpm(sock.fileno())
        self._connections.append((ptpm, sock))
        for name, index in (("chain", CHAIN_INDICES[0]), ("version", VERSION_INDICES[0])):
            ptpm._handles[name] = ptpm._esys.tr_from_tpmpublic(index)
            ptpm._esys.tr_set_auth(ptpm._handles[name], AUTH.reveal())
        return ptpm


class Disk:
    """A store's files, and what they hold by the test's own account."""

    def __init__(self, directory: Path, anchored: Anchored) -> None:
        self.directory = directory
        self.path = directory / "store.sqlite"
        self.files = [directory / f"store.sqlite{suffix}" for suffix in ("", "-wal", "-journal")]
        self.anchored = anchored
        self.number = 0

    def open(self) -> Store:
        return opened(self.path, self.anchored)

    def contents(self) -> Contents:
        """Start, read everything, and end in order."""
        store = self.open()
        found = {name: store.get(name) or b"" for name in store.names("")}
        store.close()
        self.anchored.hang_up()
        return found

    def replace(self, source: Path) -> None:
        """Have other files in the place of these."""
        for file in (*self.files, self.directory / "store.sqlite-shm"):
            file.unlink(missing_ok=True)
        for file in source.iterdir():
            shutil.copy(file, self.directory / file.name)

    def next(self) -> bytes:
        """Give a content that there was never before."""
        self.number += 1
        return b"content %d " % self.number * 50


def opened(path: Path, anchored: Anchored) -> Store:
    store = Store.load(path, MASTER, anchored.connect())
    store.unlock("default", GROUP_KEY)
    return store


@pytest.fixture(scope="module")
def anchored() -> Iterator[Anchored]:
    directory = Path(tempfile.mkdtemp(prefix="tandem-crash-"))
    with FaultyTpm(directory) as tpm:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tpm.path))
        ptpm = Ptpm(sock.fileno())
        ptpm.startup()
        ptpm.define_chain_index(0, AUTH)
        ptpm.close()
        sock.close()
        yield Anchored(tpm)
    shutil.rmtree(directory)


@pytest.fixture
def disk(tmp_path: Path, anchored: Anchored) -> Disk:
    """Give a store with two records, at rest; an anchor that others used before goes on."""
    made = Disk(tmp_path / "store", anchored)
    made.directory.mkdir()
    store = Store.create(made.path, MASTER, anchored.connect())
    store._chain = anchored.connect().read_chain()
    store.unlock("default", GROUP_KEY)
    store.stage("host", b"the host's")
    store.stage("vtpm/default/web", b"first")
    store.stage("vtpm/default/old", b"to be destroyed")
    store.commit()
    store.close()
    anchored.hang_up()
    return made


class Step:
    """Something that a Manager does, from a store at rest to a promise."""

    def prepare(self, disk: Disk) -> Contents:
        """Bring the disk to where the step begins; gives what it holds then."""
        return disk.contents()

    def after(self, before: Contents, content: bytes) -> Contents:
        """Give what the disk holds after the step."""
        return before | {"vtpm/default/web": content}

    def work(self, disk: Disk, content: bytes, say: Say) -> None:
        """Do it, in a process of its own: say when it begins, and when it is acknowledged."""
        raise NotImplementedError


class StrictCommit(Step):
    """One record is written, one is made and one is destroyed; each commit is anchored."""

    def after(self, before: Contents, content: bytes) -> Contents:
        kept = {name: each for name, each in before.items() if name != "vtpm/default/old"}
        return kept | {"vtpm/default/web": content, "vtpm/default/new": content}

    def work(self, disk: Disk, content: bytes, say: Say) -> None:
        store = disk.open()
        store.stage("vtpm/default/web", content)
        store.stage("vtpm/default/new", content)
        store.remove("vtpm/default/old")
        say(BEGIN)
        store.commit()
        say(ACKNOWLEDGED)


class OpenCommit(Step):
    """A commit in an open window: durable, and the pTPM is not told."""

    def work(self, disk: Disk, content: bytes, say: Say) -> None:
        store = disk.open()
        store.stage("vtpm/default/web", b"an earlier one of the same window")
        store.commit(anchor=False)
        store.stage("vtpm/default/web", content)
        say(BEGIN)
        store.commit(anchor=False)
        say(ACKNOWLEDGED)


class EndOfWindow(Step):
    """Two commits of a window are anchored together."""

    def work(self, disk: Disk, content: bytes, say: Say) -> None:
        store = disk.open()
        store.stage("vtpm/default/web", b"an earlier one of the same window")
        store.commit(anchor=False)
        store.stage("vtpm/default/web", content)
        store.commit(anchor=False)
        say(BEGIN)
        store.anchor()
        say(ACKNOWLEDGED)


class RollForward(Step):
    """A start on a store whose newest commit the pTPM was not told of."""

    def prepare(self, disk: Disk) -> Contents:
        store = disk.open()
        store.stage("vtpm/default/web", disk.next())
        store.commit(anchor=False)
        found = {name: store.get(name) or b"" for name in store.names("")}
        store.close()
        disk.anchored.hang_up()
        return found

    def after(self, before: Contents, content: bytes) -> Contents:
        return before

    def work(self, disk: Disk, content: bytes, say: Say) -> None:
        say(BEGIN)
        disk.open()
        say(ACKNOWLEDGED)


class EndInOrder(Step):
    """The Manager ends: the window is anchored, and SQLite moves its log into the file."""

    def work(self, disk: Disk, content: bytes, say: Say) -> None:
        store = disk.open()
        store.stage("vtpm/default/web", content)
        store.commit(anchor=False)
        say(BEGIN)
        store.anchor()
        store.close()
        say(ACKNOWLEDGED)


STEPS = [StrictCommit(), OpenCommit(), EndOfWindow(), RollForward(), EndInOrder()]


def outcomes(step: Step, before: Contents, content: bytes) -> list[Contents]:
    """Give every content that a crash may leave, oldest first."""
    earlier = before | {"vtpm/default/web": b"an earlier one of the same window"}
    return [before, earlier, step.after(before, content)]


def check(disk: Disk, step: Step, done: Run, allowed: list[Contents], older: Path) -> None:
    """See that the disk holds one allowed state for good, the last where that was promised."""
    acknowledged = any(each.data == ACKNOWLEDGED for each in done.events)
    found = disk.contents()
    assert found in allowed
    assert not acknowledged or found == allowed[-1]
    assert disk.contents() == found
    if found == allowed[-1] != allowed[0]:
        # the start anchored it, so the state before is an older one
        with pytest.raises(Refused) as raised:
            opened(older / "store.sqlite", disk.anchored)
        disk.anchored.hang_up()
        assert raised.value.code == "TDM-ROLLBACK-STORE"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("survival", ["a kill", *SURVIVALS])
def test_a_crash_after_any_event_leaves_one_newest_state(
    disk: Disk, tmp_path: Path, step: Step, survival: str
) -> None:
    kinds: set[Kind] = set()
    for point in range(1, POINTS_MOST):
        # Given a store at rest, and a copy of it
        before, content = step.prepare(disk), disk.next()
        older, image = tmp_path / f"older-{point}", tmp_path / f"image-{point}"
        older.mkdir()
        image.mkdir()
        copy_all(disk.files, older)
        # When it is killed after one event more than last time, or the power is cut there
        done = run(lambda say: step.work(disk, content, say), kill_after=point, begin=BEGIN)  # noqa: B023
        if survival != "a kill":
            base = [older / file.name for file in disk.files]
            power_cut(disk.files, done.events, image, SURVIVALS[survival], before=base)
            disk.replace(image)
        # Then the next start finds the state before or the state after, and always the same one
        check(disk, step, done, outcomes(step, before, content), older)
        kinds |= {each.kind for each in done.events[done.begun :]}
        if not done.killed:
            break
    else:
        pytest.fail("the step has no end")
    assert Kind.SENT in kinds
    assert point > 2


@pytest.mark.parametrize("survival", ["a kill", *SURVIVALS])
def test_a_crash_in_the_first_commit_leaves_a_host_or_none(
    anchored: Anchored, tmp_path: Path, survival: str
) -> None:
    for point in range(1, POINTS_MOST):
        # Given no store yet
        disk = Disk(tmp_path / f"store-{point}", anchored)
        disk.directory.mkdir()
        (image := tmp_path / f"image-{point}").mkdir()
        # When it is made, and killed after one event more than last time
        done = run(lambda say: found(disk, say), kill_after=point, begin=BEGIN)  # noqa: B023
        if survival != "a kill":
            empty = [image / "nothing" / file.name for file in disk.files]
            power_cut(disk.files, done.events, image, SURVIVALS[survival], before=empty)
            disk.replace(image)
        # Then there is a whole store, or one that says it is none: `host init` begins anew
        acknowledged = any(each.data == ACKNOWLEDGED for each in done.events)
        assert contents_or_none(disk) in ([WHOLE] if acknowledged else [None, WHOLE])
        if not done.killed:
            break
    else:
        pytest.fail("it has no end")
    assert point > 10


def contents_or_none(disk: Disk) -> Contents | None:
    """Give what the store holds; None where it says that it is no store."""
    try:
        return disk.contents()
    except HostError as error:
        if error.code not in ("TDM-STORE-DAMAGED", "TDM-STORE-MISSING"):
            raise
        disk.anchored.hang_up()
        return None


def found(disk: Disk, say: Say) -> None:
    """Make a store; its anchor was others' before, where a host's own begins at zeros."""
    anchor = disk.anchored.connect()
    say(BEGIN)
    store = Store.create(disk.path, MASTER, anchor)
    store._chain = anchor.read_chain()
    store.stage("host", b"the host's")
    store.commit()
    say(ACKNOWLEDGED)
