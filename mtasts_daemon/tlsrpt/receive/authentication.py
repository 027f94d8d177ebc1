"""Authentication of a report's submitter (RFC 8460 sections 3 and 5.3).

Pure. The results of the DKIM library and of DNS are passed as ``SignatureCheck`` values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["AuthMethod", "Authentication", "SenderClaims", "SignatureCheck", "SignatureStatus", "authenticate"]


class AuthMethod(StrEnum):
    """How the submitter of a report was authenticated."""

    DKIM = "dkim"
    DKIM_ORG = "dkim-org"
    LOCAL = "local"
    FLEET = "fleet"
    HTTPS = "https"
    NONE = "none"

    @property
    def trusted(self) -> bool:
        """True if reports authenticated so feed charts and alerts."""
        return self not in (AuthMethod.HTTPS, AuthMethod.NONE)


class SignatureStatus(StrEnum):
    """The result of one signature. ``TEMPORARY`` means that its key could not be looked up."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class SignatureCheck:
    """One DKIM signature: its domain (d=), whether it holds, and if not, why."""

    domain: str
    status: SignatureStatus
    detail: str = ""
    partial: bool = False
    """It has l=, so it does not cover the whole report."""


@dataclass(frozen=True, slots=True)
class SenderClaims:
    """The domains that a mail claims to come from, lower case, empty if absent.

    ``submitters`` are those of TLS-Report-Submitter, ``senders`` those of From: a mail must not have several.
    """

    senders: tuple[str, ...] = ()
    submitters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Authentication:
    """The verdict, stored with the report. ``identity`` is the authenticated domain, or empty."""

    method: AuthMethod
    identity: str = ""
    detail: str = ""

    @property
    def trusted(self) -> bool:
        """True if the report feeds charts and alerts."""
        return self.method.trusted


def authenticate(
    claims: SenderClaims, checks: Sequence[SignatureCheck], local_domains: frozenset[str] = frozenset()
) -> Authentication | None:
    """Return the verdict; None if the key of a signature that would count could not be looked up.

    ``local_domains`` passed DKIM at a host whose Authentication-Results are trusted.
    """
    problem = _claims_problem(claims)
    if problem:
        return Authentication(AuthMethod.NONE, detail=problem)
    passed = [check.domain for check in checks if check.status is SignatureStatus.PASS]
    for domain in passed:
        if all(domain == claim for claim in _all(claims)):
            return Authentication(AuthMethod.DKIM, domain)
    for domain in passed:
        if all(_related(domain, claim) for claim in _all(claims)):
            return Authentication(AuthMethod.DKIM_ORG, domain)
    partial = {check.domain for check in checks if check.partial}
    for domain in sorted(local_domains - partial):
        if all(_related(domain, claim) for claim in _all(claims)):
            return Authentication(AuthMethod.LOCAL, domain)
    waiting = [check for check in checks if check.status is SignatureStatus.TEMPORARY]
    if any(all(_related(check.domain, claim) for claim in _all(claims)) for check in waiting):
        return None
    return Authentication(AuthMethod.NONE, detail=_why_not(checks, passed))


def _claims_problem(claims: SenderClaims) -> str:
    if len(claims.senders) != 1:
        return "the mail does not have exactly one From address"
    if len(set(claims.submitters)) > 1:
        return "the mail names more than one TLS-Report-Submitter"
    return ""


def _all(claims: SenderClaims) -> tuple[str, ...]:
    return claims.senders + claims.submitters


def _related(domain: str, claim: str) -> bool:
    """Return True if one is the other or lies below it, and both have at least two labels.

    That is narrower than a comparison of organisational domains, which needs a list of public suffixes. The identity
    is always the signing domain, so that the owner of a name cannot pass for the zone above it.
    """
    if "." not in domain or "." not in claim:
        return False
    return domain == claim or claim.endswith(f".{domain}") or domain.endswith(f".{claim}")


def _why_not(checks: Sequence[SignatureCheck], passed: Sequence[str]) -> str:
    if passed:
        return f"the signature of {passed[0]} is not aligned with From and TLS-Report-Submitter"
    if not checks:
        return "the mail has no DKIM signature"
    check = checks[0]
    return f"the signature of {check.domain or 'an unknown domain'} does not count: {check.detail or 'it is not valid'}"
