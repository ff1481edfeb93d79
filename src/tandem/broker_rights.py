"""`broker.toml` of a host, read; without it root alone uses the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tandem.errors import HostError, UsageError
from tandem.files import open_at_once
from tandem.wire.broker_rights import DEFAULT_RIGHTS, RightsFile, parse_rights

MAX_RIGHTS: Final = 256 * 1024


def read_rights(path: Path) -> RightsFile:
    """Read who may do what; a file that says something else than rights is refused by place."""
    try:
        with open(path, "rb", opener=open_at_once) as file:
            data = file.read(MAX_RIGHTS + 1)
        if len(data) > MAX_RIGHTS:
            raise UsageError(
                "TDM-BROKER-RIGHTS-TOO-LARGE",
                f"{path} has more than {MAX_RIGHTS} bytes",
                hint="give rights to groups in place of many users",
            )
        return parse_rights(data.decode("utf-8"))
    except FileNotFoundError:
        return DEFAULT_RIGHTS
    except OSError as error:
        raise HostError(
            "TDM-BROKER-RIGHTS-UNREADABLE",
            f"cannot read {path}: {error.strerror}",
            hint="the broker's user must be able to read it: chmod 644",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "TDM-BROKER-RIGHTS-NOT-TEXT",
            f"{path} is no text: byte {error.start} is not UTF-8",
            hint="write it as TOML; see `tandem broker check --help`",
        ) from error
