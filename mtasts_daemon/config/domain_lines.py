"""The file of ``publish.domains_file``: one domain a line, for more domains than YAML is fit for.

# comment
example.com mode=enforce mx=auto max_age=30d rua=mailto:tls@example.com
customer.example delegate_to=example.com
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..text import sanitize
from .problems import MAX_PROBLEMS, BadValue, Problem
from .sections.publish import PublishedDomainSettings, published_domain

__all__ = ["MAX_DOMAINS", "DomainLines", "read_domain_lines"]

MAX_DOMAINS = 1_000_000
_MAX_BYTES = 256 << 20
_MAX_LINE = 4096
_LISTS = ("mx", "rua")
_KEYS = tuple(PublishedDomainSettings.model_fields)


@dataclass(frozen=True, slots=True)
class DomainLines:
    """The domains of the file, and its problems, at most ``MAX_PROBLEMS``; the last one counts the rest.

    A bad line costs its own domain only.
    """

    domains: dict[str, PublishedDomainSettings]
    problems: tuple[Problem, ...] = ()


def read_domain_lines(path: Path) -> DomainLines:
    """Read the file. Raises OSError if it cannot be read."""
    domains: dict[str, PublishedDomainSettings] = {}
    problems: list[Problem] = []
    # Most lines have the same settings: they share one object, so that 100,000 domains need little memory.
    known: dict[str, PublishedDomainSettings] = {}
    name, bad, unlisted = sanitize(str(path), 4096), 0, 0
    with path.open("rb") as file:
        if file.seek(0, 2) > _MAX_BYTES:
            raise OSError(0, f"it is larger than {_MAX_BYTES >> 20} MiB")
        file.seek(0)
        for number, raw in enumerate(file, 1):
            try:
                found = _line(raw, known)
                if found is None:
                    continue
                domain, settings = found
                if domain in domains:
                    raise BadValue(f"{domain} is listed before", "remove one of the lines")
                if len(domains) == MAX_DOMAINS:
                    raise BadValue(f"more than {MAX_DOMAINS} domains", "use several hosts")
                domains[domain] = settings
            except BadValue as error:
                bad += 1
                if len(problems) < MAX_PROBLEMS - 1:
                    problems.append(Problem(name, number, 1, "publish.domains_file", error.message, error.hint))
                unlisted = unlisted or (number if bad == MAX_PROBLEMS else 0)
    if unlisted:
        more = f"{bad - len(problems)} more lines from here on are not valid"
        problems.append(Problem(name, unlisted, 1, "publish.domains_file", more, "fix the lines above first"))
    return DomainLines(domains, tuple(problems))


def _line(raw: bytes, known: dict[str, PublishedDomainSettings]) -> tuple[str, PublishedDomainSettings] | None:
    """Return domain and settings of a line, None for a comment or a blank line. Raises ``BadValue``."""
    if len(raw) > _MAX_LINE:
        raise BadValue(f"the line is longer than {_MAX_LINE} bytes", "write fewer patterns, or use publish.domains")
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadValue("the line is not UTF-8", "save the file as UTF-8") from None
    if not text or text.startswith("#"):
        return None
    written, _, options = text.partition(" ")
    domain = published_domain(written)
    settings = known.get(options)
    if settings is None:
        settings = known.setdefault(options, _settings(options))
    return domain, settings


def _settings(options: str) -> PublishedDomainSettings:
    values: dict[str, Any] = {}
    for word in options.split():
        key, equals, value = word.partition("=")
        if not equals or key not in _KEYS:
            raise BadValue(f'"{sanitize(word)}" is not a setting', f"write any of {'=, '.join(_KEYS)}=")
        if key in values:
            raise BadValue(f"{key} is given twice", "remove one")
        values[key] = value.split(",") if key in _LISTS and value != "auto" else value
    try:
        return PublishedDomainSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        where = ".".join(str(step) for step in first["loc"][:1])
        if isinstance(cause, BadValue):
            raise BadValue(f"{where + ': ' if where else ''}{cause.message}", cause.hint) from None
        raise BadValue(f"{where}: {sanitize(first['msg'], 200)}", f"correct {where}=") from None
