"""The JSON Schema of the configuration (draft 7, for editors)."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from .model import Config
from .values import plain

__all__ = ["SCHEMA_ID", "json_schema"]

SCHEMA_ID = "urn:mtasts-daemon:config"


class _Generator(GenerateJsonSchema):
    schema_dialect = "http://json-schema.org/draft-07/schema#"

    def encode_default(self, dft: Any) -> Any:
        """Return a default as it is written. Sections have none: their keys have defaults."""
        return {} if isinstance(dft, BaseModel | dict) else plain(dft)


def json_schema() -> dict[str, Any]:
    """Return the schema, with the description and the default of every key."""
    schema = Config.model_json_schema(schema_generator=_Generator, ref_template="#/definitions/{model}")
    schema["definitions"] = schema.pop("$defs")
    return {"$schema": _Generator.schema_dialect, "$id": SCHEMA_ID, **_tidied(schema)}


def _tidied(node: Any) -> Any:
    """Remove the titles that pydantic makes of names, and allow empty sections."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidied = {key: _tidied(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if tidied.get("type") == "object":
        tidied["type"] = ["object", "null"]
    if tidied.get("type") == "array":
        # pydantic 2.11 and later write a limit behind a validator as that of a string, which has no effect on a list.
        for limit in {"minLength", "maxLength"} & tidied.keys():
            tidied[limit.replace("Length", "Items")] = tidied.pop(limit)
    return tidied
