"""Where a host keeps what: everything below one directory, nothing twice."""

from __future__ import annotations

from pathlib import Path

from tandem.settings import DEFAULT_PCRS, UID_BASE, HostPaths

LAST_16_BIT_UID = 0xFFFF  # what adduser and systemd give out (systemd, UIDS-GIDS.md)
LAST_UID = 0xFFFFFFFE


def test_every_path_is_below_the_hosts_directory() -> None:
    # Given a host
    root = Path("/somewhere/host")
    # When its paths are listed
    names = [name for name, value in vars(HostPaths).items() if isinstance(value, property)]
    paths = [getattr(HostPaths(root), name) for name in names]
    # Then each is below its directory, and no two are the same
    assert all(path.is_relative_to(root) and path != root for path in paths)
    assert len(set(paths)) == len(paths) >= 9


def test_sockets_and_logs_lie_where_only_root_makes_files() -> None:
    # Given a host
    paths = HostPaths(Path("/host"))
    # When it is asked for what root opens by name
    opened = (paths.manager_socket, paths.builder_socket, paths.ptpm_log)
    # Then none is in a directory of a service's own user
    assert {path.parent for path in opened} == {paths.run}


def test_users_of_tandem_are_numbers_of_nobody_else() -> None:
    # Given the range of users of a host: the Manager, then two for each of 65,536 slots
    last = UID_BASE + 0x1000 + 2 * 0x10000
    # When it is compared with what else numbers users
    # Then it is above what is given out, and below what means nobody
    assert UID_BASE > LAST_16_BIT_UID
    assert last < LAST_UID
    assert UID_BASE.to_bytes(4)[:2] == b"TD"


def test_the_embedded_ptpm_is_measured_into_what_it_seals_to() -> None:
    # Given the registers that the Manager extends
    from tandem.manager.host_log import KERNEL_REGISTER, SOFTWARE_REGISTER

    # When they are compared with what it seals to by default
    # Then they are the same
    assert set(DEFAULT_PCRS) == {KERNEL_REGISTER, SOFTWARE_REGISTER}
