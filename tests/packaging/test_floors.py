"""The lowest versions of the libraries, which `make test-pythons` installs."""

import tomllib
from pathlib import Path

import pytest

from tests.system.pythons import floors

ROOT = Path(__file__).parents[2]


def test_every_dependency_has_a_lowest_version() -> None:
    found = floors(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"])
    assert {"pydantic==2.9", "dkimpy==1.1", "uvloop==0.21.0"} <= set(found)


@pytest.mark.parametrize("line", ["idna", "idna==3.4", "idna>=3.4,<4"])
def test_dependency_without_a_plain_lowest_version_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="has no lowest version"):
        floors({"dependencies": [line], "optional-dependencies": {}})
