"""The forms of the drafts of 2017 (draft-ietf-uta-mta-sts-03): a JSON policy, and ``v=STSV1`` in the record.

Everything that depends on them is here; the rest of the program uses a ``PolicyFormat``.
"""

import json

from .. import errors
from ..text import quoted
from .mtasts import RFC8461, PolicyFormat, StsPolicy, build_policy, parse_policy, parse_txt

__all__ = ["DRAFT_2017", "parse_json_policy", "parse_stored_policy", "policy_format"]

_MODES = {"report": "testing"}
_JSON_LOCATION = "/.well-known/mta-sts.json", frozenset({"application/json", "text/json"})
_PREFIXES = (b"v=STSv1;", b"v=STSV1;")


def parse_json_policy(body: bytes) -> StsPolicy:
    """Return the policy in a JSON ``body``. Raises a leaf of ``PolicySyntaxError``."""
    try:
        found = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise errors.PolicyJsonSyntax(quoted(str(error))) from None
    if not isinstance(found, dict):
        raise errors.PolicyJsonSyntax("it is not an object")
    patterns = found.get("mx", [])
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise errors.PolicyJsonSyntax("mx is not an array of strings")
    mode, version, max_age = found.get("mode"), found.get("version"), found.get("max_age")
    if isinstance(max_age, int) and not isinstance(max_age, bool):
        max_age = str(max_age)
    mode = _MODES.get(_text(mode) or "", _text(mode))
    return build_policy(_text(version), mode, _text(max_age), [_pattern(pattern) for pattern in patterns])


def parse_stored_policy(body: bytes) -> StsPolicy:
    """Return the policy in a body of either format: no line of RFC 8461 section 3.2 begins with a brace.

    Raises a leaf of ``PolicySyntaxError``.
    """
    is_json = body.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    return parse_json_policy(body) if is_json else parse_policy(body)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _pattern(pattern: str) -> str:
    return f"*{pattern}" if pattern.startswith(".") else pattern


DRAFT_2017 = PolicyFormat(
    lambda records: parse_txt(records, _PREFIXES), parse_stored_policy, (*RFC8461.locations, _JSON_LOCATION)
)


def policy_format(*, draft_2017: bool) -> PolicyFormat:
    """Return the format to read, by the operator's ``compatibility.draft_2017``."""
    return DRAFT_2017 if draft_2017 else RFC8461
