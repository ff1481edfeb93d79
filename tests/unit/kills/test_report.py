"""A campaign's report adds up what its hosts met."""

from __future__ import annotations

from collections import Counter

from kills.report import Report, added_up, lines, summary


def test_two_hosts_are_added_up_and_a_violation_is_not_lost() -> None:
    # Given two hosts' records
    one = Report(moments=2, kills=Counter(vtpm=1), ended={"vtpm": [0.1]}, longest_stall=0.5)
    other = Report(moments=3, kills=Counter(vtpm=2, broker=1), ended={"vtpm": [0.3, 0.2]})
    other.violations = [{"rule": "lost", "burst": "1/0/4", "what": "2 was acknowledged"}]
    # When they are added up and summed up
    done = summary(added_up([one.as_record(), other.as_record()]), "1", 10.0)
    # Then counts are sums, and the text names what was broken
    assert (done["moments"], done["kills"]) == (5, {"vtpm": 3, "broker": 1})
    assert done["ended"] == {"vtpm": {"count": 3, "median": 0.2, "longest": 0.3}}
    assert done["longest_stall"] == 0.5
    text = "\n".join(lines(done))
    assert "5 moments, 4 processes killed (1 broker, 3 vtpm)" in text
    assert "violations: 1 lost" in text
