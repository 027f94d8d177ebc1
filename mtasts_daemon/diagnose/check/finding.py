"""One finding, and the collection that a check builds. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...notify.alert import Severity
from ...text import sanitize
from .catalogue import CATALOGUE, Demand

__all__ = ["CheckFinding", "FindingList"]

_MAX_DETAIL = 300


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """Something a check found. ``subject`` is the domain, host or record concerned; ``detail`` is what was seen.

    ``ours`` says that this host is the cause; ``advice`` that it is for someone who runs the domain.
    """

    slug: str
    severity: Severity
    subject: str
    sentence: str
    rfc: str = ""
    remedy: str = ""
    detail: str = ""
    ours: bool = False
    advice: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Key that identifies the finding in the next check."""
        return self.slug, self.subject

    @property
    def text(self) -> str:
        """Subject, sentence and detail on one line."""
        return f"{self.subject}: {self.sentence}{f' ({self.detail})' if self.detail else ''}"

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON values; the names are stable."""
        return {
            "slug": self.slug,
            "severity": self.severity.value,
            "subject": self.subject,
            "sentence": self.sentence,
            "detail": self.detail,
            "rfc": self.rfc,
            "remedy": self.remedy,
            "ours": self.ours,
            "advice": self.advice,
        }


@dataclass(slots=True)
class FindingList:
    """Collects findings, each slug and subject once, with the details joined."""

    domain: str
    found: dict[tuple[str, str], CheckFinding] = field(default_factory=dict)

    def add(self, slug: str, subject: str = "", detail: str = "", demand: Demand = Demand.ENFORCED) -> None:
        """Add a finding of the catalogue."""
        kind = CATALOGUE[slug]
        subject = subject or self.domain
        before = self.found.get((slug, subject))
        if before is not None and before.detail:
            detail = f"{before.detail}; {detail}" if detail and detail not in before.detail else before.detail
        self.found[slug, subject] = CheckFinding(
            slug,
            kind.severity(demand),
            subject,
            kind.sentence,
            kind.rfc,
            kind.remedy.replace("DOMAIN", self.domain),
            sanitize(detail, _MAX_DETAIL),
            kind.ours,
            kind.advice,
        )

    def sorted(self) -> tuple[CheckFinding, ...]:
        """Return the findings, worst first, otherwise in the order they were added."""
        return tuple(sorted(self.found.values(), key=lambda finding: -finding.severity.rank))

    def has(self, slugs: Iterable[str]) -> bool:
        """Return True if one of the slugs was added."""
        wanted = set(slugs)
        return any(slug in wanted for slug, _ in self.found)
