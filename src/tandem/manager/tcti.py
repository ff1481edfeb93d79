"""The way to the physical TPM: one descriptor, spoken over by tpm2-pytss, whose errors become ours.

The same class serves a device that is opened exclusively and the socket of a software TPM.  A TPM
that is busy is asked again, within a bound; one that hangs, is reset, vanishes or answers nonsense
is given up for good, for what it did with the last command cannot be known over this connection.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NoReturn

os.environ.setdefault("TSS2_LOG", "all+none")  # what fails is raised; the library prints it too

import tpm2_pytss as tss  # type: ignore[import-untyped]

from tandem.errors import HostError
from tandem.wire.tpm_table import TABLE

RESPONSE_SIZE: Final = 4096
HEADER_SIZE: Final = 10  # tag (2), size (4), command or response code (4): Part 1, 18
RC_LAYER_MASK: Final = 0xFFFF0000  # 0: the TPM itself answered so (TSS 2.0 overview, 3.4)
TAGS: Final = (0x8001, 0x8002, 0x00C4)  # TPM_ST_NO_SESSIONS, _SESSIONS, _RSP_COMMAND (Part 2, 6.9)

# Warnings that ask for the same command again, later (Part 2, 6.6.3): TPM_RC_RETRY, _YIELDED,
# _TESTING, _NV_RATE and _NV_UNAVAILABLE.  The TPM did nothing, so nothing is done twice.
BUSY: Final = frozenset({0x922, 0x908, 0x90A, 0x920, 0x923})
INITIALIZE: Final = 0x100
LOCKOUT: Final = 0x921
CANCELED: Final = 0x909
STARTUP: Final = 0x144

FIRST_PAUSE: Final = 0.005  # seconds, doubled each time
LONGEST_PAUSE: Final = 0.5
BUSY_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0
# TPM2_CreatePrimary, _Create, _CreateLoaded: an RSA key may take minutes, and the kernel's own
# driver waits for 300 s (drivers/char/tpm/tpm2-cmd.c, TPM2_DURATION_LONG_LONG).
CREATION: Final = frozenset({0x131, 0x153, 0x191})
CREATION_SECONDS: Final = 300.0
SLICE_SECONDS: Final = 1.0  # how often a wait tells that it goes on
NV_CHANGES: Final = frozenset(code for code, row in TABLE.items() if row.wears)


class PtpmFailed(HostError):
    """The pTPM, or the way to it, failed; `number` is its response code, 0 where it gave none."""

    def __init__(self, code: str, problem: str, *, hint: str, number: int) -> None:
        super().__init__(code, problem, hint=hint)
        self.number = number


class DescriptorTcti(tss.PyTCTI):  # type: ignore[misc]  # the library's class is not annotated
    """Commands and responses over one descriptor: a TPM character device, or a socket.

    `ended` says why the pTPM was given up, and nothing is sent any more once it is set.  `waiting`
    is called about once a second while the TPM takes its time, `observe` after each command with
    its code, its response code and the seconds that it took, `stored` once the TPM has changed its
    NV memory and before anybody hears of it.
    """

    def __init__(self, descriptor: int, answer_seconds: float = ANSWER_SECONDS) -> None:
        super().__init__(max_size=RESPONSE_SIZE)
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._answer_seconds = answer_seconds
        self._command = b""
        self.ended: PtpmFailed | None = None
        self.waiting: Callable[[], None] = _nothing
        self.observe: Callable[[int, int, float], None] = _nothing
        self.stored: Callable[[], None] = _nothing

    def transceive(self, command: bytes) -> bytes:
        """Send one raw command between two of ESAPI's, and give the response, also a failing one.

        Errors: `PtpmFailed` where there is no response, at once where the pTPM was given up before.
        """
        deadline = time.monotonic() + BUSY_SECONDS
        pause = FIRST_PAUSE
        while True:
            response = self._exchange(command)
            if _code(response) not in BUSY or time.monotonic() + pause > deadline:
                return response
            self.waiting()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def give_up_after_reset(self, what: str) -> NoReturn:
        """Send nothing more to a pTPM that was seen to be reset, and raise so."""
        self._end(_reset(what))

    def do_transmit(self, command: bytes) -> None:
        """Keep one whole command of ESAPI's; it is sent once the response is asked for."""
        self._command = command

    def do_receive(self, timeout: int) -> bytes:
        """Send the kept command, and give its response.

        ESAPI asks a busy TPM again five times without a pause; here it was asked for long enough,
        so it is told that the command was cancelled, which it was.
        """
        response = self.transceive(self._command)
        if _code(response) in BUSY:
            return response[:6] + CANCELED.to_bytes(4) + response[HEADER_SIZE:]
        return response

    def _exchange(self, command: bytes) -> bytes:
        """Send a command once."""
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        started = time.monotonic()
        try:
            self._expect_silence()
            os.write(self._descriptor, command)
            response = self._response(command, started)
            if _code(command) in NV_CHANGES and not _code(response):
                self.stored()
        except OSError as error:
            self._end(_gone(error.strerror or type(error).__name__), error)
        self.observe(_code(command), _code(response), time.monotonic() - started)
        if _code(response) == INITIALIZE and _code(command) != STARTUP:
            self._end(_reset("it has to be started again"))
        return response

    def _expect_silence(self) -> None:
        """Give up a TPM that says something unasked: it would be taken for the next response."""
        if self._wait_for_more(0.0):
            unasked = os.read(self._descriptor, RESPONSE_SIZE)
            self._end(_garbled(unasked) if unasked else _gone("it hung up"))

    def _response(self, command: bytes, started: float) -> bytes:
        """Read one whole response; a socket may give it in parts."""
        seconds = CREATION_SECONDS if _code(command) in CREATION else self._answer_seconds
        response = b""
        while len(response) < HEADER_SIZE or len(response) < int.from_bytes(response[2:6]):
            if not self._wait_for_more(started + seconds):
                self._end(_hung(_code(command), seconds))
            more = os.read(self._descriptor, RESPONSE_SIZE)
            if not more:
                raise ConnectionResetError
            response += more
            if not _is_begun(response):
                self._end(_garbled(response))
        if len(response) != int.from_bytes(response[2:6]):
            self._end(_garbled(response))
        return response

    def _wait_for_more(self, deadline: float) -> bool:
        """Wait until something can be read; False when the time is over."""
        while not self._poll.poll(1000 * max(0.0, min(SLICE_SECONDS, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
            self.waiting()
        return True

    def _end(self, failure: PtpmFailed, cause: OSError | None = None) -> NoReturn:
        self.ended = failure
        raise failure from cause


@lru_cache(maxsize=256)  # for each command: the library takes 10 us for a name
def command_name(code: int) -> str:
    """Give a command's name in the specification (Part 2, 6.5.2), without its prefix."""
    name = str(tss.TPM2_CC(code)).lower()
    return "unknown" if name.isdigit() else name


class Esys:
    """ESAPI, with its errors as `PtpmFailed`."""

    def __init__(self, descriptor: int) -> None:
        self.tcti = DescriptorTcti(descriptor)
        self._esapi = tss.ESAPI(self.tcti)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._esapi, name)

        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return method(*arguments, **named)
            except tss.TSS2_Exception as error:
                if self.tcti.ended is not None:
                    raise self.tcti.ended.with_traceback(None) from error
                raise _failure(name, error) from error

        return call


def _failure(what: str, error: tss.TSS2_Exception) -> PtpmFailed:
    if error.rc & RC_LAYER_MASK:
        return _gone(f"{what}: {error}")
    number = int(error.error)
    match number:
        case tss.TPM2_RC.FAILURE:
            return PtpmFailed(
                "TDM-PTPM-FAILURE-MODE",
                f"the pTPM is in failure mode and refuses {what}",
                hint="make room on the disk for an embedded pTPM; a hardware one needs a power "
                "cycle",
                number=number,
            )
        case tss.TPM2_RC.CANCELED:
            return PtpmFailed(
                "TDM-PTPM-BUSY",
                f"the pTPM was busy for {BUSY_SECONDS:.0f} s and did not do {what}",
                hint="ask again; a TPM that tests itself or limits its NV writes needs a while",
                number=number,
            )
        case tss.TPM2_RC.LOCKOUT:
            return PtpmFailed(
                "TDM-PTPM-LOCKOUT",
                f"the pTPM refuses {what}: it is locked after too many wrong authorizations",
                hint="wait until it forgets them, or reset it with `tpm2_dictionarylockout -c`; "
                "nothing of the Manager's counts, so somebody guesses passwords",
                number=number,
            )
        case _:
            return PtpmFailed(
                "TDM-PTPM-FAILED",
                f"the pTPM fails {what} with {error.rc:#x}: {error}",
                hint="Tandem needs its owner and endorsement hierarchies enabled, without "
                "authorization",
                number=number,
            )


def _hung(code: int, seconds: float) -> PtpmFailed:
    return PtpmFailed(
        "TDM-PTPM-HUNG",
        f"the pTPM did not answer command {code:#x} in {seconds:.0f} s",
        hint="start the host's services again; if it hangs again, a hardware TPM needs a power "
        "cycle of the machine",
        number=0,
    )


def _reset(what: str) -> PtpmFailed:
    return PtpmFailed(
        "TDM-PTPM-RESET",
        f"the pTPM was reset under the running host: {what}",
        hint="its PCRs no longer say what this host runs: start the machine again, and find out "
        "who can reset its TPM",
        number=0,
    )


def _gone(why: str) -> PtpmFailed:
    return PtpmFailed(
        "TDM-PTPM-GONE",
        f"the pTPM does not answer: {why}",
        hint="start the host again; an embedded pTPM says in run/swtpm.log why it ended",
        number=0,
    )


def _garbled(response: bytes) -> PtpmFailed:
    return PtpmFailed(
        "TDM-PTPM-GARBLED",
        f"the pTPM answers what is no TPM response: {response[:HEADER_SIZE].hex()}",
        hint="start the host's services again; if it goes on, the TPM or its driver is broken",
        number=0,
    )


def _is_begun(response: bytes) -> bool:
    """Whether this begins as a response does; what is not there yet is right."""
    if len(response) < HEADER_SIZE:
        return True
    size = int.from_bytes(response[2:6])
    return int.from_bytes(response[:2]) in TAGS and HEADER_SIZE <= size <= RESPONSE_SIZE


def _code(data: bytes) -> int:
    """Give the command code or response code of a header."""
    return int.from_bytes(data[6:HEADER_SIZE])


def _nothing(*_: object) -> None:
    """Do nothing."""
