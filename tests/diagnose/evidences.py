"""Constructed evidence for tests without network."""

from dataclasses import replace
from typing import Any

from mtasts_daemon.diagnose.check.evidence import (
    CheckEvidence,
    CheckFailure,
    MxEvidence,
    MxHostEvidence,
    PolicyHostEvidence,
    StsEvidence,
    TlsrptEvidence,
)
from mtasts_daemon.https.tls_stream import TlsSession
from mtasts_daemon.policy.dns_answer import DnsAnswer, MxRecord
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy, StsRecord
from mtasts_daemon.smtp.certificates import LeafCertificate
from mtasts_daemon.smtp.chain_verification import ChainProblem
from mtasts_daemon.smtp.probe import ServerTlsEvidence, SmtpSession

__all__ = ["DOMAIN", "HOST", "dead_resolver", "evidence", "expired"]

DOMAIN, HOST = "example.com", "mx.example.com"
YEAR = 365 * 86400.0


def session(at: float, *, sha256: str = "aa" * 32, refused: ChainProblem | None = None) -> SmtpSession:
    leaf = LeafCertificate(sha256, (HOST,), 1.8e9 - YEAR, 1.8e9 + YEAR, "bb" * 32, key="EC 256")
    tls = ServerTlsEvidence(TlsSession("TLSv1.3", "TLS_AES_256_GCM_SHA384", (b"",)), leaf, refused)
    offered = ("STARTTLS",)
    return SmtpSession(HOST, "192.0.2.1", 25, at, None, connected=True, banner="220", offered=offered, tls=tls)


def evidence(at: float = 1.8e9, *, record_id: str = "1", one: SmtpSession | None = None) -> CheckEvidence:
    """Return the evidence of a correct domain without DANE."""
    policy = StsPolicy(Mode.ENFORCE, (MxPattern(HOST),), 604800)
    answer: DnsAnswer[Any] = DnsAnswer(DOMAIN, (MxRecord(10, HOST),), 300)
    host = MxHostEvidence(HOST, 10, ("192.0.2.1",), sessions=(one or session(at),), probed=True)
    txt: DnsAnswer[bytes] = DnsAnswer(f"_mta-sts.{DOMAIN}", (b"",), 300)
    return CheckEvidence(
        DOMAIN,
        at,
        StsEvidence(txt, StsRecord(record_id)),
        PolicyHostEvidence(True, (), b"", policy),
        MxEvidence(answer, (HOST,)),
        (host,),
        tlsrpt=TlsrptEvidence(True),
        validates=True,
        port25=True,
    )


def expired(at: float = 1.8e9) -> CheckEvidence:
    """Return that evidence with an expired certificate."""
    return evidence(at, one=session(at, refused=ChainProblem("certificate-expired", "certificate has expired")))


def dead_resolver(at: float = 1.8e9) -> CheckEvidence:
    """Return evidence without any answer, because of this host."""
    failure = CheckFailure("dns-unreachable", "No resolver could be reached", ours=True)
    return replace(
        CheckEvidence(DOMAIN, at),
        sts=StsEvidence(failure=failure),
        mx=MxEvidence(failure=failure),
        tlsrpt=TlsrptEvidence(failure=failure),
    )
