"""The recipes for distributions agree with each other and with the package."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from mtasts_daemon import __version__

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DATA = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
UNITS = sorted(path.name for path in (ROOT / "systemd").iterdir() if path.suffix in (".service", ".socket"))
KUBERNETES = PACKAGING / "kubernetes" / "mtasts-daemon.yml"
COMPOSE = PACKAGING / "container" / "compose.yml"


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("debian/changelog", r"\Amtasts-daemon \((.+)-1\)"),
        ("rpm/mtasts-daemon.spec", r"(?m)^Version: +(.+)$"),
        ("nix/package.nix", r'version = "(.+)";'),
        ("freebsd/Makefile", r"(?m)^DISTVERSION=\t(.+)$"),
        ("kubernetes/mtasts-daemon.yml", r"image: mtasts-daemon:(.+)"),
    ],
)
def test_recipe_has_the_version_of_the_program(file: str, pattern: str) -> None:
    found = re.search(pattern, (PACKAGING / file).read_text("utf-8"))
    assert found is not None
    assert found[1] == __version__


def test_every_file_with_a_placeholder_is_listed_for_the_first_release() -> None:
    listed = (ROOT / "docs" / "releasing.md").read_text("utf-8").partition("## Before the first release")[2]
    rows = [row.split("|")[1] for row in listed.splitlines() if row.startswith("| `")]
    names = [re.findall(r"`([^`]+)`", row) for row in rows]
    expected = {
        first if name is first else f"{Path(first).parent}/{name}" for first, *more in names for name in (first, *more)
    }
    texts = [
        path for path in (*ROOT.glob("*.*"), *PACKAGING.rglob("*"), *(ROOT / "systemd").iterdir()) if path.is_file()
    ]
    texts += (ROOT / "mtasts_daemon").rglob("*.py")
    texts.remove(PACKAGING / "release")
    found = {str(path.relative_to(ROOT)) for path in texts if b"mtasts-daemon.example" in path.read_bytes()}
    assert found == expected


def test_wheel_carries_every_unit_manual_page_and_completion() -> None:
    assert sorted(Path(place).name for place in DATA.values() if "/systemd/" in place) == UNITS
    for folder, pattern in (("man", "*.[1-9]"), ("completions", "*[!y]")):
        sources = {f"packaging/{folder}/{path.name}" for path in (PACKAGING / folder).glob(pattern) if path.is_file()}
        assert sources - set(DATA) == set()


def test_every_data_file_of_the_wheel_exists() -> None:
    assert [source for source in DATA if not (ROOT / source).is_file()] == []


def test_debian_rules_name_every_socket() -> None:
    rules = (PACKAGING / "debian" / "rules").read_text("utf-8")
    assert set(re.findall(r"mtasts-daemon[\w-]*\.(?:socket|service)", rules)) == set(UNITS)


def test_every_packaged_library_is_a_dependency_of_each_recipe() -> None:
    names = [re.split(r"[<>=\[]", line)[0].lower() for line in PROJECT["project"]["dependencies"]]
    container = (ROOT / "Containerfile").read_text("utf-8")
    nix = (PACKAGING / "nix" / "package.nix").read_text("utf-8")
    freebsd = (PACKAGING / "freebsd" / "Makefile").read_text("utf-8")
    for name in names:
        debian = f"python3-{'yaml' if name == 'pyyaml' else name}"
        assert debian in container
        assert name in nix
        assert f"}}{name}" in freebsd


def test_manifests_run_without_privileges_and_with_limits() -> None:
    documents = list(yaml.safe_load_all(KUBERNETES.read_text("utf-8")))
    [pod] = [document["spec"]["template"]["spec"] for document in documents if document["kind"] == "StatefulSet"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container["resources"]["limits"]
    service = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]["mtasts-daemon"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["ports"] == ["127.0.0.1:8461:8461"]


def test_compose_file_and_image_set_known_configuration_keys() -> None:
    schema = json.loads((PACKAGING / "schema" / "mtasts-daemon.schema.json").read_text("utf-8"))
    service = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]["mtasts-daemon"]
    image = (ROOT / "Containerfile").read_text("utf-8")
    for variable in {*service["environment"], *re.findall(r"MTASTS_\w+", image)}:
        place = schema
        for key in variable.removeprefix("MTASTS_").lower().split("__"):
            if "$ref" in place:
                place = schema["definitions"][place["$ref"].rpartition("/")[2]]
            place = place["properties"][key]


def test_purge_without_postfix_touches_nothing_below_run(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, status in (("rm", 0), ("rmdir", 0), ("userdel", 0), ("getent", 1), ("postconf", 127)):
        (commands / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/log\nexit {status}\n')
        (commands / name).chmod(0o755)
    script = ROOT / "packaging/debian/mtasts-daemon.postrm"
    environ = {"PATH": f"{commands}:/usr/bin:/bin"}
    subprocess.run(["/bin/sh", str(script), "purge"], env=environ, check=True)
    removed = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith(("rm ", "rmdir "))]
    assert removed and not [line for line in removed if " /run" in line]
