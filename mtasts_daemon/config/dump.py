"""Print the configuration in force as YAML or JSON, with the origin of each value."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel

from .loading import Loaded
from .values import plain
from .yamlfile import KeyPath, join_path

__all__ = ["as_json", "to_dump"]


def to_dump(loaded: Loaded, *, defaults: bool = False, form: Literal["yaml", "json"] = "yaml") -> str:
    """Return the configuration as text; without ``defaults`` only the values that were written.

    YAML has the origin of each value in a comment, and can be loaded again. JSON has ``config`` and ``origins``.
    """
    tree = _tree(loaded.config, (), loaded, defaults)
    if form == "yaml":
        return "".join(line + "\n" for line in _lines(tree, (), loaded)) or "{}\n"
    return json.dumps(as_json(loaded, defaults=defaults), indent=2, ensure_ascii=False) + "\n"


def as_json(loaded: Loaded, *, defaults: bool = True) -> dict[str, Any]:
    """Return ``config``, the values in force, and ``origins`` by key such as ``dns.timeout``.

    Secrets are in files of their own; only the names of these are included.
    """
    tree = _tree(loaded.config, (), loaded, defaults)
    origins = {join_path(path): loaded.origin(join_path(path)) for path in _leaves(tree, ())}
    return {"config": tree, "origins": origins}


def _tree(section: BaseModel | dict[str, Any], path: KeyPath, loaded: Loaded, defaults: bool) -> dict[str, Any]:
    items = section if isinstance(section, dict) else dict(section)
    tree: dict[str, Any] = {}
    for key, value in items.items():
        where = (*path, key)
        if isinstance(value, BaseModel | dict):
            if below := _tree(value, where, loaded, defaults):
                tree[key] = below
        elif defaults or join_path(where) in loaded.origins:
            tree[key] = plain(value)
    return tree


def _leaves(tree: dict[str, Any], path: KeyPath) -> Iterator[KeyPath]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _lines(tree: dict[str, Any], path: KeyPath, loaded: Loaded) -> Iterator[str]:
    indent = "  " * len(path)
    for key, value in tree.items():
        name = key if key.isidentifier() else json.dumps(key)
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, (*path, key), loaded)
        else:
            # JSON is YAML, and quotes everything that YAML could misread.
            text = json.dumps(value, ensure_ascii=False)
            yield f"{indent}{name}: {text}  # {loaded.origin(join_path((*path, key)))}"
