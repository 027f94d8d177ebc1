"""A site for manual tests: ``python -m tests.interop [3.7|3.10]``; see README.md."""

import argparse
import subprocess
import tempfile
from pathlib import Path

from tests.fakes.ca import Flaw
from tests.interop.prepare import TREES
from tests.interop.site import Site, open_site


def furnish(site: Site) -> None:
    """Publish a few domains with an enforced policy for each transport."""
    for transport in ("plain", "tlsrpt"):
        for name, flaw in (("good", Flaw.GOOD), ("injected", Flaw.GOOD), ("expired", Flaw.EXPIRED), ("stripped", None)):
            domain = f"{name}.{transport}.example"
            exchanger = site.world.exchanger(f"mx.{domain}", flaw=flaw)
            site.world.send_mail_for(domain, exchanger)
            permitted = f"another.{domain}" if name == "injected" else exchanger.name
            site.world.publish(domain, "enforce", [permitted])


def main() -> None:
    """Start the site, run a shell on its machine, then stop it."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=__doc__)
    parser.add_argument("version", choices=list(TREES), nargs="?", default="3.10")
    with tempfile.TemporaryDirectory() as folder, open_site(parser.parse_args().version, Path(folder)) as site:
        furnish(site)
        subprocess.run(site.machine.command(["/bin/bash"]), check=False)


if __name__ == "__main__":
    main()
