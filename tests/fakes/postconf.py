"""A postconf(1) with the options that ``mtastsctl setup --apply`` uses: -hx, -n, -e and -X, on one main.cf."""

import sys
from pathlib import Path

__all__ = ["installed"]

_SCRIPT = """#!{python}
import re, sys
from pathlib import Path
main_cf = Path({main_cf!r})
lines = [line + "\\n" for line in main_cf.read_text("latin-1").splitlines()]
verb, arguments = sys.argv[1], sys.argv[2:]

def named(line):
    return re.match(r"([A-Za-z_]+)[ \\t]*=[ \\t]*(.*)", line)

if verb == "-hx":
    print(main_cf.parent)
elif verb == "-n":
    for found in filter(None, map(named, lines)):
        print(f"{{found[1]}} = {{found[2]}}")
elif verb in ("-e", "-X"):
    for argument in arguments:
        name, _, value = argument.partition("=")
        kept = [line for line in lines if not ((found := named(line)) and found[1] == name)]
        lines = kept if verb == "-X" else [*kept, f"{{name}} = {{value}}\\n"]
    main_cf.write_text("".join(lines), "latin-1")
else:
    sys.exit(f"postconf: fatal: unexpected {{verb}}")
"""


def installed(folder: Path, main_cf: Path) -> Path:
    """Write the program into ``folder`` and return its path."""
    program = folder / "postconf"
    program.write_text(_SCRIPT.format(python=sys.executable, main_cf=str(main_cf)))
    program.chmod(0o755)
    return program
