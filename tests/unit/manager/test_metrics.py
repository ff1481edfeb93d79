"""The Manager's metrics: what is counted as what."""

from __future__ import annotations

from typing import Any, cast

from tandem.manager.clients import Client
from tandem.manager.metrics import PAGE, ManagerMetrics
from tandem.metrics import parse_records, prometheus_text
from tandem.wire.manager_rpc import AskMetrics, HostStatus

QUOTE, RETRY, LOCKOUT = 0x158, 0x922, 0x921
STATUS = HostStatus(
    ptpm="embedded",
    hardware_root=False,
    host_ak_name=b"name",
    store_commits=7,
    deep_quotes=30,
    ptpm_quotes=3,
    open_pairs=2,
    store_version=9,
    rollback_window=0,
    nv_writes=8,
    nv_budget=100_000,
    nv_writes_a_day=8,
    nv_days_left=1000,
    nv_over_pace=False,
)


class Asker:
    """Stands for a connection: each has pages of its own."""


def metrics() -> ManagerMetrics:
    return ManagerMetrics(lambda: STATUS, lambda: 5)


def asked(counted: ManagerMetrics) -> list[dict[str, Any]]:
    """Ask page by page, as the command line does."""
    client, data = cast("Client", Asker()), b""
    while True:
        page = counted._ask(client, AskMetrics(offset=len(data)))
        assert len(page.data) <= PAGE
        data += page.data
        if len(data) >= page.total:
            return parse_records(data, "metrics")


def test_what_the_service_knows_is_told_at_the_moment_of_asking() -> None:
    # Given a service
    # When its metrics are asked for
    text = prometheus_text(asked(metrics()))
    # Then they say what its status says
    for line in ("tandem_pairs 2", "tandem_nv_writes 8", "tandem_manager_connections 5"):
        assert f"\n{line}\n" in text


def test_a_busy_answer_is_no_error_and_takes_no_time() -> None:
    # Given a pTPM that was busy once, failed once and answered once
    counted = metrics()
    counted.observe_command(QUOTE, RETRY, 0.0)
    counted.observe_command(QUOTE, LOCKOUT, 0.001)
    counted.observe_command(QUOTE, 0, 0.25)
    # When that is told
    text = prometheus_text(asked(counted))
    # Then each is counted as what it was
    assert 'tandem_ptpm_busy_total{command="quote"} 1' in text
    assert 'tandem_ptpm_errors_total{command="quote"} 1' in text
    assert 'tandem_ptpm_command_seconds_count{command="quote"} 2' in text


def test_commands_that_no_specification_has_share_one_name() -> None:
    # Given commands that a client of the broker made up
    counted = metrics()
    for code in range(0x9000, 0x9100):
        counted.observe_command(code, 0, 0.0)
    # When that is told
    [metric] = [each for each in asked(counted) if each["name"] == "tandem_ptpm_command_seconds"]
    # Then they do not fill anybody's memory
    assert [sample["labels"] for sample in metric["samples"]] == [{"command": "unknown"}]


def test_a_page_that_is_asked_for_alone_is_of_a_whole() -> None:
    # Given a client that begins in the middle
    counted = metrics()
    whole = counted._ask(cast("Client", Asker()), AskMetrics(offset=0))
    # When it asks
    page = counted._ask(cast("Client", Asker()), AskMetrics(offset=10))
    # Then it gets the rest
    assert page.total == whole.total
    assert page.data[: PAGE - 10] == whole.data[10:]
