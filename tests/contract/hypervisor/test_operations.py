"""What a machine owes the builder while it lives: held still, asked, and told apart as it goes."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.errors import Refused
from tandem.evidence.launch_plan import machine_configuration
from tandem.hypervisor.driver import End, Guest
from tandem.hypervisor.qemu import Qemu
from tests.contract.hypervisor import payload
from tests.contract.hypervisor.test_driver import ENTRY, Bench, bench, created

__all__ = ["bench"]  # a fixture
SECONDS = 30.0
QUIET = 0.5


@asynccontextmanager
async def running(directory: Path, code: bytes, *, debugger: bool = False) -> AsyncIterator[Guest]:
    """A real QEMU that runs a kernel of a few instructions."""
    with closing(Bench(Qemu(65534), directory)) as bench:
        bench.hypervisor.identify()
        kernel = os.memfd_create("kernel")
        os.write(kernel, payload.kernel_that(code))
        plan = bench.plan()
        plan = replace(
            plan,
            inputs=replace(plan.inputs, kernel=kernel),
            configuration=machine_configuration(replace(ENTRY, debugger=debugger), "tcg"),
        )
        async with asyncio.timeout(SECONDS):
            guest = await bench.hypervisor.create_paused(plan, bench.launch)
            os.close(kernel)
            yield guest
            guest.kill()
            await guest.close()


def test_a_machine_can_be_held_and_let_go_as_often_as_one_likes(bench: Bench) -> None:
    async def story() -> End:
        # Given a machine that runs
        async with created(bench) as guest:
            await guest.resume()
            # When it is paused twice, resumed twice, paused and killed
            for operation in (guest.pause, guest.pause, guest.resume, guest.resume, guest.pause):
                await operation()
            guest.kill()
            return await guest.wait()

    # Then all of it was possible, and it is gone
    assert asyncio.run(story()) is End.GONE


def test_a_paused_machine_stays_paused_for_whoever_adopts_it(tmp_path: Path) -> None:
    async def story() -> tuple[int, int, int]:
        # Given a guest that writes to its console without end, paused by a builder that is gone
        async with running(tmp_path, payload.BEAT) as guest:
            await guest.resume()
            with await guest.connect_console() as console:
                await heard(console)
                await guest.pause()
                await guest.close()
                left = drained(console)
                # What was on its way, and the two bytes in the port's own registers.
                await asyncio.sleep(QUIET)
                left += drained(console)
                # When another builder adopts it, and later lets it go on
                adopted = await Qemu(65534).adopt(tmp_path, guest.process)
                await asyncio.sleep(QUIET)
                silent = drained(console)
                await adopted.resume()
                await heard(console)
                again = drained(console)
            await adopted.close()
            return left, silent, again

    left, silent, again = asyncio.run(story())
    # Then not one instruction was executed in between
    assert (left >= 0, silent, again > 0) == (True, 0, True)


async def heard(console: socket.socket) -> None:
    """Wait until the guest has written something."""
    await asyncio.get_running_loop().run_in_executor(None, console.recv, 1)
    await asyncio.sleep(QUIET)


def drained(console: socket.socket) -> int:
    """Count what is there to be read."""
    console.setblocking(False)
    count = 0
    try:
        while more := console.recv(65536):
            count += len(more)
    except BlockingIOError:
        return count
    finally:
        console.setblocking(True)
    return count


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (payload.POWER_OFF, End.POWERED_OFF),
        (payload.RESET, End.REBOOT),
        (payload.PANIC, End.PANICKED),
        (payload.WATCHDOG, End.WATCHDOG),
        (payload.SLEEP, End.SLEPT),
    ],
    ids=["powers off", "resets", "panics", "lets its watchdog run out", "goes to sleep"],
)
def test_how_a_guest_ends_is_told_apart(tmp_path: Path, code: bytes, end: End) -> None:
    async def story() -> End:
        # Given a machine
        async with running(tmp_path, code) as guest:
            # When its guest does this by itself
            await guest.resume()
            return await guest.wait()

    # Then the machine is gone, and the driver says why
    assert asyncio.run(story()) is end


def test_a_guest_that_cannot_be_asked_is_not_ended_by_asking(tmp_path: Path) -> None:
    async def story() -> bool:
        # Given a guest that knows nothing of a power button
        async with running(tmp_path, payload.BEAT) as guest:
            await guest.resume()
            # When it is asked to stop
            await guest.ask_to_stop()
            await asyncio.sleep(QUIET)
            # Then it runs on
            return guest.process.alive

    assert asyncio.run(story())


def test_a_machine_without_a_debugger_has_none_to_connect_to(bench: Bench) -> None:
    async def story() -> None:
        # Given a machine whose configuration has no debugger
        async with created(bench) as guest:
            # When somebody wants to debug it
            # Then it is refused
            with pytest.raises(Refused) as refused:
                await guest.connect_debugger()
            assert refused.value.code == "TDM-GUEST-NO-DEBUGGER"

    asyncio.run(story())


def test_a_configured_debugger_reads_the_guest(tmp_path: Path) -> None:
    async def story() -> bytes:
        # Given a machine whose measured configuration has a debugger
        async with running(tmp_path, payload.BEAT, debugger=True) as guest:
            await guest.resume()
            # When gdb asks for its registers
            with await guest.connect_debugger() as debugger:
                loop = asyncio.get_running_loop()
                debugger.sendall(b"+$g#67")
                begun, answer = time.monotonic(), b""
                while answer.count(b"#") < 2 and time.monotonic() - begun < SECONDS:
                    answer += await loop.run_in_executor(None, debugger.recv, 65536)
            return answer

    # Then the machine stops for it, and it gets them
    stopped, registers = asyncio.run(story()).split(b"+$")
    assert stopped.startswith(b"$T02")
    assert len(registers) > 64
