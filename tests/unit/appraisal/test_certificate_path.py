"""EK certificate paths: an honest one is found among anything, a hostile one is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tandem.appraisal.certificate_path import MAX_LENGTH, MAX_TRIED, Path, find_ek_path
from tandem.evidence import oids
from tandem.evidence.certificates import Certificate
from tests.unit.appraisal.certificate_maker import DAY, NOW, Maker, ek_maker

ROOT, MIDDLE = Maker("root"), Maker("middle")


def judged(
    root: Maker = ROOT,
    middle: Maker = MIDDLE,
    leaf: Maker | None = None,
    *,
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> Path:
    """Find the path leaf, middle, root; `signer` signs the leaf in the middle's name."""
    end = (leaf or ek_maker()).issued_by(middle, signer)
    return find_ek_path(end, [middle.issued_by(root)], [root.self_issued()], NOW)


def test_a_path_leads_from_the_ek_to_a_given_root() -> None:
    # Given an EK certificate, the vendor's intermediate and its root
    # When the path is looked for
    path = judged()

    # Then it is leaf, intermediate, root
    subjects = [each.subject for each in path.certificates]
    assert subjects == ["CN=a TPM", "CN=middle", "CN=root"]
    assert (path.found, path.problem) == (True, "")


def test_a_given_issuer_is_a_root_whatever_issued_it() -> None:
    # Given the vendor's intermediate as root, itself signed with a weak hash by nobody known
    old = Maker("middle", digest=hashes.SHA224())
    leaf = ek_maker().issued_by(old)

    # When the path is looked for
    path = find_ek_path(leaf, [], [old.issued_by(Maker("unknown"))], NOW)

    # Then it ends there
    assert len(path.certificates) == 2


OTHER = oids.AK_CERTIFICATE
HOSTILE: dict[str, tuple[Callable[[], Path], str]] = {
    "no intermediate": (
        lambda: find_ek_path(ek_maker().issued_by(MIDDLE), [], [ROOT.self_issued()], NOW),
        "no certificate of 'CN=middle' leads on",
    ),
    "other root": (
        lambda: find_ek_path(
            ek_maker().issued_by(MIDDLE), [MIDDLE.issued_by(ROOT)], [Maker("R").self_issued()], NOW
        ),
        "no certificate of 'CN=root' leads on",
    ),
    "named, not signed": (
        lambda: judged(signer=Maker("forger").key),
        "CA 'CN=middle' is named as issuer, but did not sign",
    ),
    "root of the same name": (
        lambda: find_ek_path(ek_maker().issued_by(ROOT), [], [Maker("root").self_issued()], NOW),
        "CA 'CN=root' is named as issuer, but did not sign",
    ),
    "issuer is an EK": (
        lambda: judged(middle=ek_maker("middle")),
        "'CN=middle' is no CA",
    ),
    "issuer without constraints": (
        lambda: judged(middle=Maker("middle", is_ca=None)),
        "'CN=middle' is no CA",
    ),
    "issuer may not sign certificates": (
        lambda: judged(middle=Maker("middle", uses=("crl_sign",))),
        "may not sign certificates",
    ),
    "issuer for other usages": (
        lambda: judged(middle=Maker("middle", usages=(OTHER,))),
        f"extended key usage {oids.EK_CERTIFICATE} is missing",
    ),
    "root allows no CA below": (
        lambda: judged(root=Maker("root", path_length=0)),
        "allows 0 CAs below it, here are 1",
    ),
    "root expired": (
        lambda: judged(root=Maker("root", begins=NOW - 9 * DAY, ends=NOW - DAY)),
        "CA 'CN=root' expired on 2026-05-03",
    ),
    "intermediate not yet in force": (
        lambda: judged(middle=Maker("middle", begins=NOW + DAY)),
        "CA 'CN=middle' is not in force before 2026-05-05",
    ),
    "unknown critical extension": (
        lambda: judged(middle=Maker("middle", critical=x509.OCSPNoCheck())),
        "unknown critical extension 1.3.6.1.5.5.7.48.1.5",
    ),
    "other key id": (
        lambda: judged(
            middle=Maker("middle", key_id=b"one"), leaf=_changed_leaf(authority_key_id=b"two")
        ),
        "has another key than the one that issued",
    ),
    "weak hash": (
        lambda: judged(leaf=_changed_leaf(digest=hashes.SHA224())),
        "'CN=a TPM' is signed with sha224 hash",
    ),
    "weak key": (
        lambda: judged(middle=Maker("middle", key=ec.generate_private_key(ec.SECP192R1()))),
        "has a weak key",
    ),
    "leaf is a CA": (lambda: judged(leaf=Maker("a TPM")), "is one of a CA"),
    "leaf of an AK": (
        lambda: judged(leaf=_changed_leaf(usages=(OTHER,))),
        f"is not for EKs: extended key usage {oids.EK_CERTIFICATE} is missing",
    ),
    "leaf signs": (
        lambda: judged(leaf=_changed_leaf(uses=("digital_signature",))),
        "does not allow key agreement",
    ),
    "leaf without key usage": (
        lambda: judged(leaf=_changed_leaf(uses=None)),
        "does not allow key agreement",
    ),
    "leaf expired": (
        lambda: judged(leaf=_changed_leaf(begins=NOW - 9 * DAY, ends=NOW - DAY)),
        "the EK certificate expired on 2026-05-03",
    ),
}


