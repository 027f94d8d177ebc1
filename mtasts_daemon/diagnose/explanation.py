"""The explanation of a reply as values, JSON and text."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..text import sanitize
from .verdict import MailState, MailVerdict

__all__ = ["Explanation", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: title, RFC section and result. ``good`` is None if the result is neither good nor bad."""

    title: str
    rule: str
    found: str
    good: bool | None = None


@dataclass(slots=True)
class Explanation:
    """The verdict on one key, all steps, and the text that Postfix gets for each map name."""

    key: str
    verdict: MailVerdict | None = None
    """None for a key that can have no policy."""
    policy_domain: str | None = None
    steps: list[Step] = field(default_factory=list)
    decisions: dict[str, str] = field(default_factory=dict)
    replies: dict[str, str] = field(default_factory=dict)
    on_step: Callable[[Step], object] | None = None
    """Called with each step as soon as it is known."""

    def add(self, title: str, rule: str, found: str, good: bool | None = None) -> None:
        """Add a step."""
        step = Step(title, rule, found, good)
        self.steps.append(step)
        if self.on_step is not None:
            self.on_step(step)

    def as_json(self) -> dict[str, Any]:
        """Return the explanation as JSON values; the names are stable."""
        found = asdict(replace(self, on_step=None)) | {"verdict": self.verdict and self.verdict.as_json()}
        del found["on_step"]
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Explanation":
        """Return the explanation of ``as_json``."""
        verdict = found["verdict"]
        steps = [Step(**step) for step in found["steps"]]
        made = None if verdict is None else MailVerdict(**{**verdict, "state": MailState(verdict["state"])})
        return cls(**{**found, "steps": steps, "verdict": made})

    def as_text(self) -> str:
        """Return the explanation as text."""
        marks = {True: "+", False: "!", None: " "}
        lines = [self.key] if self.verdict is None else [self.verdict.sentence, f"  {self.verdict.asked}"]
        for step in self.steps:
            first, *rest = step.found.splitlines() or [""]
            lines.append(f"{marks[step.good]} {step.title:<16} {first}   [{step.rule}]")
            lines += [f"  {'':<16} {line}" for line in rest]
        for name, text in self.replies.items():
            lines.append(f"= {name:<16} {text}   ({self.decisions[name]})")
        # Remote text may contain control sequences of terminals.
        return "\n".join(sanitize(line, None) for line in lines)
