"""The engine: libtpms 0.9 in this process through cffi (ABI mode), the only module that calls it.

libtpms is one TPM per process, kept in static variables, so `Engine` is made once.  One thread at
a time may use it; `cancel` alone may be called from another (tpm_library.h).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from tandem.errors import HostError
from tandem.vtpm.forking import made_in_child
from tandem.wire.tpm_commands import Rc, Response, StartupType, parse_response, startup

LIBRARY: Final = "libtpms.so.0"
DECLARATIONS: Final = """
typedef uint32_t TPM_RESULT;
typedef unsigned char TPM_BOOL;
struct libtpms_callbacks {
  int sizeOfStruct;
  TPM_RESULT (*tpm_nvram_init)(void);
  TPM_RESULT (*tpm_nvram_loaddata)(unsigned char **data, uint32_t *length, uint32_t tpm_number,
                                   const char *name);
  TPM_RESULT (*tpm_nvram_storedata)(const unsigned char *data, uint32_t length,
                                    uint32_t tpm_number, const char *name);
  TPM_RESULT (*tpm_nvram_deletename)(uint32_t tpm_number, const char *name, TPM_BOOL mustExist);
  TPM_RESULT (*tpm_io_init)(void);
  TPM_RESULT (*tpm_io_getlocality)(uint32_t *locality, uint32_t tpm_number);
  TPM_RESULT (*tpm_io_getphysicalpresence)(TPM_BOOL *presence, uint32_t tpm_number);
};
TPM_RESULT TPMLIB_RegisterCallbacks(struct libtpms_callbacks *callbacks);
TPM_RESULT TPMLIB_ChooseTPMVersion(int version);
TPM_RESULT TPMLIB_MainInit(void);
void TPMLIB_Terminate(void);
TPM_RESULT TPMLIB_Process(unsigned char **response, uint32_t *size, uint32_t *capacity,
                          unsigned char *command, uint32_t command_size);
TPM_RESULT TPMLIB_CancelCommand(void);
uint32_t TPMLIB_SetBufferSize(uint32_t wanted, uint32_t *minimum, uint32_t *maximum);
TPM_RESULT TPM_IO_Hash_Start(void);
TPM_RESULT TPM_IO_Hash_Data(const unsigned char *data, uint32_t size);
TPM_RESULT TPM_IO_Hash_End(void);
TPM_RESULT TPM_Malloc(unsigned char **buffer, uint32_t size);
void *EVP_CIPHER_fetch(void *context, const char *algorithm, const char *properties);
void *EVP_MAC_fetch(void *context, const char *algorithm, const char *properties);
void *EVP_RAND_fetch(void *context, const char *algorithm, const char *properties);
void *EVP_KEYMGMT_fetch(void *context, const char *algorithm, const char *properties);
void *EVP_SIGNATURE_fetch(void *context, const char *algorithm, const char *properties);
void *EVP_ASYM_CIPHER_fetch(void *context, const char *algorithm, const char *properties);
"""
TPM_VERSION_2: Final = 1  # enum TPMLIB_TPMVersion
SUCCESS: Final = 0
RETRY: Final = 0x800  # TPM_RETRY: "there is no such blob"
PERMANENT: Final = b"permall"  # TPM_PERMANENT_ALL_NAME; the volatile blob is never kept
MAX_RESPONSE: Final = 4096  # TPM_BUFFER_MAX of libtpms 0.9
MAX_COMMAND: Final = 4096


class CommandFailed(HostError):
    """A command of the vTPM's own was answered with `rc`, a TPM_RC."""

    def __init__(self, command: bytes, rc: int) -> None:
        super().__init__(
            "TDM-VTPM-COMMAND-FAILED",
            f"the engine answered command {int.from_bytes(command[6:10]):#x} with {rc:#x}",
            hint="the vTPM's state is not as its Manager left it: report this",
        )
        self.rc = rc


def _interface() -> Any:
    """Give cffi's view of the declarations; its C parser, a megabyte of objects, stays behind."""
    prepared: dict[str, Any] = {}
    exec(made_in_child(_parsed_declarations), prepared)  # noqa: S102 - made here, from constants
    return prepared["ffi"]


