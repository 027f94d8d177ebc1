"""The catalogue is complete, its page is current, and every slug that code can add is in it."""

import ast
import importlib.util
from pathlib import Path

import pytest

from mtasts_daemon import errors
from mtasts_daemon.diagnose.check.catalogue import CATALOGUE
from mtasts_daemon.notify.alert import Severity

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "mtasts_daemon" / "diagnose" / "check"
SMTP = ROOT / "mtasts_daemon" / "smtp"


def leaves(root: type[errors.MtaStsError]) -> set[str]:
    below = {slug for kind in root.__subclasses__() for slug in leaves(kind)}
    return below | ({root.slug} if root.slug else set())


def test_findings_page_is_generated_from_the_catalogue() -> None:
    spec = importlib.util.spec_from_file_location("findings_page", ROOT / "packaging" / "findings_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command = "PYTHONPATH=. python packaging/findings_page.py > docs/findings.md"
    assert (ROOT / "docs" / "findings.md").read_text(encoding="utf-8") == module.page(), command


@pytest.mark.parametrize(
    "root",
    [errors.StsRecordError, errors.PolicyFetchError, errors.PolicySyntaxError, errors.TlsrptRecordError],
)
def test_every_error_of_discovery_has_a_finding(root: type[errors.MtaStsError]) -> None:
    assert leaves(root) - errors.OWN_FETCH_SLUGS <= CATALOGUE.keys()


def test_every_slug_in_the_code_is_in_the_catalogue() -> None:
    added = set()
    for path in CHECK.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add":
                added |= {part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)}
    assert len(added) > 40
    assert added <= CATALOGUE.keys()


def test_every_problem_of_a_session_is_in_the_catalogue() -> None:
    prefixes = ("smtp-", "starttls-", "tls-", "certificate-")
    named = set()
    for path in SMTP.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(prefixes):
                named.add(node.value)
    assert len(named) > 20
    assert named <= CATALOGUE.keys()


@pytest.mark.parametrize("slug", CATALOGUE)
def test_finding_has_sentence_rule_and_remedy(slug: str) -> None:
    kind = CATALOGUE[slug]
    assert kind.sentence and not kind.sentence.endswith(".")
    assert kind.rfc.startswith("RFC ") or kind.ours
    bad = any(severity in (Severity.ERROR, Severity.WARNING) for severity in kind.severities)
    assert kind.remedy.endswith((".", ";", "com")) or not bad
