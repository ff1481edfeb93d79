"""T2: a manipulated copy of a guest runs on the original's vTPM and passes for it (R4).

Attacker: host administrator with a signed library of his own.
Control: plain swtpm and QEMU; the verifier accepts the copy's quote.
Shows: refused beside the running original (TDM-GUEST-RUNNING), and from another library
(TDM-VTPM-OTHER-LIBRARY); by the library's own key holder it is told by PCR 17 and 18, and what was
changed is named.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo import attacks
from demo.good_run import COMMAND_LINE, GUEST
from demo.stage import Stage
from peers import copied_guest
from tandem.errors import Refused


@pytest.fixture(autouse=True)
def no_guest_left(stage: Stage) -> Iterator[None]:
    """End the guest whatever a test did."""
    yield
    stage.tandem("guest", "stop", GUEST, "--kill", expect=None)


def test_control_the_copys_quote_is_accepted_on_plain_swtpm(stage: Stage) -> None:
    # Given a guest that measures itself, on plain swtpm, and a verifier that knows its key
    # When it is stopped, and a manipulated copy boots on the same vTPM and says the same of itself
    # Then the verifier accepts the copy's quote
    assert attacks.copy_passes_on_plain_swtpm(stage)


def test_the_copy_is_refused_beside_the_running_original(stage: Stage) -> None:
    # Given the running original
    [original] = stage.ask("guest", "start", GUEST)
    attacks.own_library(stage, f"{COMMAND_LINE} {copied_guest.MANIPULATED_WORD}")

    # When the administrator starts his copy under the original's name
    refusal = stage.refusal("guest", "start", GUEST, *attacks.own_library_options(stage))

    # Then the builder refuses it, the original runs on, and its vTPM has no socket to connect to
    assert refusal["code"] == "TDM-GUEST-RUNNING"
    assert [pair["pair_id"] for pair in stage.ask("guest", "list")] == [original["pair_id"]]
    assert "no name to connect to" in attacks.paths_to_the_vtpm(original["vtpm_pid"])


def test_the_copy_from_another_library_does_not_get_the_stopped_originals_vtpm(
    stage: Stage,
) -> None:
    # Given an original that was launched and stopped
    stage.tandem("guest", "start", GUEST)
    stage.tandem("guest", "stop", GUEST, "--kill")

    # When the administrator starts his copy under its name, from a library of his own key
    attacks.own_library(stage, f"{COMMAND_LINE} {copied_guest.MANIPULATED_WORD}")
    refusal = stage.refusal("guest", "start", GUEST, *attacks.own_library_options(stage))

    # Then the Manager does not give that vTPM's key away, and nothing runs
    assert refusal["code"] == "TDM-VTPM-OTHER-LIBRARY"
    assert stage.ask("guest", "list") == []


def test_the_copy_by_the_librarys_key_holder_has_other_launch_registers(stage: Stage) -> None:
    # Given the launch registers of an original that was stopped
    stage.tandem("guest", "start", GUEST)
    [original] = stage.ask("guest", "show", GUEST)
    stage.tandem("guest", "stop", GUEST, "--kill")

    # When the copy is started from a library that the trusted key signed, and lies about itself
    manifest = attacks.library_of_the_key_holder(
        stage, f"{COMMAND_LINE} {copied_guest.MANIPULATED_WORD}"
    )
    stage.tandem("guest", "start", GUEST, "--library", manifest)
    with stage.console(GUEST) as console:
        attacks.ready(console)
        copied_guest.measure_itself(console)
    verdict = attacks.attest_now(stage, "copy.json")

    # Then both registers differ from the original's, and the verdict names what was changed
    [copy] = stage.ask("guest", "show", GUEST)
    for register in ("17", "18"):
        ours, theirs = (each["launch"]["registers"][register] for each in (copy, original))
        assert ours != theirs
    assert attacks.named_finding(verdict, "command-line") == "command-line-matches-manifest"


def test_a_library_that_nobody_trusts_starts_nothing(stage: Stage) -> None:
    # Given the administrator's library, signed by a key that the host does not trust
    manifest = attacks.own_library(stage, COMMAND_LINE)

    # When a guest is started from it without that key
    done = stage.tandem("guest", "start", GUEST, "--library", manifest, expect=None)

    # Then a rule says no, and nothing runs
    assert done.returncode == Refused.exit_status
    assert stage.ask("guest", "list") == []


def test_an_untouched_guest_is_trusted(stage: Stage) -> None:
    # Given the original, alone
    stage.tandem("guest", "start", GUEST)

    # When it is attested
    verdict = attacks.attest_now(stage, "original.json")

    # Then it is trusted: the refusals above are not refusals of everything
    assert verdict["trusted"], verdict["findings"]
    assert verdict["attester"] == GUEST
