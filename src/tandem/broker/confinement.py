"""What the broker gives up once its sockets are open: other programs, and most system calls.

It goes on accepting clients and writing one file of figures; it starts no process and makes no
socket.
"""

from __future__ import annotations

import errno
from typing import Final

import pyseccomp  # type: ignore[import-untyped]

ALLOWED_CALLS: Final = (
    *("read", "write", "readv", "writev", "close", "lseek", "fstat", "newfstatat", "stat", "lstat"),
    *("openat", "open", "rename", "renameat", "unlink", "unlinkat", "fsync", "fcntl", "ioctl"),
    *("readlink", "getcwd", "getdents64", "statx", "access", "faccessat", "faccessat2", "fchmod"),
    *("recvfrom", "sendto", "recvmsg", "sendmsg", "accept4", "accept", "shutdown"),
    *("getsockopt", "setsockopt", "getsockname", "getpeername"),
    *("epoll_wait", "epoll_pwait", "epoll_ctl", "poll", "ppoll", "select", "pselect6"),
    *("futex", "restart_syscall", "rt_sigreturn", "rt_sigprocmask", "rt_sigaction", "sigaltstack"),
    *("mmap", "mremap", "munmap", "mprotect", "madvise", "brk", "getrandom", "sched_yield"),
    *("clock_gettime", "clock_nanosleep", "gettimeofday", "getpid", "gettid", "getuid", "geteuid"),
    *("rseq", "exit", "exit_group"),
)


def confine() -> None:
    """Bind this process for good; every other system call fails with EPERM."""
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in ALLOWED_CALLS:
        calls.add_rule(pyseccomp.ALLOW, name)
    calls.load()
