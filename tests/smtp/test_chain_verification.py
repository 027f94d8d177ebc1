"""Chains verified offline, names, digests and TLSA."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.policy.dns_answer import TlsaRecord
from mtasts_daemon.smtp.certificates import names_match, read_leaf, tlsa_matches
from mtasts_daemon.smtp.chain_verification import ChainVerifier, dane_problem

HOST = "mx.example.com"
DAY = timedelta(days=1)


def certificate(
    key: Any,
    *,
    issuer: "tuple[x509.Certificate, Any] | None" = None,
    name: str = HOST,
    ca: bool = False,
    ends: int = 30,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signer = issuer[1] if issuer else key
    builder = (
        x509.CertificateBuilder(issuer[0].subject if issuer else subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 60 * DAY)
        .not_valid_after(now + ends * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm)


def der(found: x509.Certificate) -> bytes:
    return found.public_bytes(Encoding.DER)


def spki(found: x509.Certificate) -> bytes:
    return found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = certificate(ROOT_KEY, ca=True, name="Root")
MIDDLE_KEY = ec.generate_private_key(ec.SECP256R1())
MIDDLE = certificate(MIDDLE_KEY, issuer=(ROOT, ROOT_KEY), ca=True, name="Middle")


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> ChainVerifier:
    file = tmp_path_factory.mktemp("ca") / "root.pem"
    file.write_bytes(ROOT.public_bytes(Encoding.PEM))
    return ChainVerifier(file)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["p256", "p384", "rsa", "ed25519"],
)
def test_trusted_chain_of_any_key_verifies(verifier: ChainVerifier, key: Any) -> None:
    leaf = certificate(key, issuer=(MIDDLE, MIDDLE_KEY))
    assert verifier.problem([der(leaf), der(MIDDLE)]) is None
    missing = verifier.problem([der(leaf)])
    assert missing is not None
    assert missing.slug == "certificate-untrusted"


def test_weak_key_is_refused(verifier: ChainVerifier) -> None:
    leaf = certificate(rsa.generate_private_key(65537, 1024), issuer=(ROOT, ROOT_KEY))
    refused = verifier.problem([der(leaf)])
    assert refused is not None
    assert (refused.slug, refused.detail) == ("certificate-invalid", "EE certificate key too weak")


def test_long_chain_is_verified_across_records(verifier: ChainVerifier) -> None:
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()), issuer=(MIDDLE, MIDDLE_KEY))
    padding = [der(certificate(rsa.generate_private_key(65537, 2048), name=f"{n}.example", ca=True)) for n in range(2)]
    assert verifier.problem([der(leaf), der(MIDDLE), *padding * 20]) is None


@pytest.mark.parametrize("chain", [[], [b""], [b"x"], [b"x" * 200_000], [b"\x30\x03\x02\x01\x00"]])
def test_rubbish_is_refused_and_raises_nothing(verifier: ChainVerifier, chain: list[bytes]) -> None:
    refused = verifier.problem(chain)
    assert refused is not None
    assert refused.slug == "certificate-invalid"
    if chain:
        assert not read_leaf(chain[0]).readable


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_leaf(raw: bytes) -> None:
    assert read_leaf(raw).sha256 == hashlib.sha256(raw).hexdigest()
    assert not tlsa_matches(TlsaRecord(3, 1, 1, raw), raw)


def test_damaged_certificates_raise_nothing(verifier: ChainVerifier) -> None:
    good = der(certificate(ROOT_KEY))
    for at in range(0, len(good), 3):
        bad = good[:at] + bytes((good[at] ^ 0x55,)) + good[at + 1 :]
        read_leaf(bad)
        assert verifier.problem([bad]) is not None


@pytest.mark.parametrize(
    ("names", "host", "match"),
    [
        (["mx.example.com"], "MX.example.com.", True),
        (["*.example.com"], "mx.example.com", True),
        (["*.example.com"], "a.mx.example.com", False),
        (["*.example.com"], "example.com", False),
        (["m*.example.com"], "mx.example.com", False),
        (["*"], "com", False),
        ([], "mx.example.com", False),
    ],
)
def test_names_match_as_rfc_9525_says(names: list[str], host: str, match: bool) -> None:
    assert names_match(names, host) is match


def record(usage: int, selector: int, matching: int, found: x509.Certificate) -> TlsaRecord:
    data = spki(found) if selector else der(found)
    digest = (data, hashlib.sha256(data).digest(), hashlib.sha512(data).digest())[matching]
    return TlsaRecord(usage, selector, matching, digest)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_dane_ee_ignores_name_and_dates(selector: int, matching: int) -> None:
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()), name="other.example", ends=-1)
    assert dane_problem([record(3, selector, matching, leaf)], [der(leaf)], [HOST]) is None


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [1, 2])
@pytest.mark.parametrize("anchor", [MIDDLE, ROOT], ids=["intermediate", "root"])
def test_dane_ta_builds_to_anchor_in_chain(selector: int, matching: int, anchor: x509.Certificate) -> None:
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()), issuer=(MIDDLE, MIDDLE_KEY))
    chain = [der(leaf), der(MIDDLE), der(ROOT)]
    assert dane_problem([record(2, selector, matching, anchor)], chain, [HOST]) is None


def test_dane_ta_with_whole_anchor_needs_it_not_in_chain() -> None:
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()), issuer=(MIDDLE, MIDDLE_KEY))
    assert dane_problem([record(2, 0, 0, MIDDLE)], [der(leaf)], [HOST]) is None


@pytest.mark.parametrize(
    ("name", "ends", "said"), [("other.example", 30, "another name"), (HOST, -1, "certificate has expired")]
)
def test_dane_ta_checks_name_and_dates(name: str, ends: int, said: str) -> None:
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()), issuer=(MIDDLE, MIDDLE_KEY), name=name, ends=ends)
    found = dane_problem([record(2, 0, 1, MIDDLE)], [der(leaf), der(MIDDLE)], [HOST])
    assert found is not None
    assert said in found


def test_dane_mismatch_is_named() -> None:
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()))
    assert dane_problem([record(3, 1, 1, ROOT)], [der(leaf)], [HOST]) == "no TLSA record matches the certificate"
    # As a trust anchor the leaf does not count: usage 2 is for issuers.
    assert dane_problem([record(2, 1, 1, leaf)], [der(leaf)], [HOST]) == "no TLSA record matches the certificate"
    assert dane_problem([record(3, 1, 1, leaf)], [], [HOST]) == "no certificate was sent"


def test_dane_ta_of_rubbish_anchor_is_named(tmp_path: Path) -> None:
    leaf = certificate(ec.generate_private_key(ec.SECP256R1()))
    found = dane_problem([TlsaRecord(2, 0, 0, b"\x30\x03\x02\x01\x00")], [der(leaf)], [HOST])
    assert found == "the trust anchor of the TLSA record cannot be read"
