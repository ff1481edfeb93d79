"""The report page: complete, self-contained, and never written by the guest."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

from tandem.appraisal.report import text, write_report
from tandem.appraisal.report_picture import draw
from tandem.appraisal.result import as_json, trust_vector
from tandem.appraisal.rules import Rule
from tandem.appraisal.verdict import Claim, Link, Tier
from tests.unit.appraisal.forge import NONCE, NOW, Forge, finding, guest_entry, library

HOSTILE = "<script>alert(1)</script> <img src=//evil/x>"


class Page(HTMLParser):
    """Collects what a browser would load, run or show."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        loading = {"src", "href", "srcset", "data", "action", "style"}
        self.references += [name for name, _ in attrs if name in loading or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def hostile() -> Forge:
    entries = {"web": guest_entry(), "evil": guest_entry(command_line=HOSTILE)}
    return Forge(library=library(entries=entries), entry="evil", guest="web-01")


def test_a_page_has_no_scripts_and_no_other_resources() -> None:
    # Given a verdict on evidence that carries markup
    page = write_report(hostile().verdict(), NONCE, NOW)

    # When a browser's parser reads its report
    read = Page(page)

    # Then nothing is run or loaded, and the markup is shown as text
    assert not {"script", "img", "iframe", "object", "link", "a", "form"} & set(read.tags)
    assert read.references == []
    assert HOSTILE in "".join(read.words)
    assert "http" not in page.replace("http-equiv", "")


def test_a_page_shows_every_finding_and_note() -> None:
    # Given a verdict
    verdict = Forge().verdict()

    # When its report is read
    words = "".join(Page(write_report(verdict, NONCE, NOW)).words)

    # Then each finding and each note is there
    assert all(each.rule in words and each.found in words for each in verdict.findings)
    assert all(note in words for note in verdict.notes)
    assert "Trusted" in words


def test_what_does_not_print_is_replaced() -> None:
    # Given a text with a line break, an escape and a mark that turns the direction of reading
    given = "a\nb\x1b[31m\u202ec"

    # When it is made safe
    # Then each is replaced
    assert text(given) == "a\ufffdb\ufffd[31m\ufffdc"


def test_the_picture_breaks_where_the_chain_does() -> None:
    # Given evidence whose leaf is not in the quoted tree
    verdict = Forge(answer_changes={"salt": bytes(32)}).verdict()

    # When its picture is drawn
    picture = ElementTree.fromstring(draw(verdict))  # noqa: S314 - our own drawing
    groups = [each.get("class") for each in picture.findall("g")]

    # Then the third connection and the fourth box are broken, and nothing else
    ties, boxes = groups[:4], groups[4:]
    assert ties == ["affirming", "affirming", "contraindicated", "affirming"]
    assert boxes == ["affirming"] * 3 + ["contraindicated", "affirming"]
    assert len(boxes) == len(Link)


def test_the_result_carries_the_trust_vector() -> None:
    # Given a verdict with a changed command line
    verdict = hostile().verdict()

    # When it is written for programs
    record = json.loads(as_json(verdict, NONCE, NOW))

    # Then tier, vector and the finding are there, by AR4SI's names and numbers
    assert record["trusted"] is False
    assert record["tier"] == "CONTRAINDICATED"
    assert record["trustworthiness_vector"] == trust_vector(verdict)
    assert record["trustworthiness_vector"]["configuration"] == Tier.CONTRAINDICATED
    assert record["trustworthiness_vector"]["file-system"] == Tier.NONE
    assert set(record["trustworthiness_vector"]) == {str(claim) for claim in Claim}
    [found] = [each for each in record["findings"] if each["rule"] == Rule.COMMAND_LINE.title]
    assert found["found"] == finding(verdict, Rule.COMMAND_LINE.title).found
