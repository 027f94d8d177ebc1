"""Problems of a configuration: what, where, and what to do."""

from collections.abc import Iterable
from typing import NamedTuple

from .. import errors

__all__ = ["MAX_PROBLEMS", "BadValue", "ConfigProblems", "Origin", "Problem", "Unresolved"]

MAX_PROBLEMS = 100
"""Maximum number of problems reported at once."""


class Origin(NamedTuple):
    """The origin of a value: a file, or ``environment NAME``. Lines and columns count from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class Problem(NamedTuple):
    """One problem. ``where`` is the key, such as ``cache.txt_ttl_min``; ``hint`` says what to do."""

    file: str
    line: int | None
    column: int | None
    where: str
    message: str
    hint: str = ""

    @classmethod
    def at(cls, origin: Origin, where: str, message: str, hint: str = "") -> "Problem":
        """Return a problem at ``origin``."""
        return cls(origin.file, origin.line, origin.column, where, message, hint)

    def __str__(self) -> str:
        position = "" if self.line is None else f":{self.line}:{self.column}"
        where = f"{self.where}: " if self.where else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.file}{position}: {where}{self.message}{hint}"


class ConfigProblems(errors.ConfigError):
    """The configuration is not valid.

    ``problems`` are sorted by file and line, without duplicates. There are at most ``MAX_PROBLEMS``; if there are
    more, the last one says so.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        unique = dict.fromkeys(problems)
        listed = sorted(unique, key=lambda found: (found.file, found.line or 0, found.column or 0))
        if len(listed) > MAX_PROBLEMS:
            listed[MAX_PROBLEMS:] = [
                Problem(listed[-1].file, None, None, "", "there are more problems", "fix these first")
            ]
        self.problems = tuple(listed)
        super().__init__("; ".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type["ConfigProblems"], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class BadValue(ValueError):
    """A value that cannot be used. ``message`` continues "the value ..."; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Unresolved(BadValue):
    """A value that needs another value, perhaps in a file that could not be read."""
