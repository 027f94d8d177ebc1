"""Write config.example.yml to standard output: every key with its description and default.

The committed file is what this prints; a test compares the two.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mtasts_daemon.config import Config
from mtasts_daemon.config.sections.overrides import OverrideSettings
from mtasts_daemon.config.sections.public import CertificateSettings
from mtasts_daemon.config.sections.publish import DnsUpdateSettings, PublishedDomainSettings
from mtasts_daemon.config.sections.receive import ImapSettings
from mtasts_daemon.config.sections.tlsrpt import DkimSettings
from mtasts_daemon.config.values import plain

_WIDTH = 118

_HEAD = """\
# yaml-language-server: $schema=packaging/schema/mtasts-daemon.schema.json
#
# Configuration of mtasts-daemon: every key with its default. All keys are optional, and so is the file: without it
# the daemon runs with these values. Write values that differ to /etc/mtasts-daemon/config.yml or to files in conf.d.
#
# Files are read in this order, and later values win: config.yml, conf.d/*.yml sorted by name, environment variables
# such as MTASTS_DNS__TIMEOUT=3s. Sections are merged key by key; lists are replaced. "mtasts-daemon check-config"
# reports all mistakes. SIGHUP makes the daemon read the configuration again.
#
# Durations are written as 90s, 5m, 4h, 30d or 1d12h, sizes as 64KiB, 64MiB or 1GiB, permissions in quotes.
"""

_ZONE_NAMES = {"query": "QUERY", "querywithtlsrpt": "QUERYwithTLSRPT"}

_EXAMPLES: dict[str, tuple[type[BaseModel], list[tuple[str, dict[str, Any]]]]] = {
    "overrides": (
        OverrideSettings,
        [
            (
                "broken.example",
                {"skip": True, "reason": "their certificate expired on Monday; postmaster informed"},
            ),
            ("partner.example", {"treat_as": "enforce", "reason": "agreed with them, ticket 4711"}),
            (
                "legacy.example",
                {"reply": "encrypt ciphers=high", "reason": "their certificate is self-signed"},
            ),
        ],
    ),
    "tlsrpt.dkim": (
        DkimSettings,
        [("", {"domain": "example.com", "selector": "tlsrpt", "key_file": "/etc/mtasts-daemon/dkim.pem"})],
    ),
    "public.certificates": (
        CertificateSettings,
        [
            (
                "-",
                {
                    "certificate_file": "/etc/letsencrypt/live/mta-sts.example.com/fullchain.pem",
                    "key_file": "/etc/letsencrypt/live/mta-sts.example.com/privkey.pem",
                },
            )
        ],
    ),
    "receive.imap": (
        ImapSettings,
        [
            (
                "",
                {
                    "server": "imap.example.com:993",
                    "user": "tlsrpt@example.com",
                    "password_file": "/etc/mtasts-daemon/imap.password",
                    "mailbox": "INBOX",
                    "every": "5m",
                },
            )
        ],
    ),
    "publish.domains": (
        PublishedDomainSettings,
        [
            (
                "example.com",
                {
                    "mode": "enforce",
                    "mx": "auto",
                    "max_age": "30d",
                    "rua": ["mailto:tlsrpt@example.com"],
                    "rollout": "manual",
                },
            ),
            ("customer.example", {"delegate_to": "example.com"}),
        ],
    ),
    "publish.dns_update": (
        DnsUpdateSettings,
        [
            (
                "",
                {
                    "server": "192.0.2.53",
                    "key_name": "mtasts",
                    "key_algorithm": "hmac-sha256",
                    "key_file": "/etc/mtasts-daemon/tsig.key",
                    "wait": "1m",
                },
            )
        ],
    ),
}
"""Commented examples of keys that hold sections and are empty by default: path to model, names and values."""


def example() -> str:
    """Return the text of config.example.yml."""
    return _HEAD + "\n".join(_section(Config(), "", 0)) + "\n"


def _section(section: BaseModel, path: str, depth: int) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        key = f"{path}{name}"
        value = getattr(section, name)
        if depth == 0:
            yield ""
        yield from _comment(_description(field), depth)
        if name == "zones":
            yield from _zones(value)
        elif isinstance(value, BaseModel):
            yield f"{'  ' * depth}{name}:"
            yield from _section(value, f"{key}.", depth + 1)
        else:
            yield f"{'  ' * depth}{name}: {_value(value)}"
        if key in _EXAMPLES:
            yield from _commented(name, *_EXAMPLES[key], depth)


def _zones(zones: dict[str, BaseModel]) -> Iterator[str]:
    """Write the first zone with all keys, and of the others what differs."""
    yield "zones:"
    for number, (name, zone) in enumerate(zones.items()):
        yield f"  {_ZONE_NAMES.get(name, name)}:"
        for key, field in type(zone).model_fields.items():
            if number == 0:
                yield from _comment(_description(field), 2)
            if number == 0 or key == "dialect":
                yield f"    {key}: {_value(getattr(zone, key))}"


def _commented(
    name: str, model: type[BaseModel], entries: list[tuple[str, dict[str, Any]]], depth: int
) -> Iterator[str]:
    """Write an example below a key, commented out. Each key is described where it occurs first."""
    indent, described = "  " * depth, set[str]()
    yield f"{indent}# {name}:"
    for entry, values in entries:
        below = "    " if entry else "  "
        if entry:
            yield f"{indent}#   {entry}" if entry == "-" else f"{indent}#   {entry}:"
        for key, value in values.items():
            if key not in described:
                described.add(key)
                text = _description(model.model_fields[key])
                yield from (f"{indent}# {below}{line}" for line in _comment(text, 0, len(indent) + len(below) + 2))
            yield f"{indent}# {below}{key}: {_value(value)}"


def _description(field: FieldInfo) -> str:
    """Return the description of a key, and its choices if it has some."""
    kinds = (field.annotation, *get_args(field.annotation))
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    listed = f" One of {', '.join(choices)}." if choices else ""
    return (field.description or "") + listed


def _comment(text: str, depth: int, used: int = 0) -> Iterator[str]:
    indent = "  " * depth
    yield from (
        f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent) - used - 2, break_on_hyphens=False)
    )


def _value(value: object) -> str:
    found = plain(value) if not isinstance(value, list | dict) else value
    if isinstance(found, str) and found.replace("-", "").replace("_", "").replace("/", "").replace(".", "").isalnum():
        # Permissions and plain numbers need quotes, words do not.
        return json.dumps(found) if found[0].isdigit() and found.isdigit() else found
    return json.dumps(found, ensure_ascii=False)


if __name__ == "__main__":
    sys.stdout.write(example())
