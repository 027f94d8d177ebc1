"""Any file or variable is a configuration or a list of printable problems."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mtasts_daemon.config import Config, ConfigProblems, OverrideSettings, ZoneSettings, load, yamlfile

JARGON = ("Input should", "input_value", "pydantic", "Value error", "cannot be used", "validation error")

relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "_LOADER", getattr(yaml, request.param))


def check(directory: Path, data: bytes, environ: dict[str, str] | None = None) -> None:
    file = directory / "config.yml"
    file.write_bytes(data)
    try:
        found = load(file, environ=environ or {})
    except ConfigProblems as error:
        assert error.problems
        for problem in error.problems:
            line = str(problem)
            assert line.isprintable() and len(line) < 1000 + len(str(file))
            assert not any(word in line for word in JARGON), line
    else:
        assert isinstance(found, Config)


@given(st.binary(max_size=300))
@relaxed
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    check(tmp_path, data)


@given(st.text(alphabet="ab:-?[]{},&*!|>'\"%@` \n\t#\\0u_1~<=\x85\ufeff\u2028é", max_size=80))
@relaxed
def test_any_text_made_of_what_yaml_treats_specially(tmp_path: Path, text: str) -> None:
    check(tmp_path, text.encode())


def names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names(field.annotation)


KEYS = sorted({*names(Config), *names(ZoneSettings), *names(OverrideSettings), "postfix", "a.example", "on"})
WORDS = [
    *("on", "off", "5s", "1GiB", "0660", "::1", "[::1]:53", "may", "secure match=a", "plain", "auto", "ns:."),
    *("socketmap:inet:127.0.0.1:0", "socketmap:unix:/x", "tcp_table:[::1]:5", "postfix", "10.0.0.0/8", "enforce", "/x"),
]
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=8) | st.dates()
)


def sections(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=3) | st.dictionaries(
        st.sampled_from(KEYS) | st.text(max_size=4), values, max_size=5
    )


@given(st.dictionaries(st.sampled_from(KEYS), st.recursive(leaves, sections, max_leaves=12), max_size=6))
@relaxed
def test_any_values_at_the_known_keys(tmp_path: Path, tree: dict[str, Any]) -> None:
    check(tmp_path, yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@given(
    st.dictionaries(
        st.builds(
            "MTASTS_{}".format,
            st.sampled_from(["DNS__TIMEOUT", "LISTEN", "ZONES__X__DANE", "__", ""]) | st.text(max_size=9),
        ),
        st.sampled_from(WORDS) | st.text(max_size=20),
        max_size=3,
    )
)
@relaxed
def test_any_environment(tmp_path: Path, environ: dict[str, str]) -> None:
    check(tmp_path, b"", environ)
