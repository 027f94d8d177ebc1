"""What this host's Postfix is set to, as far as its main.cf can be read."""

from pathlib import Path

__all__ = ["MAIN_CF", "main_cf_value", "read_main_cf"]

MAIN_CF = Path("/etc/postfix/main.cf")
_MAX_SIZE = 1 << 20


def read_main_cf(path: Path = MAIN_CF) -> str | None:
    """The file's text, at most 1 MiB of it; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIZE).decode("utf-8", "replace")
    except OSError:
        return None


def main_cf_value(text: str, name: str) -> str:
    """The value of a parameter, unexpanded; empty where it is not set (postconf(5): the last setting counts)."""
    value, current = "", ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace():
            # A line that begins with a blank goes on with the one before.
            if current == name:
                value = f"{value} {line.strip()}".strip()
            continue
        left, equals, right = line.partition("=")
        current = left.strip() if equals else ""
        if current == name:
            value = right.strip()
    return value
