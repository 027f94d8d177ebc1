"""``mtastsctl`` as a separate process: ``python -m tests.fakes.ctl``."""

import sys

from mtasts_daemon.cli.main import ctl_main

if __name__ == "__main__":
    sys.exit(ctl_main())
