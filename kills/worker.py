"""One host of a campaign, in a process of its own that is the subreaper of that host alone.

It prints JSON lines: `{"violation": …}` at once, `{"moments": …}` after each moment, and at last
`{"done": …}`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from kills.campaign import Campaign
from kills.host import Host
from kills.watch import become_subreaper


def run(seed: str, moments: int, seconds: float, again: str) -> int:
    """Make a host, kill on it until so many moments or seconds are over, and take it down."""
    become_subreaper()
    host = Host()
    broken = True
    try:
        host.make()
        report = asyncio.run(_run(host, seed, moments, seconds, again))
        broken = bool(report["violations"])
        say(done=report)
    finally:
        if broken:
            say(kept=str(host.directory))
        else:
            host.remove()
    return 0


async def _run(host: Host, seed: str, moments: int, seconds: float, again: str) -> dict[str, Any]:
    campaign, enough = Campaign(host, say), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, enough.set)  # the burst still comes to its end
    loop.call_later(seconds, enough.set)
    async with campaign.running():
        while campaign.report.moments < moments and not enough.is_set():
            await campaign.run_burst(again or f"{seed}/{campaign.report.bursts}")
    return campaign.finished().as_record()


def say(**members: Any) -> None:
    """Print one line for the parent."""
    try:
        print(json.dumps(members), flush=True)
    except BrokenPipeError as error:  # the parent was killed: this host ends, too
        sys.stdout = sys.stderr
        raise SystemExit(1) from error
