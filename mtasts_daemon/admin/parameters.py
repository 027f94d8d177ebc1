"""Parameters and bodies of requests. A bad one is answered with 400 (``HttpProblem``)."""

import json
from typing import Any

from aiohttp import web

from ..policy.user_input import parse_user_domain
from .http import HttpProblem

__all__ = ["flag", "json_body", "number", "parse_domain", "parse_number", "path_domain", "short_text"]

_MAX_TEXT = 300


def flag(request: web.Request, name: str) -> bool:
    """Return a parameter that is 0 or 1; False if it is missing."""
    value = request.query.get(name, "0")
    if value not in ("0", "1"):
        raise HttpProblem(400, "bad-parameter", f"{name} must be 0 or 1")
    return value == "1"


def number(request: web.Request, name: str, default: int, most: int, *, least: int = 1) -> int:
    """Return a parameter that is a whole number."""
    return parse_number(request.query.get(name, str(default)), name, least, most)


def parse_number(text: str, name: str, least: int, most: int) -> int:
    """Return ``text`` as a whole number from ``least`` to ``most``; ``name`` is for the error message."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise HttpProblem(400, "bad-parameter", f"{name} must be a number from {least} to {most}")
    return int(text)


def short_text(request: web.Request, name: str) -> str:
    """Return a parameter of at most 300 characters; empty text if it is missing."""
    text = request.query.get(name, "")
    if len(text) > _MAX_TEXT:
        raise HttpProblem(400, "bad-parameter", f"{name} is longer than {_MAX_TEXT} characters")
    return text


def path_domain(request: web.Request) -> str:
    """Return the policy domain in the path."""
    return parse_domain(request.match_info["domain"])


def parse_domain(text: str) -> str:
    """Return the policy domain in a domain, e-mail address or URL."""
    try:
        return parse_user_domain(text)
    except ValueError as error:
        raise HttpProblem(400, "domain-invalid", f"not a domain: {error}") from None


async def json_body(request: web.Request, *, optional: bool = False) -> dict[str, Any]:
    """Return the body, which is a JSON object. If it is ``optional``, an empty body is an empty object."""
    try:
        value = json.loads(await request.read() or (b"{}" if optional else b""))
    except (ValueError, RecursionError):
        raise HttpProblem(400, "body-invalid", "the body is not JSON") from None
    if not isinstance(value, dict):
        raise HttpProblem(400, "body-invalid", "the body is not a JSON object")
    return value
