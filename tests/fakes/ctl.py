"""``mtastsctl`` as a process of its own: ``python -m tests.fakes.ctl``."""

import sys

from mtasts_daemon.cli.main import ctl_main

if __name__ == "__main__":
    sys.exit(ctl_main())
