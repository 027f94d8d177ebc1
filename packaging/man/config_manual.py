"""Write mtasts-daemon.yml(5), made from the configuration's schema, to standard output.

The committed page is what this prints; a test compares the two.
"""

import json
import sys
from typing import Any

from mtasts_daemon.config.json_schema import json_schema

_HEAD = """\
.\\" Made by config_manual.py from the configuration's own descriptions.
.Dd November 24, 2026
.Dt MTASTS-DAEMON.YML 5
.Os
.Sh NAME
.Nm mtasts-daemon.yml
.Nd configuration of mtasts-daemon
.Sh DESCRIPTION
.Xr mtasts-daemon 8
reads
.Pa /etc/mtasts-daemon/config.yml ,
or the file given with
.Fl c ,
and then
.Pa conf.d/*.yml
in the same directory, sorted by name.
Mappings are merged key by key; other values of later files replace those of earlier ones.
All keys are optional, and so is the file.
.Pp
The format is YAML, in which only
.Cm true
and
.Cm false
are booleans.
Durations are written with a unit
.Pq Cm 90s , 5m , 1d12h ,
sizes as
.Cm 64KiB
or
.Cm 1GiB ,
file modes as quoted octal
.Pq Cm \\(dq0660\\(dq .
Anchors, aliases, tags and unknown keys are rejected.
.Pp
A variable
.Ev MTASTS_SECTION__KEY
in the environment sets a key, and overrides all files.
.Pp
.Dl mtasts-daemon check-config
.Pp
reports all mistakes, each with file, line, column and remedy.
A reload
.Pq Dv SIGHUP
puts a valid configuration in force and keeps the old one otherwise.
The section
.Cm store
is read at the start only.
.Sh KEYS
"""

_TAIL = """\
.Sh FILES
.Bl -tag -width Ds -compact
.It Pa /etc/mtasts-daemon/config.yml
the configuration
.It Pa /etc/mtasts-daemon/conf.d/*.yml
further configuration files
.El
.Sh EXAMPLES
Deliver mail to a domain whose policy is broken:
.Bd -literal -offset indent
overrides:
  example.com:
    skip: true
    reason: "certificate expired on 3 May, postmaster informed"
.Ed
.Pp
Also listen where postfix-tlspol did:
.Bd -literal -offset indent
listen:
  - "socketmap:inet:127.0.0.1:8461"
  - "socketmap:inet:127.0.0.1:8642"
.Ed
.Sh SEE ALSO
.Xr mtastsctl 1 ,
.Xr postconf 5 ,
.Xr mtasts-daemon 8
"""


def manual(schema: dict[str, Any]) -> str:
    """Return the page in mdoc(7)."""
    lines: list[str] = []
    _add_keys(lines, schema, schema, "")
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def _add_keys(lines: list[str], node: dict[str, Any], schema: dict[str, Any], prefix: str) -> None:
    lines.append(".Bl -tag -width Ds")
    for name, key_schema in node["properties"].items():
        below = _section(key_schema, schema)
        key = f"{prefix}{name}"
        lines.append(f".It Cm {_text(key)}")
        lines += _sentences(key_schema.get("description") or (below or {}).get("description", ""))
        choice = _choice(key_schema)
        if choice:
            lines.append(f"One of {choice}.")
        if below is None and "default" in key_schema and " Default: " not in key_schema.get("description", ""):
            lines.append(f"Default: {_value(key_schema['default'])}.")
        if below is not None:
            _add_keys(lines, below, schema, f"{key}.NAME." if "additionalProperties" in key_schema else f"{key}.")
    lines.append(".El")


def _section(key_schema: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return the section below this key, or the section of each name of a mapping."""
    for found in (
        key_schema,
        *key_schema.get("allOf", ()),
        *key_schema.get("anyOf", ()),
        key_schema.get("additionalProperties") or {},
    ):
        if isinstance(found, dict) and "$ref" in found:
            section: dict[str, Any] = schema["definitions"][found["$ref"].rpartition("/")[2]]
            return section if "properties" in section else None
    return None


def _choice(key_schema: dict[str, Any]) -> str:
    for found in (key_schema, *key_schema.get("anyOf", ())):
        if "enum" in found:
            return ", ".join(_text(str(value)) for value in found["enum"])
    return ""


def _value(value: object) -> str:
    if value in (None, [], {}, ""):
        return "not set"
    return _text(value if isinstance(value, str) else json.dumps(value))


def _sentences(text: str) -> list[str]:
    """Split into one sentence per line, as mdoc(7) demands."""
    return [_text(sentence) + ("" if sentence.endswith(".") else ".") for sentence in text.split(". ") if sentence]


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace('"', "\\(dq").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    sys.stdout.write(manual(json_schema()))
