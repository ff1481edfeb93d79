"""`tandem verify`: appraise stored evidence, with no TPM, no network and no root.

The command reads files, calls the library and prints.  Parsing is in `evidence`, judging in
`appraisal`; a line of either found here is in the wrong place.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from tandem.appraisal.appraise import Given, appraise
from tandem.appraisal.policy import Policy
from tandem.appraisal.report import write_report
from tandem.appraisal.result import as_json
from tandem.appraisal.verdict import Finding, Link, Tier, Verdict
from tandem.cli.output import EXIT_STATUS, hexadecimal, read_file, write_file
from tandem.cli.policy import load_policy
from tandem.errors import UsageError
from tandem.evidence.deep_quote import NONCE_SIZE

MARK: Final = {Tier.AFFIRMING: "ok", Tier.WARNING: "DOUBT", Tier.CONTRAINDICATED: "BROKEN"}
EXAMPLES: Final = """\
examples:
  tandem verify evidence.json --policy policy.toml --nonce 6c1f...
  tandem verify evidence.json --policy policy.toml --nonce 6c1f... --html report.html
  tandem verify evidence.json --policy policy.toml --nonce 6c1f... --host-log host.log --crl web.crl
  tandem verify answer.bin --policy policy.toml --nonce 6c1f... --json | jq .trusted

exit status: 0 trusted; 10 in doubt, 11 contraindicated, 12 nothing checked: not trusted
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command, its arguments and its help."""
    parser = commands.add_parser(
        "verify",
        help="appraise evidence by a policy",
        description="Appraise the evidence of one guest and say whether it is trusted, and why.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("evidence", metavar="EVIDENCE", help="bundle or bare answer; - for stdin")
    parser.add_argument("--policy", required=True, metavar="FILE", help="what is demanded (TOML)")
    parser.add_argument(
        "--nonce", required=True, metavar="HEX", help="the 32 bytes that the guest was asked with"
    )
    parser.add_argument(
        "--user-data", metavar="HEX", help="demand this user data, whatever the policy says"
    )
    parser.add_argument(
        "--host-log", metavar="FILE", help="the host's event log, to be judged, too"
    )
    parser.add_argument("--ima-log", metavar="FILE", help="the host's IMA list, to be judged, too")
    parser.add_argument(
        *("--ek-certificate",),
        metavar="FILE",
        help="certificate of the vTPM's RSA EK and those above it, to be judged, too",
    )
    parser.add_argument(
        "--crl", metavar="FILE", help="the group's revoked certificates, in place of the policy's"
    )
    parser.add_argument("--at", metavar="TIME", help="appraise as of this time (ISO 8601)")
    parser.add_argument("--html", metavar="FILE", help="write the verdict as a page, too")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Appraise, print, and give the exit status that belongs to the verdict's tier."""
    nonce, at = _nonce(args.nonce), _time(args.at)
    policy = load_policy(args.policy)
    if args.user_data is not None:
        policy = _demand(policy, hexadecimal(args.user_data, "user data"))
    if args.crl is not None:
        policy = replace(policy, crl=read_file(args.crl, "revocation list"))
    given = Given(
        host_log=_given(args.host_log, "host's log"),
        ima_log=_given(args.ima_log, "host's IMA list"),
        ek_certificates=_given(args.ek_certificate, "EK certificate"),
    )
    verdict = appraise(read_file(args.evidence, "evidence"), policy, nonce, at, given)
    if args.html:
        write_file(args.html, write_report(verdict, nonce, at).encode("utf-8"), "report")
    print(as_json(verdict, nonce, at) if args.json else as_text(verdict))
    return EXIT_STATUS[verdict.tier]


def as_text(verdict: Verdict) -> str:
    """Lay the verdict out for a person: the word first, then each link of the chain."""
    lines = [f"{verdict.attester}: {verdict.word}"]
    for link in Link:
        lines += ["", f"{link}", *(_line(each) for each in verdict.along(link))]
    problems = [each for each in verdict.findings if each.tier is not Tier.AFFIRMING]
    if problems:
        lines += ["", f"{verdict.attester} is {verdict.word} because of:"]
        lines += [f"  {each.rule}: {each.found}\n    {each.remedy}" for each in problems]
    return "\n".join([*lines, "", *(f"note: {note}" for note in verdict.notes)])


def _line(finding: Finding) -> str:
    return f"  {MARK[finding.tier]:6} {finding.rule}: {finding.found}"


def _demand(policy: Policy, user_data: bytes) -> Policy:
    return replace(policy, text=replace(policy.text, user_data=user_data))


def _given(path: str | None, what: str) -> bytes | None:
    return None if path is None else read_file(path, what)


def _nonce(text: str) -> bytes:
    nonce = hexadecimal(text, "nonce")
    if len(nonce) != NONCE_SIZE:
        raise UsageError(
            "TDM-VERIFY-NONCE-SIZE",
            f"the nonce has {len(nonce)} bytes, not {NONCE_SIZE}",
            hint="give the very nonce that the guest was asked with, 64 digits",
        )
    return nonce


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            "TDM-VERIFY-NOT-A-TIME",
            f"{text[:40]!a} is not a time",
            hint="write it as in 2026-05-04T12:00:00Z",
        ) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)
