import pickle
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest

from mtasts_daemon import config
from mtasts_daemon.config import Config, ConfigProblems, loading
from mtasts_daemon.config.problems import MAX_PROBLEMS
from mtasts_daemon.config.values import Listen, ServerAddress


class Etc:
    """A directory with configuration files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.main = directory / "config.yml"

    def write(self, text: str, name: str = "config.yml") -> Path:
        file = self.directory / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
        return file

    def load(self, text: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
        if text is not None or not self.main.exists():
            self.write(text or "")
        return config.load(self.main, environ=environ or {})

    def problems(self, text: str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
        """Return the problems, with file names instead of paths."""
        with pytest.raises(ConfigProblems) as caught:
            self.load(text, environ)
        return [str(problem).replace(f"{self.directory}/", "") for problem in caught.value.problems]


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    return Etc(tmp_path)


# -- files -------------------------------------------------------------------------------------------------


def test_default_file_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "DEFAULT_PATH", tmp_path / "none" / "config.yml")
    loaded = config.load_with_origins(environ={})
    assert loaded.config == Config()
    assert (loaded.files, loaded.origins) == ((), {})


def test_default_file_is_read_if_it_exists(monkeypatch: pytest.MonkeyPatch, etc: Etc) -> None:
    monkeypatch.setattr(loading, "DEFAULT_PATH", etc.write("log: {level: debug}"))
    assert config.load(environ={}).log.level == "debug"


def test_conf_d_is_read_without_a_default_file(monkeypatch: pytest.MonkeyPatch, etc: Etc) -> None:
    monkeypatch.setattr(loading, "DEFAULT_PATH", etc.main)
    etc.write("log: {level: debug}", "conf.d/1.yml")
    assert config.load(environ={}).log.level == "debug"


def test_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        config.load(tmp_path / "no.yml", environ={})
    assert [str(problem) for problem in caught.value.problems] == [f"{tmp_path}/no.yml: no such file"]


def test_directory_is_not_a_file(etc: Etc) -> None:
    etc.main.mkdir()
    assert etc.problems() == ["config.yml: cannot be read: Is a directory"]


def test_conf_d_is_merged_in_order_of_file_names(etc: Etc) -> None:
    etc.write("dns: {timeout: 1s}\nlog: {level: error}\nlisten: [tcp_table:127.0.0.1:1]")
    etc.write("dns: {timeout: 3s, resolvers: [192.0.2.1]}", "conf.d/20.yml")
    etc.write("dns: {timeout: 2s}\nlisten: []", "conf.d/10.yml")
    etc.write("dns: {timeout: 9s}", "conf.d/.hidden.yml")
    etc.write("dns: {timeout: 9s}", "conf.d/30.yml~")
    loaded = config.load_with_origins(etc.main, environ={})
    assert loaded.config.dns.timeout == 3.0
    assert loaded.config.dns.resolvers == (ServerAddress("192.0.2.1"),)
    assert loaded.config.log.level == "error"
    assert loaded.config.listen == ()
    assert [file.name for file in loaded.files] == ["config.yml", "10.yml", "20.yml"]


def test_empty_section_changes_nothing(etc: Etc) -> None:
    etc.write("dns: {timeout: 1s}")
    etc.write("dns:\n  # timeout: 2s\n", "conf.d/1.yml")
    assert etc.load().dns.timeout == 1.0


def test_empty_sections_are_defaults(etc: Etc) -> None:
    assert etc.load("dns:\nzones:\noverrides:\nlog:\nlookup: {}\n") == Config()


def test_null_restores_a_default(etc: Etc) -> None:
    etc.write("store: {path: /x}")
    etc.write("store: {path: null}", "conf.d/1.yml")
    assert etc.load().store.path is None


@pytest.mark.parametrize("text", ["- a", "5", "text"])
def test_file_must_be_a_section(etc: Etc, text: str) -> None:
    assert etc.problems(text) == ["config.yml:1:1: must be a section with keys (start with a key, such as listen:)"]


def test_dangling_link_in_conf_d_is_reported(etc: Etc) -> None:
    etc.write("", "conf.d/1.yml").unlink()
    (etc.directory / "conf.d" / "1.yml").symlink_to("/nonexistent")
    assert etc.problems() == ["conf.d/1.yml: no such file"]


def test_file_name_is_escaped(etc: Etc) -> None:
    (etc.directory / "conf.d").mkdir()
    (etc.directory / "conf.d" / "\x1b[2J\udcff.yml").write_text("a: 1")
    (line,) = etc.problems()
    assert line.startswith("conf.d/\\x1b[2J\\udcff.yml:1:1: ")


# -- problems ----------------------------------------------------------------------------------------------


def test_all_problems_of_all_files_are_reported_at_once(etc: Etc) -> None:
    etc.write("dns: {timeout: 5}\ndns: {}\nlogg: {}\n")
    etc.write("- a\n", "conf.d/1.yml")
    etc.write("cache:\n  txt_ttl_min: 2h\n", "conf.d/2.yml")
    assert etc.problems(environ={"MTASTS_LOG__LEVEL": "loud"}) == [
        "conf.d/1.yml:1:1: must be a section with keys (start with a key, such as listen:)",
        "conf.d/2.yml:2:16: cache.txt_ttl_min: 2h is not within 1s to 1h (write 1h)",
        'config.yml:1:16: dns.timeout: 5 has no unit (for seconds write "5s")',
        "config.yml:2:1: dns: is given twice; first in line 1 (remove one)",
        "config.yml:3:1: logg: is not a known key (write log)",
        'environment MTASTS_LOG__LEVEL: log.level: "loud" is not one of debug, info, warning or error',
    ]


def test_key_of_an_unreadable_file_is_not_reported_missing(etc: Etc) -> None:
    etc.write("default_zone: corp\noverrides: {a.example: {}}")
    broken = etc.write("zones: {corp: {}\n", "conf.d/1.yml")
    assert len(etc.problems()) == 1
    broken.unlink()
    assert etc.problems() == [
        'config.yml:1:15: default_zone: there is no zone "corp" '
        "(write one of postfix, query, querywithtlsrpt, postfix-tlsrpt, or add it to zones)",
        "config.yml:2:13: overrides.a.example.reason: is missing (add reason: and a value)",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dns: {timeuot: 1s}", "1:7: dns.timeuot: is not a known key (write timeout)"),
        (
            "https: {port: 1}",
            "1:9: https.port: is not a known key (known here: ca_file, allow_addresses, proxy, timeout,"
            " max_fetches, max_fetches_per_network)",
        ),
        ("zones: {x: {Dialect: plain}}", "1:13: zones.x.Dialect: is not a known key (write dialect)"),
        ("overrides: {a.example: {treat-as: testing, reason: x}}",
         "1:25: overrides.a.example.treat-as: is not a known key (write treat_as)"),
        ("zones: {x: {dane: true}}", "1:19: zones.x.dane: true is not one of auto, on, always or off (write on)"),
        ("zones: {x: {dane: false}}", "1:19: zones.x.dane: false is not one of auto, on, always or off (write off)"),
        ("zones: {x: {dialect: tlrpt}}", '1:22: zones.x.dialect: "tlrpt" is not one of plain or tlsrpt (write tlsrpt)'),
        ("log: {level: }", "1:14: log.level: nothing is not one of debug, info, warning or error"),
        ("compatibility: {draft_2017: on}",
         '1:29: compatibility.draft_2017: must be true or false, not "on" (write true)'),
        ("compatibility: {draft_2017: 1}", "1:29: compatibility.draft_2017: must be true or false, not 1"),
        ("lookup: {max_connections: '512'}",
         '1:27: lookup.max_connections: must be a whole number, not "512" (write 512 without quotes)'),
        ("lookup: {max_connections: 1.5}", "1:27: lookup.max_connections: must be a whole number, not 1.5"),
        ("lookup: {max_connections: true}", "1:27: lookup.max_connections: must be a whole number, not true"),
        ("lookup: {max_connections: 0}", "1:27: lookup.max_connections: 0 is too small (write at least 1)"),
        ("lookup: {max_connections: 100000}",
         "1:27: lookup.max_connections: 100000 is too large (write at most 65536)"),
        ("lookup: {deadline: 30s}", "1:20: lookup.deadline: 30s is not within 0.1s to 20s (write 20s)"),
        ("lookup: {deadline: 10}", '1:20: lookup.deadline: 10 has no unit (for seconds write "10s")'),
        ("unix_mode: 660", '1:12: unix_mode: 660 is a number (write permissions in octal and in quotes: "0660")'),
        ("unix_mode: 0660",
         '1:12: unix_mode: 0660 without quotes is ambiguous in YAML (write "0660", with the quotes)'),
        ("listen: tcp_table:127.0.0.1:1",
         '1:9: listen: must be a list, not "tcp_table:127.0.0.1:1" (write ["tcp_table:127.0.0.1:1"])'),
        ("listen:", "1:8: listen: must be a list, not nothing (write [] for none, or leave the key out)"),
        ("listen: [tcp_table:127.0.0.1:1, socketmap:inet:127.0.0.1:1]",
         "1:9: listen: tcp_table:127.0.0.1:1 and socketmap:inet:127.0.0.1:1 are the same address (remove one)"),
        ("dns: {resolvers: [127.0.0.1, '::1', localhost]}", '1:37: dns.resolvers[2]: "localhost" is not an IP address'),
        ("dns: {resolvers: [" + "10.0.0.1," * 17 + "]}", "1:18: dns.resolvers: has 17 items (write at most 16)"),
        ("dns: 5s", '1:6: dns: must be a section with keys of its own, not "5s" (write the keys below it, indented)'),
        ("zones: []",
         "1:8: zones: must be a section with keys of its own, not a list (write the keys below it, indented)"),
        ("zones: {a b: {}}", '1:9: zones.a b: "a b" is not a map name '
         "(use 1 to 64 letters, digits, dots, hyphens and underscores)"),
        ("zones:\n  Corp: {}\n  corp: {}",
         "3:3: zones.corp: is given twice, in another spelling; first in line 2 (remove one)"),
        ("cache: {txt_ttl_min: 10m, txt_ttl_max: 5m}",
         "1:40: cache.txt_ttl_max: 5m is below txt_ttl_min, 10m (raise it, or lower txt_ttl_min)"),
        ("overrides: {com: {skip: true, reason: x}}",
         '1:13: overrides.com: "com" is not a policy domain: a name of one label has no policy'),
        ("overrides: {a.example: {reason: x}}",
         "1:13: overrides.a.example: has no effect (add one of skip: true, treat_as, reply)"),
        ("overrides: {a.example: {skip: true, reply: may, reason: x}}",
         "1:13: overrides.a.example: has skip and reply, which exclude each other (keep one)"),
        ("overrides: {a.example: {skip: true}}",
         "1:13: overrides.a.example.reason: is missing (add reason: and a value)"),
        ("overrides: {a.example: {skip: true, reason: ' '}}",
         "1:45: overrides.a.example.reason: is empty (write the reason for the next administrator)"),
        ("overrides: {a.example: {skip: true, reason: 4711}}",
         '1:45: overrides.a.example.reason: must be text, not 4711 (write "4711")'),
    ],
)  # fmt: skip
def test_problem_has_position_and_hint(etc: Etc, text: str, expected: str) -> None:
    assert etc.problems(text) == [f"config.yml:{expected}"]


def test_fixed_reply_that_postfix_rejects_is_rejected(etc: Etc) -> None:
    (line,) = etc.problems("overrides: {a.example: {reply: 'secure match=', reason: x}}")
    assert line.startswith("config.yml:1:32: overrides.a.example.reply: Postfix would defer all mail with this: ")


def test_number_of_reported_problems_is_bounded(etc: Etc) -> None:
    lines = etc.problems("".join(f"word{number}: x\n" for number in range(20_000)))
    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[0].startswith("config.yml:1:1: word0: is not a known key")
    assert lines[-1] == "config.yml: there are more problems (fix these first)"


def test_problems_can_be_pickled() -> None:
    error = ConfigProblems([config.Problem("f", 1, 2, "a", "is wrong", "hint it")])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
    assert str(error) == "The configuration is not valid: f:1:2: a: is wrong (hint it)"


# -- values ----------------------------------------------------------------------------------------------------


def test_defaults_are_the_documented_ones() -> None:
    assert Config().listen == (Listen("socketmap", "127.0.0.1", 8461),)
    assert Config().default_zone == "postfix"
    assert {name: zone.dialect for name, zone in Config().zones.items()} == {
        "postfix": "plain",
        "query": "plain",
        "querywithtlsrpt": "tlsrpt",
        "postfix-tlsrpt": "tlsrpt",
    }


def test_built_in_zone_keeps_its_other_keys(etc: Etc) -> None:
    zones = etc.load("zones: {QUERYwithTLSRPT: {default_level: dane}, corp: {dane: off}}\ndefault_zone: CORP").zones
    assert (zones["querywithtlsrpt"].dialect, zones["querywithtlsrpt"].default_level) == ("tlsrpt", "dane")
    assert (zones["corp"].dialect, zones["corp"].dane) == ("plain", "off")
    assert len(zones) == 5


def test_zone_names_are_merged_in_any_letter_case(etc: Etc) -> None:
    etc.write("zones: {QUERY: {dane: on}}")
    etc.write("zones: {Query: {default_level: may}}", "conf.d/1.yml")
    zone = etc.load(environ={"MTASTS_ZONES__QUERY__DANE_PARTIAL": "secure"}).zones["query"]
    assert (zone.dane, zone.default_level, zone.dane_partial) == ("on", "may", "secure")


def test_override_is_stored_under_its_a_label(etc: Etc) -> None:
    found = etc.load("overrides: {Bücher.Example.: {skip: true, reason: 'two\n  lines'}}").overrides
    assert found["xn--bcher-kva.example"].reason == "two lines"


def test_store_is_in_the_state_directory_of_systemd() -> None:
    store = Config().store
    assert str(store.file({})) == "/var/lib/mtasts-daemon/policies.sqlite"
    assert str(store.file({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"})) == "/var/lib/a/policies.sqlite"


def test_configured_store_is_used(etc: Etc) -> None:
    assert str(etc.load("store: {path: /x/y}").store.file({"STATE_DIRECTORY": "/s"})) == "/x/y"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().dns.timeout = 3  # type: ignore[misc,assignment]


# -- the environment ---------------------------------------------------------------------------------------


def test_a_variable_overrides_the_files(etc: Etc) -> None:
    environ = {
        "MTASTS_DNS__RESOLVERS": "[192.0.2.1, '[::1]:5353']",
        "MTASTS_LISTEN": "[]",
        "MTASTS_HTTPS": "{allow_addresses: [10.0.0.0/8]}",
        "MTASTS_HTTPS__MAX_FETCHES": "3",
        "PATH": "/bin",
    }
    found = etc.load("dns: {resolvers: [192.0.2.9], timeout: 1s}", environ)
    assert found.dns.resolvers == (ServerAddress("192.0.2.1"), ServerAddress("::1", 5353))
    assert found.dns.timeout == 1.0
    assert found.listen == ()
    assert (found.https.allow_addresses, found.https.max_fetches) == ((ip_network("10.0.0.0/8"),), 3)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MTASTS_DNS__TIMEUOT", "1s", "dns.timeuot: is not a known key (write timeout)"),
        ("MTASTS_DNS__TIMEOUT", "5", 'dns.timeout: 5 has no unit (for seconds write "5s")'),
        ("MTASTS_DNS__TIMEOUT", "", 'dns.timeout: must be text, not nothing (write it as "5s")'),
        ("MTASTS_DNS__RESOLVERS", "[&a x]", "dns.resolvers: &a is an anchor; anchors are not supported (remove it)"),
        ("MTASTS_DNS__TIMEOUT", "\udcff", "dns.timeout: octet 0xff is not UTF-8 (save the file as UTF-8)"),
    ],
)
def test_bad_variable_is_reported_by_name(etc: Etc, name: str, value: str, expected: str) -> None:
    shown = name.replace("\udcff", "\\udcff")
    assert etc.problems(environ={name: value}) == [f"environment {shown}: {expected}"]


def test_variable_with_many_parts_is_an_unknown_key(etc: Etc) -> None:
    assert len(etc.problems(environ={"MTASTS_" + "A__" * 40_000: "[" * 15 + "]" * 15})) == 1


@pytest.mark.parametrize(
    "name",
    [
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_LOOKUP",
        "PORT",
        "PORT_8461_TCP",
        "PORT_8461_TCP_ADDR",
        "DAEMON_PORT",
    ],
)
def test_variables_of_kubernetes_are_ignored(etc: Etc, name: str) -> None:
    assert etc.load(environ={f"MTASTS_{name}": "tcp://10.0.0.1:8461"}) == Config()


# -- origins, and cost -------------------------------------------------------------------------------------


def test_every_value_has_an_origin(etc: Etc) -> None:
    etc.write("dns:\n  timeout: 1s\n  resolvers: ['::1']\nzones: {Corp: {dane: on}}")
    loaded = config.load_with_origins(etc.main, environ={"MTASTS_LOG__LEVEL": "debug"})
    assert loaded.origin("dns.timeout") == f"{etc.main}:2"
    assert loaded.origin("dns.resolvers") == f"{etc.main}:3"
    assert loaded.origin("zones.corp.dane") == f"{etc.main}:4"
    assert loaded.origin("log.level") == "environment MTASTS_LOG__LEVEL"
    assert loaded.origin("log.format") == "default"
    assert len(loaded.origins) == 4


def test_loading_imports_no_network_modules() -> None:
    code = (
        "import sys; from mtasts_daemon.config import load; load(environ={}); "
        "print([name for name in ('asyncio', 'aiohttp', 'idna', 'difflib', 'email_validator', 'jsonschema') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["MTASTS_VERSION", "MTASTS_NAME", "MTASTS_DAEMON_IMAGE", "MTASTS_LISTN"])
def test_variable_of_a_platform_is_reported_and_ignored(etc: Etc, name: str) -> None:
    loaded = config.load_with_origins(etc.write(""), environ={name: "1: 2: 3", "MTASTS_LOG__LEVEL": "debug"})
    assert loaded.ignored == (name,)
    assert loaded.config.log.level == "debug"


def test_unknown_section_in_a_variable_is_a_problem(etc: Etc) -> None:
    assert etc.problems(environ={"MTASTS_DNSS__TIMEOUT": "3s"}) != []
