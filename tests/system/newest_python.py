"""The unit suite on the newest Python that Debian's next release has: ``python -m tests.system.newest_python``.

As an ordinary user, offline, with the newest libraries of the package index instead of Debian's.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.interop.network import Unavailable
from tests.interop.prepare import Tree
from tests.system.package import copy_checkout, run_in_tree

# Increment when the release has the next version.
PYTHON: Final = "python3.15"
TREE: Final = Tree(
    "forky",
    ("ca-certificates",),
    "newest",
    (f"{PYTHON}-venv", "groff", "man-db", "mandoc", "openssl", "procps", "systemd"),
)
_INSTALL: Final = f"""
set -e
{PYTHON} -m venv /venv
/venv/bin/pip --disable-pip-version-check --quiet install --upgrade "pip>=25.1"
cd /build
/venv/bin/pip --disable-pip-version-check --quiet install hatchling ".[uvloop]"
/venv/bin/pip --disable-pip-version-check --quiet install --group test
"""


def main() -> int:
    """Run the suite; 69 (EX_UNAVAILABLE) if this host cannot."""
    with tempfile.TemporaryDirectory(prefix="mtasts-newest-") as name:
        folder, log = Path(name, "build"), Path(name, "log")
        copy_checkout(folder)
        try:
            code = run_in_tree(
                TREE, folder, "/venv/bin/python", "-m", "pytest", "-q", "-m", "not interop", "-p", "no:cacheprovider",
                "--ignore=tests/admin/test_page.py", "--ignore=tests/admin/test_page_looks.py", "--ignore=tests/bench",
                log=log, prepare=_INSTALL,
            )  # fmt: skip
        except Unavailable as error:
            print(error, file=sys.stderr)
            return os.EX_UNAVAILABLE
        print("\n".join(log.read_text(errors="replace").splitlines()[-100:]))
        return code


if __name__ == "__main__":
    raise SystemExit(main())
