"""The fixtures: a site for each Postfix, started once, and a domain for each test."""

from collections.abc import Generator, Iterator

import pytest

from tests.interop.site import Site, open_site


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(request.param, tmp_path_factory.mktemp(f"site-{request.param}")) as opened:
        yield opened


@pytest.fixture
def domain(request: pytest.FixtureRequest, dialect: str) -> str:
    """A domain that no other test uses; its second last label selects the transport (see postfix/transport)."""
    others = [str(value) for name, value in request.node.callspec.params.items() if name not in ("site", "dialect")]
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:45].strip("-")
    return ".".join([*others, name, dialect, "example"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last log lines of Postfix and the daemon to a failure."""
    report = yield
    site = getattr(item, "funcargs", {}).get("site")
    if report.failed and isinstance(site, Site):
        for name, log in (("Postfix", site.postfix.log), ("the daemon", site.daemon.log)):
            report.sections.append((f"last words of {name}", "\n".join(log.splitlines()[-40:])))
    return report
