"""The diagram in the documentation is the automaton's table."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_diagram_in_the_documentation_is_current() -> None:
    spec = importlib.util.spec_from_file_location("cache_automaton", ROOT / "packaging" / "cache_automaton.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert module.embedded(text) == text, "run: PYTHONPATH=. python packaging/cache_automaton.py --write"
    assert "live --> live: PolicyFailed / SAVE, policy-refresh-failed" in text
    assert "live --> bare: max_age is over" in text
