import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from mtasts_daemon import config
from mtasts_daemon.config import Config, OverrideSettings, ZoneSettings
from mtasts_daemon.config.dump import to_dump
from mtasts_daemon.config.json_schema import json_schema
from mtasts_daemon.config.sections.public import CertificateSettings
from mtasts_daemon.config.sections.publish import DnsUpdateSettings, PublishedDomainSettings
from mtasts_daemon.config.sections.receive import ImapSettings
from mtasts_daemon.config.sections.tlsrpt import DkimSettings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yml"
SCHEMA = ROOT / "packaging" / "schema" / "mtasts-daemon.schema.json"


def keys(model: type[BaseModel]) -> Iterator[tuple[str, str | None]]:
    """Every key of the model and the sections below it, with its description."""
    for name, field in model.model_fields.items():
        yield name, field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation)


SECTIONS = {
    *("zones", "overrides", "tlsrpt", "lookup", "dns", "https", "cache", "store", "compatibility", "log", "admin"),
    *("public", "publish", "notify", "receive"),
}
INNER = (OverrideSettings, DkimSettings, ImapSettings, CertificateSettings, PublishedDomainSettings, DnsUpdateSettings)
ALL_KEYS = [*keys(Config), *keys(ZoneSettings), *(key for model in INNER for key in keys(model))]


