"""A virtio-serial port of the guest: the way to the host that needs no network."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

from .failure import AttesterError

PORT_NAME = "org.tandem.attester"
PORTS = "/sys/class/virtio-ports"
DRIVER_PATIENCE = 5.0  # seconds
PAUSE = 0.05  # seconds between looks; the kernel cannot wait for a host to connect


def find_port(name: str = PORT_NAME, ports: str = PORTS, patience: float = DRIVER_PATIENCE) -> str:
    """Give the device file of the port with this name, with or without udev's link to it.

    Ports come up some time after their driver is loaded: wait for it, `patience` in seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        for device, its_name in _named_ports(ports):
            if its_name == name:
                return os.path.join("/dev", device)
        if time.monotonic() >= deadline:
            break
        time.sleep(PAUSE)
    raise AttesterError(
        "TDM-ATTESTER-NO-PORT",
        f"this guest has no virtio-serial port {name}",
        hint="load virtio_console, and start the guest with that port",
    )


def _named_ports(ports: str) -> Iterator[tuple[str, str]]:
    try:
        devices = sorted(os.listdir(ports))
    except FileNotFoundError:
        return
    for device in devices:
        with open(os.path.join(ports, device, "name"), encoding="ascii") as file:
            yield device, file.read().strip()


class Port:
    """The open port; what a host left half-said or unread goes with its connection."""

    def __init__(self, path: str) -> None:
        try:
            self._device = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise AttesterError(
                "TDM-ATTESTER-PORT-CLOSED",
                f"cannot open {path}: {error.strerror}",
                hint="only one program can hold the port: stop the other attester",
            ) from error

    def receive(self) -> bytes:
        """Wait for bytes; none at all mean that the host is not connected (any more)."""
        if not self._wait(select.POLLIN):
            time.sleep(PAUSE)
            return b""
        try:
            return os.read(self._device, 4096)
        except BlockingIOError:
            return b""

    def send(self, data: bytes) -> None:
        """Send all of it, or drop the rest when the host goes away: it will ask again."""
        while data and self._wait(select.POLLOUT):
            data = data[self._write(data) :]

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._device, data)
        except BlockingIOError:
            return 0

    def _wait(self, event: int) -> bool:
        """Wait for the event; say whether the host is still there."""
        poll = select.poll()
        poll.register(self._device, event)
        [(_, events)] = poll.poll()
        return bool(events & event) and not events & select.POLLHUP