def _changed_leaf(**changes: object) -> Maker:
    leaf = ek_maker()
    for name, value in changes.items():
        setattr(leaf, name, value)
    return leaf


@pytest.mark.parametrize(("make", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_path_is_named(make: Callable[[], Path], problem: str) -> None:
    # Given certificates with one thing wrong
    # When the path is looked for
    path = make()

    # Then there is none, and the reason is that one
    assert not path.found
    assert problem in path.problem


def test_an_honest_path_is_found_beside_hostile_ones() -> None:
    # Given the right intermediate between forged and expired ones of its name
    leaf, right = ek_maker().issued_by(MIDDLE), MIDDLE.issued_by(ROOT)
    wrong = [
        Maker("middle").issued_by(ROOT),
        MIDDLE.issued_by(Maker("root"), Maker("forger").key),
        Maker("middle", key=MIDDLE.key, ends=NOW - DAY, begins=NOW - 9 * DAY).issued_by(ROOT),
    ]

    # When the path is looked for, the right one last
    path = find_ek_path(leaf, [*wrong, right], [ROOT.self_issued()], NOW)

    # Then it is found
    assert path.certificates[1] == right


def test_a_loop_of_issuers_ends_without_a_path() -> None:
    # Given two CAs that issued each other, and one that issued itself, and no root above them
    one, two = Maker("one"), Maker("two")
    loop = [one.issued_by(two), two.issued_by(one), one.self_issued(), two.self_issued()]

    # When the path is looked for
    path = find_ek_path(ek_maker().issued_by(one), loop, [ROOT.self_issued()], NOW)

    # Then the search ends without one
    assert not path.found


def test_a_crowd_of_issuers_of_one_name_costs_a_bounded_search() -> None:
    # Given cross-certificates among many CAs of one name and key
    twin = Maker("twin")
    crowd = [Maker("twin", key=twin.key).self_issued() for _ in range(40)]

    # When the path is looked for
    path = find_ek_path(ek_maker().issued_by(twin), crowd, [ROOT.self_issued()], NOW)

    # Then it ends, and says how far it went
    assert not path.found
    assert str(MAX_LENGTH) in path.problem or str(MAX_TRIED) in path.problem


def test_a_chain_longer_than_any_vendors_is_refused() -> None:
    # Given a chain of more CAs than are ever needed
    cas = [Maker(f"ca-{number}") for number in range(MAX_LENGTH)]
    between: list[Certificate] = [
        below.issued_by(above) for below, above in zip(cas[1:], cas[:-1], strict=True)
    ]

    # When the path is looked for
    path = find_ek_path(ek_maker().issued_by(cas[-1]), between, [cas[0].self_issued()], NOW)

    # Then it is refused
    assert not path.found
    assert f"more than {MAX_LENGTH} certificates" in path.problem
