"""JSON text of unknown origin to objects, within bounds of memory, depth and time."""

import json
import re
from typing import Any

from ...errors import ReceivedReportSyntax, ReceivedReportTooLarge
from .model import Deviation, IntakeLimits

__all__ = ["load_json"]

# The closing quote is optional, so that an unterminated string is scanned once.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


def load_json(text: bytes, limits: IntakeLimits) -> tuple[Any, set[Deviation]]:
    """Return the first JSON value of ``text`` and how the text deviates from JSON in UTF-8.

    Raises ``ReceivedReportTooLarge`` or ``ReceivedReportSyntax``.
    """
    _check_structure(text, limits)
    deviations: set[Deviation] = set()
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        deviations.add(Deviation.NOT_UTF8)
        wide = text[:2] in (b"\xff\xfe", b"\xfe\xff")
        decoded = text.decode("utf-16" if wide else "latin-1", "replace")
    decoded = decoded.lstrip(" \t\r\n\0")
    try:
        found, end = _STRICT.raw_decode(decoded)
    except RecursionError:
        raise ReceivedReportTooLarge("it is nested too deeply") from None
    except ValueError:
        found, end = _lenient(decoded)
        deviations.add(Deviation.CONTROL_CHARACTERS)
    if decoded[end:].strip(" \t\r\n\0"):
        deviations.add(Deviation.JSON_TRAILING_DATA)
    return found, deviations


def _lenient(text: str) -> tuple[Any, int]:
    try:
        return _LENIENT.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise ReceivedReportSyntax(ascii(str(error))[1:200].strip("'\"")) from None


def _check_structure(text: bytes, limits: IntakeLimits) -> None:
    """Reject what would take too much memory or depth as objects."""
    opened = text.count(b"{") + text.count(b"[")
    if opened <= limits.depth and text.count(b",") < limits.tokens:
        return
    depth = 0
    for tokens, match in enumerate(_TOKEN.finditer(text)):
        token = match[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > limits.depth:
                raise ReceivedReportTooLarge(f"it is nested more than {limits.depth} levels deep")
        elif token in (b"]", b"}"):
            depth -= 1
        if tokens > limits.tokens:
            raise ReceivedReportTooLarge(f"it has more than {limits.tokens} values")


def _integer(text: str) -> int:
    # Python refuses more than 4300 digits, and takes quadratic time below that.
    return int(text) if len(text) <= 20 else 1 << 64


def _constant(_name: str) -> None:
    return None


_STRICT = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)
_LENIENT = json.JSONDecoder(parse_int=_integer, parse_constant=_constant, strict=False)