def test_committed_example_is_current() -> None:
    spec = importlib.util.spec_from_file_location("config_example", ROOT / "packaging" / "config_example.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert EXAMPLE.read_text("utf-8") == module.example(), "make generated writes it"


def test_example_equals_the_defaults() -> None:
    assert config.load(EXAMPLE, environ={}) == Config()


def test_example_lists_every_default() -> None:
    loaded = config.load_with_origins(EXAMPLE, environ={})
    one_zone = {key for key in loaded.origins if not key.startswith("zones.") or key.startswith("zones.postfix.")}
    written = {key.rpartition(".")[2] for key in one_zone}
    assert written == {name for name, _ in [*keys(Config), *keys(ZoneSettings)]} - SECTIONS


@pytest.mark.parametrize("name", sorted({name for name, _ in ALL_KEYS} - SECTIONS))
def test_example_describes_every_key(name: str) -> None:
    # A comment, perhaps a key that it is about as well, and the key.
    form = rf"^ *(?:# +)?#.*\n^[# ]*{name}:"
    assert re.search(form, EXAMPLE.read_text("utf-8"), re.MULTILINE)


def test_commented_overrides_of_the_example_are_valid(tmp_path: Path) -> None:
    text = EXAMPLE.read_text("utf-8").partition("# overrides:\n")[2].partition("\n\n")[0]
    file = tmp_path / "config.yml"
    file.write_text("overrides:\n" + re.sub(r"^# ", "", text, flags=re.MULTILINE), "utf-8")
    overrides = config.load(file, environ={}).overrides
    assert [(o.skip, o.treat_as, o.reply is not None) for o in overrides.values()] == [
        (True, None, False),
        (False, "enforce", False),
        (False, None, True),
    ]


def test_example_names_its_schema_in_the_first_line() -> None:
    modeline = EXAMPLE.read_text("utf-8").partition("\n")[0]
    assert modeline == f"# yaml-language-server: $schema={SCHEMA.relative_to(ROOT)}"


def test_every_key_is_described() -> None:
    assert [name for name, description in ALL_KEYS if not description] == []


# -- the schema --------------------------------------------------------------------------------------------


def test_the_committed_schema_is_current() -> None:
    assert json.loads(SCHEMA.read_text("utf-8")) == json_schema(), "make generated writes it"


def test_the_schema_is_valid_draft_7() -> None:
    jsonschema.Draft7Validator.check_schema(json_schema())
    assert "$defs" not in json.dumps(json_schema())


def accepted(text: str) -> bool:
    return bool(jsonschema.Draft7Validator(json_schema()).is_valid(yaml.safe_load(text)))


def test_the_schema_accepts_the_example() -> None:
    assert accepted(EXAMPLE.read_text("utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "dns:",
        "lookup: {deadline: 0.5s}",
        "cache: {unused_after: 1w2d}",
        "unix_mode: '0660'",
        "listen: ['socketmap:inet:[::1]:8461', 'socketmap:unix:/x', 'tcp_table:h:1']",
        "dns: {resolvers: ['::1', '[::1]:53', 192.0.2.1]}",
        "overrides: {a.example: {reply: may, reason: x}}",
        "publish: {domains: {a.example: {mode: enforce, mx: auto, max_age: 30d, rua: ['mailto:a@a.example']}}}",
        "publish: {domains: {a.example: {mx: ['*.a.example']}, b.example: {delegate_to: a.example}}}",
        "public: {listen: ['http:127.0.0.1:8464', 'http:unix:/x', 'http:[::1]:8464']}",
        "public: {listen: ['https:[::]:443'], certificates: [{certificate_file: /c, key_file: /k}]}",
    ],
)
def test_schema_accepts_valid_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yml").write_text(text)
    config.load(tmp_path / "config.yml", environ={})
    assert accepted(text)


@pytest.mark.parametrize(
    "text",
    [
        "nope: 1",
        "lookup: {deadline: 5}",
        "lookup: {deadline: ''}",
        "lookup: {max_connections: 0}",
        "unix_mode: 432",
        "listen: socketmap:unix:/x",
        "listen: ['socketmap:/x']",
        "zones: {x: {dialect: other}}",
        "overrides: {a.example: {skip: true}}",
        "store: {max_bytes: 1GB}",
        "publish: {domains: {a.example: {mx: mx.a.example}}}",
        "publish: {domains: {a.example: {mx: []}}}",
        "publish: {domains: {a.example: {max_age: 86400}}}",
        "publish: {dns_update: {server: 192.0.2.1}}",
        "public: {listen: ['127.0.0.1:8464']}",
    ],
)
def test_schema_rejects_invalid_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(config.ConfigProblems):
        config.load(tmp_path / "config.yml", environ={})
    assert not accepted(text)


def test_schema_has_defaults_as_written() -> None:
    definitions: dict[str, Any] = json_schema()["definitions"]
    cache = definitions["CacheSettings"]["properties"]
    assert (cache["retry_max"]["default"], cache["txt_ttl_max"]["default"]) == ("6h", "1h")
    assert json_schema()["properties"]["unix_mode"]["default"] == "0660"


# -- the dump ----------------------------------------------------------------------------------------------


def test_full_dump_loads_as_the_same_configuration(tmp_path: Path) -> None:
    source = tmp_path / "config.yml"
    source.write_text(
        "listen: ['tcp_table:[::1]:1', 'socketmap:unix:/x']\nstore: {path: /y}\nlookup: {deadline: 0.5s}\n"
        "zones: {Corp.x: {dane: off, default_level: none}}\ndns: {resolvers: ['[::1]:5'], trust_ad: [10.0.0.0/8]}\n"
        "overrides: {a.example: {reply: may, reason: 'it''s \"5: #'}, on.example: {treat_as: testing, reason: 'yes'}}\n"
    )
    loaded = config.load_with_origins(source, environ={})
    again = tmp_path / "again.yml"
    again.write_text(to_dump(loaded, defaults=True))
    assert config.load(again, environ={}) == loaded.config


def test_dump_has_the_origin_of_each_value(tmp_path: Path) -> None:
    source = tmp_path / "config.yml"
    source.write_text("dns:\n  timeout: 20s\n")
    loaded = config.load_with_origins(source, environ={"MTASTS_LOG__LEVEL": "debug"})
    assert to_dump(loaded) == (
        f'dns:\n  timeout: "20s"  # {source}:2\nlog:\n  level: "debug"  # environment MTASTS_LOG__LEVEL\n'
    )
    assert '  format: "auto"  # default\n' in to_dump(loaded, defaults=True)
    assert json.loads(to_dump(loaded, form="json")) == {
        "config": {"dns": {"timeout": "20s"}, "log": {"level": "debug"}},
        "origins": {"dns.timeout": f"{source}:2", "log.level": "environment MTASTS_LOG__LEVEL"},
    }


def test_dump_of_defaults_is_an_empty_section(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("")
    assert to_dump(config.load_with_origins(tmp_path / "config.yml", environ={})) == "{}\n"
