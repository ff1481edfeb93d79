"""`broker.toml` of a host, read; without it root alone uses the broker."""

from __future__ import annotations

from pathlib import Path

from tandem.errors import HostError, UsageError
from tandem.wire.broker_rights import DEFAULT_RIGHTS, RightsFile, parse_rights


def read_rights(path: Path) -> RightsFile:
    """Read who may do what; a file that says something else than rights is refused by place."""
    try:
        return parse_rights(path.read_text("utf-8"))
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