def _parsed_declarations() -> bytes:
    from cffi import FFI, recompiler  # type: ignore[import-untyped]

    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source("libtpms", None)
    source = io.StringIO()
    recompiler.make_py_source(ffi, "libtpms", source)
    return source.getvalue().encode()


class Engine:
    """A TPM 2.0 whose permanent state is the bytes in `permanent`.

    `changed` becomes true whenever the engine stored a new permanent state; who saves it elsewhere
    sets it back.
    """

    def __init__(self) -> None:
        ffi = _interface()
        try:
            self._library = ffi.dlopen(LIBRARY)
        except OSError as error:
            raise HostError(
                "TDM-VTPM-NO-LIBTPMS", f"{LIBRARY} cannot be loaded", hint="apt install libtpms0"
            ) from error
        self._ffi = ffi
        self.permanent = b""
        self.changed = False
        self._locality = 0
        self._callbacks = self._make_callbacks()
        self.checked("RegisterCallbacks", self._library.TPMLIB_RegisterCallbacks(self._callbacks))
        self.checked("ChooseTPMVersion", self._library.TPMLIB_ChooseTPMVersion(TPM_VERSION_2))
        # The response buffer has its final size from the start, so libtpms never moves it.
        self._response = ffi.new("unsigned char **")
        self._size = ffi.new("uint32_t *")
        self._capacity = ffi.new("uint32_t *", MAX_RESPONSE)
        self.checked("TPM_Malloc", self._library.TPM_Malloc(self._response, MAX_RESPONSE))
        self.outbox = memoryview(ffi.buffer(self._response[0], MAX_RESPONSE))
        self.inbox = bytearray(MAX_COMMAND)
        self._process = partial(
            self._library.TPMLIB_Process, self._response, self._size, self._capacity
        )
        # For a loop that cannot afford a call more: execute the command of a given length that is
        # in `inbox`; unless the status says otherwise, its response is outbox[: outbox_size[0]].
        inbox = ffi.from_buffer("unsigned char[]", self.inbox)
        self.process_inbox: Callable[[int], int] = partial(self._process, inbox)
        self.outbox_size: Sequence[int] = self._size

    def load_algorithms(self) -> None:
        """Have the OpenSSL behind libtpms build its tables of algorithms; no secret is in them."""
        library, ffi = self._library, self._ffi
        library.EVP_CIPHER_fetch(ffi.NULL, b"AES-256-CTR", ffi.NULL)
        library.EVP_MAC_fetch(ffi.NULL, b"HMAC", ffi.NULL)
        library.EVP_RAND_fetch(ffi.NULL, b"CTR-DRBG", ffi.NULL)
        library.EVP_KEYMGMT_fetch(ffi.NULL, b"RSA", ffi.NULL)
        library.EVP_SIGNATURE_fetch(ffi.NULL, b"RSA", ffi.NULL)
        library.EVP_ASYM_CIPHER_fetch(ffi.NULL, b"RSA", ffi.NULL)

    def run_in(self) -> None:
        """Do what libtpms does on its first use alone, on an empty TPM that is thrown away."""
        self.power_on()
        self.run(startup(StartupType.CLEAR))
        self.power_off()
        self.permanent = b""
        self.changed = False

    def power_on(self) -> None:
        """Do what _TPM_Init does, with the permanent state; manufacture if there is none."""
        self.checked("MainInit", self._library.TPMLIB_MainInit())

    def power_off(self) -> None:
        """Take the power away: everything volatile is gone."""
        self._library.TPMLIB_Terminate()

    def answer(self, command: bytes) -> memoryview:
        """Execute a command; the view is good until the next one."""
        self.checked("Process", self._process(command, len(command)))
        return self.outbox[: self._size[0]]

    def run(self, command: bytes, *, with_handle: bool = False) -> Response:
        """Execute one of the vTPM's own commands, at the locality that holds; it must succeed."""
        response = parse_response(bytes(self.answer(command)), with_handle=with_handle)
        if response.code != Rc.SUCCESS:
            raise CommandFailed(command, response.code)
        return response

    @property
    def locality(self) -> int:
        """The locality that commands come from; any but 0 costs a callback for each command."""
        return self._locality

    @locality.setter
    def locality(self, locality: int) -> None:
        if locality == self._locality:
            return
        self._locality = locality
        # Without this callback libtpms takes locality 0.
        self._callbacks.tpm_io_getlocality = self._get_locality if locality else self._ffi.NULL
        self.checked("RegisterCallbacks", self._library.TPMLIB_RegisterCallbacks(self._callbacks))

    @contextmanager
    def at_locality(self, locality: int) -> Iterator[None]:
        """Execute what follows at another locality, then return to the guest's."""
        before = self.locality
        self.locality = locality
        try:
            yield
        finally:
            self.locality = before

    def hash_sequence(self, data: bytes) -> None:
        """Run _TPM_Hash_Start, _Data and _End (Part 3, 22.8 to 22.10), as a D-RTM does."""
        self.checked("Hash_Start", self._library.TPM_IO_Hash_Start())
        self.checked("Hash_Data", self._library.TPM_IO_Hash_Data(data, len(data)))
        self.checked("Hash_End", self._library.TPM_IO_Hash_End())

    def cancel(self) -> None:
        """Ask the command that runs to stop; safe from any thread."""
        self._library.TPMLIB_CancelCommand()

    def set_buffer_size(self, wanted: int) -> tuple[int, int, int]:
        """Set the command buffer's size (0 asks only); give it with its smallest and largest."""
        smallest, largest = self._ffi.new("uint32_t *"), self._ffi.new("uint32_t *")
        size = self._library.TPMLIB_SetBufferSize(wanted, smallest, largest)
        return int(size), int(smallest[0]), int(largest[0])

    def _make_callbacks(self) -> Any:
        ffi = self._ffi
        self._get_locality = ffi.callback("TPM_RESULT(uint32_t *, uint32_t)", self._give_locality)
        self._kept = {
            "tpm_nvram_init": ffi.callback("TPM_RESULT(void)", lambda: SUCCESS),
            "tpm_nvram_loaddata": ffi.callback(
                "TPM_RESULT(unsigned char **, uint32_t *, uint32_t, char const *)", self._load
            ),
            "tpm_nvram_storedata": ffi.callback(
                "TPM_RESULT(unsigned char const *, uint32_t, uint32_t, char const *)", self._store
            ),
            "tpm_nvram_deletename": ffi.callback(
                "TPM_RESULT(uint32_t, char const *, TPM_BOOL)", lambda _n, _name, _must: SUCCESS
            ),
        }
        size = ffi.sizeof("struct libtpms_callbacks")
        return ffi.new("struct libtpms_callbacks *", {"sizeOfStruct": size, **self._kept})

    def _give_locality(self, locality: Any, _number: int) -> int:
        locality[0] = self._locality
        return SUCCESS

    def _load(self, data: Any, length: Any, _number: int, name: Any) -> int:
        if self._ffi.string(name) != PERMANENT or not self.permanent:
            return RETRY
        status = int(self._library.TPM_Malloc(data, len(self.permanent)))
        if status == SUCCESS:
            self._ffi.memmove(data[0], self.permanent, len(self.permanent))
            length[0] = len(self.permanent)
        return status

    def _store(self, data: Any, length: int, _number: int, name: Any) -> int:
        if self._ffi.string(name) == PERMANENT:
            self.permanent = bytes(self._ffi.buffer(data, length))
            self.changed = True
        return SUCCESS

    def checked(self, call: str, status: int) -> None:
        """Refuse any status of a libtpms call but success."""
        if status != SUCCESS:
            raise HostError(
                "TDM-VTPM-ENGINE-FAILED",
                f"libtpms gave {status:#x} at {call}",
                hint="the state may be of a newer libtpms: use the version that wrote it",
            )
