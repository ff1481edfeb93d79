"""What a vTPM gives up, in this order: root, privileges to gain, core dumps, limits, system calls.

After `confine` the process can use the descriptors that it holds and little else: it opens no
file, makes no socket, starts no process and no thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from typing import Final

from tandem.errors import HostError
from tandem.privileges import hide_memory
from tandem.vtpm.forking import made_in_child

SYS_SECCOMP: Final = 317  # seccomp(2) on x86-64: libc has no function for it
SECCOMP_SET_MODE_FILTER: Final = 1  # linux/seccomp.h
SECCOMP_FILTER_FLAG_TSYNC: Final = 1
INSTRUCTION_SIZE: Final = 8  # struct sock_filter, linux/filter.h
MAX_DESCRIPTORS: Final = 64
MAX_FILE_SIZE: Final = 4 << 20  # a state slot has at most 1 MiB
ALLOWED_CALLS: Final = (
    "read", "write", "recvfrom", "sendto", "recvmsg", "sendmsg", "shutdown", "getsockname",
    "getsockopt", "accept4",
    "poll", "ppoll", "pselect6", "close", "pread64", "pwrite64", "ftruncate", "fsync", "lseek",
    "futex", "restart_syscall", "rt_sigreturn", "rt_sigprocmask", "sigaltstack", "sched_yield",
    "mmap", "mremap", "munmap", "mprotect", "madvise", "brk", "getrandom",
    "clock_gettime", "clock_nanosleep", "gettimeofday", "getpid", "gettid", "rseq",
    "exit", "exit_group",
)  # fmt: skip

_call_kernel = ctypes.CDLL(None, use_errno=True).syscall  # looked up here, not in each vTPM


def limit_vtpm() -> None:
    """Keep other processes of the user away from memory, and descriptors and files few."""
    hide_memory()
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, MAX_DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_SIZE, MAX_FILE_SIZE))


class CallFilter:
    """The filter of system calls, compiled once: what it does not list fails with EPERM."""

    def __init__(self) -> None:
        program = made_in_child(_compiled_filter)
        self._code = ctypes.create_string_buffer(program, len(program))
        self._program = _Program(len(program) // INSTRUCTION_SIZE, ctypes.addressof(self._code))

    def load(self) -> None:
        """Bind every thread of this process, for good."""
        load = (SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC)
        if _call_kernel(*load, ctypes.byref(self._program)):
            raise HostError(
                "TDM-CONFINEMENT-FAILED",
                f"seccomp failed: {os.strerror(ctypes.get_errno())}",
                hint="run Tandem on Linux 5.8 or later, outside of other sandboxes",
            )


class _Program(ctypes.Structure):
    """struct sock_fprog, linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _compiled_filter() -> bytes:
    import pyseccomp  # type: ignore[import-untyped]

    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in ALLOWED_CALLS:
        calls.add_rule(pyseccomp.ALLOW, name)
    with open(os.memfd_create("filter"), "w+b") as program:
        calls.export_bpf(program)
        program.seek(0)
        return program.read()
