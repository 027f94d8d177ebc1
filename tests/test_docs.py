"""The documentation points to files that exist, and the architecture page lists every folder."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 150


def test_architecture_lists_every_folder() -> None:
    package = ROOT / "mtasts_daemon"
    folders = sorted(path.name for path in package.iterdir() if (path / "__init__.py").exists())
    listed = set(re.findall(r"^\| `([a-z]+)/", ARCHITECTURE, re.MULTILINE))
    assert set(folders) - listed == set()
    assert listed <= set(folders)


def test_architecture_names_files_that_exist() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", ARCHITECTURE)
    found = [name for name in named if (ROOT / "mtasts_daemon" / name).exists() or (ROOT / name).exists()]
    assert [name for name in named if name not in found] == []
    assert len(named) > 10
