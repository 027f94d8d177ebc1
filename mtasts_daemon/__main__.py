"""``python -m mtasts_daemon`` is ``mtasts-daemon``."""

import sys

from .cli.main import daemon_main

if __name__ == "__main__":
    sys.exit(daemon_main())
