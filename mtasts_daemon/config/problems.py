"""What is wrong with a configuration, where, and how to mend it."""

from collections.abc import Iterable
from dataclasses import dataclass

from .. import errors

__all__ = ["MAX_PROBLEMS", "BadValue", "ConfigProblems", "Origin", "Problem", "Unresolved"]

MAX_PROBLEMS = 100
"""Problems that are told at once; a file that is something else altogether has one in every line."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: a file, or ``environment NAME``. Lines and columns count from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``where`` is the key, such as ``cache.txt_ttl_min``; ``mend`` is what to do about it."""

    file: str
    line: int | None
    column: int | None
    where: str
    message: str
    mend: str = ""

    @classmethod
    def at(cls, origin: Origin, where: str, message: str, mend: str = "") -> "Problem":
        """A problem with what stands at ``origin``."""
        return cls(origin.file, origin.line, origin.column, where, message, mend)

    def __str__(self) -> str:
        position = "" if self.line is None else f":{self.line}:{self.column}"
        where = f"{self.where}: " if self.where else ""
        mend = f" ({self.mend})" if self.mend else ""
        return f"{self.file}{position}: {where}{self.message}{mend}"


class ConfigProblems(errors.ConfigError):
    """The configuration is not valid.

    ``problems`` are in the order of the files' names and of their lines, without repeats, and at most
    ``MAX_PROBLEMS`` with a last one that says that there are more.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        unique = dict.fromkeys(problems)
        told = sorted(unique, key=lambda found: (found.file, found.line or 0, found.column or 0))
        if len(told) > MAX_PROBLEMS:
            told[MAX_PROBLEMS:] = [
                Problem(told[-1].file, None, None, "", "there are more problems", "mend these first")
            ]
        self.problems = tuple(told)
        super().__init__("; ".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type["ConfigProblems"], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class BadValue(ValueError):
    """A value that cannot be used. ``message`` continues "the value ..."; ``mend`` is what to do about it."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend


class Unresolved(BadValue):
    """A value that misses something written elsewhere, perhaps in a file that could not be read."""
