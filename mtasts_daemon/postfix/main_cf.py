"""Read parameters from Postfix's main.cf."""

from pathlib import Path

__all__ = ["MAIN_CF", "main_cf_value", "read_main_cf"]

MAIN_CF = Path("/etc/postfix/main.cf")
_MAX_SIZE = 1 << 20


def read_main_cf(path: Path = MAIN_CF) -> str | None:
    """Return the first MiB of the file, or None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIZE).decode("utf-8", "replace")
    except OSError:
        return None


def main_cf_value(text: str, name: str) -> str:
    """Return the value of a parameter without expansion, or an empty string. The last setting counts (postconf(5))."""
    value, current = "", ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace():
            # A line that starts with a blank continues the previous one.
            if current == name:
                value = f"{value} {line.strip()}".strip()
            continue
        left, equals, right = line.partition("=")
        current = left.strip() if equals else ""
        if current == name:
            value = right.strip()
    return value
