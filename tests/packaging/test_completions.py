"""The shells' completions are those of the command lines."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

COMPLETIONS = Path(__file__).parents[2] / "packaging" / "completions"


def made() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("make_completions", COMPLETIONS / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, str] = module.completions()
    return found


def test_committed_completions_are_current() -> None:
    files = [path for path in COMPLETIONS.iterdir() if path.is_file() and path.suffix != ".py"]
    committed = {path.name: path.read_text(encoding="utf-8") for path in files}
    assert committed == made(), "make generated writes it"


@pytest.mark.parametrize("command", ["mtasts-daemon", "mtastsctl"])
def test_bash_completes_a_command(command: str) -> None:
    script = (
        f"source {COMPLETIONS / command}.bash; COMP_WORDS=({command} ''); COMP_CWORD=1; "
        f"$(complete -p {command} | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert ("serve" if command == "mtasts-daemon" else "explain") in found.stdout.split(), found.stderr
