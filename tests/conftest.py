"""One real host for every test that needs guests: provisioned, its library signed, enrolled."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import good_run
from demo.stage import Stage
from tests.integration.broker.running_broker import RunningBroker, running_broker

IMAGE = Path(__file__).parent.parent / ".cache" / "images" / "current"


@pytest.fixture(scope="session")
def image() -> Path:
    """The guest image that `make image` builds."""
    assert (IMAGE / "vmlinuz").exists(), "no guest image: run `make image`"
    return IMAGE.resolve()


@pytest.fixture(scope="session")
def stage(image: Path) -> Iterator[Stage]:
    """A running host, as the demonstration makes it; no guest runs yet."""
    with tempfile.TemporaryDirectory(prefix="tandem-test-", dir="/var/tmp") as directory:
        work = Path(directory)
        work.chmod(0o711)
        stage = Stage(host=work / "host", work=work, image=image)
        try:
            good_run.provision_host(stage)
            good_run.sign_library(stage)
            good_run.trust_the_host(stage)
            yield stage
        finally:
            stage.tandem("host", "down", expect=None)


@pytest.fixture(scope="session")
def broker() -> Iterator[RunningBroker]:
    """A host whose Manager and broker run; tests take away what they made in its pTPM."""
    with running_broker() as running:
        yield running
