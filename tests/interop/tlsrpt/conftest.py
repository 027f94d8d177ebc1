"""A site whose Postfix tells the daemon of its TLS sessions."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.postfix import Postfix
from tests.interop.site import Site, open_site


def collecting(postfix: Postfix) -> dict[str, Any]:
    """The daemon's part: the socket that the transport ``report`` sends to."""
    return {"tlsrpt": {"socket": str(postfix.sockets / "tlsrpt.sock")}}


@pytest.fixture(scope="session")
def reporting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site("3.10", tmp_path_factory.mktemp("reporting"), collecting) as site:
        yield site
