"""Print the automaton of a cache entry as a Mermaid state diagram.

``docs/architecture.md`` contains the output between two markers; a test compares the two. With ``--write`` the
document is updated.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from mtasts_daemon.policy.cache_entry import (
    TABLE,
    CacheEntry,
    CacheEvent,
    CacheRules,
    Effect,
    HeldPolicy,
    Phase,
    PolicyFailed,
    PolicyFetched,
    TxtAbsent,
    TxtCheck,
    TxtFailed,
    TxtFound,
    TxtInvalid,
    transition,
)
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy

DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- cache-automaton:begin -->", "<!-- cache-automaton:end -->"

_NOW = 1_000_000.0
_POLICY = StsPolicy(Mode.ENFORCE, (MxPattern("mx.example.com"),), 86_400)
_OTHER = StsPolicy(Mode.TESTING, (MxPattern("mx.example.com"),), 86_400)
_NAMES = {Phase.BARE: "bare", Phase.LIVE: "live"}
_ENTRIES = {
    Phase.BARE: CacheEntry("example.com"),
    Phase.LIVE: CacheEntry(
        "example.com", HeldPolicy("1", b"", _POLICY, _NOW, _NOW + 86_400), TxtCheck(_NOW, _NOW + 60, "1")
    ),
}
_EVENTS: tuple[tuple[str, CacheEvent], ...] = (
    ("TxtFound, same id", TxtFound("1", 300)),
    ("TxtFound, new id", TxtFound("2", 300)),
    ("TxtAbsent", TxtAbsent(300)),
    ("TxtInvalid", TxtInvalid("sts-record-multiple", "", 300)),
    ("TxtFailed", TxtFailed("dns-timeout", "")),
    ("PolicyFetched, same mode and mx", PolicyFetched("2", b"", _POLICY)),
    ("PolicyFetched, other mode or mx", PolicyFetched("2", b"", _OTHER)),
    ("PolicyFailed", PolicyFailed("2", "policy-timeout", "")),
)


def diagram() -> str:
    """Return the diagram: each transition with its effects and its log event, as ``transition`` returns them."""
    lines = ["stateDiagram-v2", *(f"    {name}: {phase.value}" for phase, name in _NAMES.items())]
    lines.append("    [*] --> bare: domain looked up, nothing stored")
    lines.append("    [*] --> live: stored policy loaded")
    lines += _transitions()
    lines.append("    live --> bare: max_age is over")
    return "\n".join(lines) + "\n"


def _transitions() -> Iterator[str]:
    if {type(event) for _, event in _EVENTS} != TABLE.keys():
        raise SystemExit("an event of TABLE has no example here")
    for phase, entry in _ENTRIES.items():
        for label, event in _EVENTS:
            if phase is Phase.BARE and ", same" in label:
                continue  # nothing is held: every id and policy is new
            if phase is Phase.BARE:
                label = label.removesuffix(", other mode or mx")
            result = transition(entry, event, _NOW + 1, CacheRules())
            done = [flag.name or "" for flag in Effect if flag in result.effects]
            after = _NAMES[Phase.of(result.entry, _NOW + 1)]
            facts = ", ".join([*done, *([result.event] if result.event else [])]) or "TXT answer noted"
            yield f"    {_NAMES[phase]} --> {after}: {label} / {facts}"


def embedded(text: str) -> str:
    """Return the document's ``text`` with the current diagram between the markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{DOCUMENT.name} has no markers {BEGIN} and {END}")
    return f"{head}{begin}\n```mermaid\n{diagram()}```\n{end}{tail}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        DOCUMENT.write_text(embedded(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(diagram())
