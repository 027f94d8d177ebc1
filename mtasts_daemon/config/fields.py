"""The base class of sections, and pydantic fields for the types of ``values``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from .problems import BadValue
from .values import Duration, Network, Size, network, path

__all__ = ["Count", "FieldSyntax", "FilePath", "Networks", "Section", "limited_field", "parse_field"]


class Section(BaseModel):
    """A section of the configuration. Unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        # "dns:" with every key below it commented out is null in YAML.
        return {} if value is None else value


@dataclass(frozen=True, slots=True)
class FieldSyntax:
    """How pydantic parses a value of our own type, and its pattern in the JSON Schema."""

    parse: Callable[[object], Any]
    pattern: str | None = None

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string"} | ({"pattern": self.pattern} if self.pattern else {})


def parse_field(kind: type[Any]) -> FieldSyntax:
    """Return the field of a class with ``parse`` and ``PATTERN``."""
    return FieldSyntax(lambda value: value if isinstance(value, kind) else kind.parse(value), kind.PATTERN)


def limited_field(kind: type[Duration] | type[Size], least: str, most: str) -> FieldSyntax:
    """Return the field of a duration or a size with inclusive limits."""
    low, high = kind.parse(least), kind.parse(most)

    def parse(value: object) -> Duration | Size:
        found = value if isinstance(value, kind) else kind.parse(value)
        if not low <= found <= high:
            raise BadValue(f"{found} is not within {least} to {most}", f"write {low if found < low else high}")
        return found

    return FieldSyntax(parse, kind.PATTERN)


Count = Annotated[int, Field(strict=True)]
Networks = tuple[Annotated[Network, FieldSyntax(network)], ...]
FilePath = Annotated[Path, FieldSyntax(path)]
