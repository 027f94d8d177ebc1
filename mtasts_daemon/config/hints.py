"""Turn pydantic's errors into problems with a position and a hint."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from ..text import sanitize
from .model import Config
from .problems import BadValue, Problem, Unresolved
from .values import describe
from .yamlfile import KeyPath, Node, join_path

__all__ = ["problems_of"]


def problems_of(error: ValidationError, root: Node, *, complete: bool) -> Iterator[Problem]:
    """Yield the problems, each at the position of its value.

    If ``complete`` is false a file could not be read: problems that may be caused by that are left out.
    """
    for found in error.errors(include_url=False):
        cause = found.get("ctx", {}).get("error")
        if not complete and (found["type"] == "missing" or isinstance(cause, Unresolved)):
            continue
        # The step that pydantic adds for a key that is not valid.
        path: KeyPath = tuple(step for step in found["loc"] if step != "[key]")
        node = _nearest(root, path)
        about_key = found["type"] in ("extra_forbidden", "missing") or "[key]" in found["loc"]
        origin = node.key_at if about_key or isinstance(node.value, dict) else node.at
        if isinstance(cause, BadValue):
            message, hint = cause.message, cause.hint
        else:
            message, hint = _message(found["type"], found["input"], found.get("ctx", {}), path)
        yield Problem.at(origin, join_path(path), message, hint)


def _nearest(root: Node, path: KeyPath) -> Node:
    node = root
    for step in path:
        if isinstance(node.value, dict) and isinstance(step, str):
            child = node.value.get(step)
        elif isinstance(node.value, list) and isinstance(step, int):
            child = node.value[step]
        else:
            child = None
        if child is None:
            break
        node = child
    return node


def _message(kind: str, value: Any, ctx: dict[str, Any], path: KeyPath) -> tuple[str, str]:
    """Return message and hint for one of pydantic's own error types."""
    match kind:
        case "extra_forbidden":
            return _unknown_key(path)
        case "missing":
            return "is missing", f"add {sanitize(str(path[-1]))}: and a value"
        case "literal_error":
            return _not_a_choice(value, ctx)
        case "bool_type":
            words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
            word = words.get(value.lower()) if isinstance(value, str) else None
            return f"must be true or false, not {describe(value)}", f"write {word}" if word else ""
        case "int_type":
            digits = isinstance(value, str) and value.isascii() and value.isdigit()
            return f"must be a whole number, not {describe(value)}", f"write {value} without quotes" if digits else ""
        case "string_type":
            plain = isinstance(value, (bool, int, float))
            return f"must be text, not {describe(value)}", f'write "{describe(value)}"' if plain else ""
        case "tuple_type":
            hint = f"write [{describe(value)}]" if isinstance(value, str) else "write [] for none, or leave the key out"
            return f"must be a list, not {describe(value)}", hint
        case "dict_type" | "model_type":
            return (
                f"must be a section with keys of its own, not {describe(value)}",
                "write the keys below it, indented",
            )
        case "greater_than_equal":
            return f"{describe(value)} is too small", f"write at least {ctx['ge']}"
        case "less_than_equal":
            return f"{describe(value)} is too large", f"write at most {ctx['le']}"
        case "too_long":
            return f"has {ctx['actual_length']} items", f"write at most {ctx['max_length']}"
    return f"{describe(value)} cannot be used", ""


def _not_a_choice(value: object, ctx: dict[str, Any]) -> tuple[str, str]:
    expected = str(ctx["expected"]).replace("'", "")
    choices = expected.replace(" or ", ", ").split(", ")
    if isinstance(value, bool):
        close = ["on" if value else "off"] if "on" in choices else []
    else:
        close = _closest(str(value), choices)
    return f"{describe(value)} is not one of {expected}", f"write {close[0]}" if close else ""


def _unknown_key(path: KeyPath) -> tuple[str, str]:
    known = _keys_at(Config, path[:-1])
    close = _closest(str(path[-1]).replace("-", "_"), known)
    return "is not a known key", f"write {close[0]}" if close else f"known here: {', '.join(known)}"


def _closest(text: str, choices: list[str]) -> list[str]:
    import difflib  # for a mistake only: keeps the start fast

    return difflib.get_close_matches(text.lower(), choices, 1)


def _keys_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys of the section at ``path``; each dict of the model adds a step for its names."""
    for step in path:
        field = model.model_fields.get(str(step))
        if field is None:
            continue
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
