"""The check page as HTML, without scripts. Everything that is not ours is escaped. Pure."""

import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from hashlib import sha256
from html import escape

from ..diagnose.check.conclusion import MailOutcome
from ..diagnose.check.evidence import MxHostEvidence
from ..diagnose.check.finding import CheckFinding
from ..diagnose.check.result import CheckResult
from ..notify.alert import Severity

__all__ = ["CONTENT_SECURITY_POLICY", "form_page", "message_page", "result_page", "waiting_page"]

_STYLE = """\
:root{color-scheme:light dark;--good:#0a7a36;--bad:#b3261e;--warn:#8a5a00;--line:#8884}
@media(prefers-color-scheme:dark){:root{--good:#5fd08a;--bad:#ff8a80;--warn:#f0b95a}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:1.6rem}
form{display:flex;gap:.5rem;flex-wrap:wrap}
input{font:inherit;flex:1 1 18rem;padding:.4rem .6rem}button{font:inherit;padding:.4rem 1rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.25rem .6rem .25rem 0;border-bottom:1px solid var(--line)}
.scroll{overflow-x:auto}code{overflow-wrap:anywhere}li{margin:.5rem 0}
.ok,.authenticated{color:var(--good)}.error,.deferred,.rejected{color:var(--bad)}.warning{color:var(--warn)}
.verdict{border-left:.3rem solid;padding:.2rem .8rem;font-weight:600}
.remedy{display:block}footer{margin-top:2rem;font-size:.85rem}
"""

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_VERDICTS = {
    MailOutcome.AUTHENTICATED: "Mail is delivered with authentication.",
    MailOutcome.UNAUTHENTICATED: "Mail is delivered, but without authentication.",
    MailOutcome.DEFERRED: "Mail is deferred.",
    MailOutcome.REJECTED: "Mail cannot be delivered.",
    MailOutcome.UNKNOWN: "The outcome could not be determined from here.",
}
_DAY = 86400


def form_page() -> str:
    """Return the page without a result."""
    return _page("Check a domain", "", "<p>See how a domain looks to mail servers that send to it.</p>")


def waiting_page(domain: str, step: str) -> str:
    """Return the page shown while a check runs; the browser loads it again after two seconds."""
    found = f"<p><code>{escape(step)}</code></p>" if step else ""
    return _page(f"Checking {domain}", domain, f'<p role="status">Checking {escape(domain)}&hellip;</p>{found}')


def message_page(title: str, text: str, domain: str = "") -> str:
    """Return the page with a message in place of a result."""
    return _page(title, domain, f'<p class="verdict error" role="alert">{escape(text)}</p>')


def result_page(result: CheckResult, seconds_old: float) -> str:
    """Return the page with a result."""
    return _page(f"{result.domain}: check", result.domain, "".join(_result(result, seconds_old)))


def _page(title: str, domain: str, body: str) -> str:
    focus = "" if domain else " autofocus"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>Transport security of mail domains</h1>"
        '<form action="/check" method="get"><input name="domain" aria-label="Domain" maxlength="255" required '
        f'autocapitalize="off" spellcheck="false" placeholder="example.com" value="{escape(domain)}"{focus}>'
        f"<button>Check</button></form>{body}</main>"
        "<footer>MTA-STS (RFC 8461), DANE (RFC 7672), TLS reporting (RFC 8460), by mtasts-daemon</footer></body></html>"
    )


def _result(result: CheckResult, seconds_old: float) -> Iterator[str]:
    found = list(dict.fromkeys(conclusion.delivery for conclusion in result.conclusions))
    level = found[0].value if len(found) == 1 else ""
    verdict = _VERDICTS[found[0]] if len(found) == 1 else "What happens to mail depends on the sender."
    yield f"<h2>{escape(result.domain)}</h2>"
    yield f'<p class="verdict {level}">{escape(verdict)}</p>'
    yield from _policy(result)
    yield "<h2>What senders do</h2>"
    yield _table(
        ("sender", "mail is", "MX host", "reason"),
        [
            (
                escape(conclusion.sender.title),
                f'<span class="{conclusion.delivery.value}">{conclusion.delivery.value}</span>',
                escape(conclusion.host or "-"),
                escape(conclusion.reason),
            )
            for conclusion in result.conclusions
        ],
    )
    yield from _findings("What to fix", result.problems)
    yield from _findings("Not checked", [finding for finding in result.findings if finding.ours])
    if result.evidence.hosts:
        yield "<h2>MX hosts</h2>"
        titles = ("MX host", "address", "STARTTLS", "TLS", "certificate", "expires", "permitted", "TLSA", "REQUIRETLS")
        yield _table(titles, [row for host in result.evidence.hosts for row in _rows(host, result)])
    other = [finding for finding in result.findings if finding not in result.problems and not finding.ours]
    yield from _findings("Also seen", other)
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(result.evidence.at))
    link = f'<a href="/check/{escape(result.domain)}">/check/{escape(result.domain)}</a>'
    yield f"<p>Checked {at}, {int(seconds_old)} seconds ago; a result is kept for five minutes. Link: {link}</p>"


def _policy(result: CheckResult) -> Iterator[str]:
    evidence = result.evidence
    record, policy = evidence.sts.record, evidence.policy
    yield "<h2>MTA-STS policy</h2>"
    if policy is None or record is None:
        failure = evidence.sts.failure or evidence.policy_host.failure
        yield f"<p>No valid policy{': ' + escape(failure.sentence) if failure is not None else ''}.</p>"
        return
    yield _table(
        (),
        [
            ("valid", "yes"),
            ("id", f"<code>{escape(record.id)}</code>"),
            ("mode", f"<code>{policy.mode.value}</code>"),
            ("max_age", f"{policy.max_age} seconds"),
            ("permitted MX hosts", "<br>".join(f"<code>{escape(pattern.text)}</code>" for pattern in policy.mx[:50])),
        ],
    )


def _rows(host: MxHostEvidence, result: CheckResult) -> Iterator[tuple[str, ...]]:
    policy = result.evidence.policy
    permitted = "-" if policy is None or not policy.mx else "yes" if policy.permits(host.host) else "no"
    dane = host.dane.status.value if host.dane is not None else "-"
    for session in host.sessions:
        tls = session.tls
        certificate = "-" if tls is None else (tls.problem_for(host.host) or "valid").removeprefix("certificate-")
        expires = "-" if tls is None else f"{int((tls.leaf.not_after - result.evidence.at) // _DAY)} days"
        match = dane
        if dane == "usable" and tls is not None:
            match = "match" if host.dane_refused.get(session.address) is None else "mismatch"
        yield tuple(
            escape(cell)
            for cell in (
                host.host,
                session.address,
                "yes" if session.starttls else "no" if session.connected else "not reached",
                tls.session.version if tls is not None else "-",
                certificate,
                expires,
                permitted,
                match,
                "yes" if session.requiretls else "no",
            )
        )
    if not host.sessions:
        yield (escape(host.host), "not probed", *["-"] * 4, permitted, dane, "-")


def _findings(title: str, findings: Iterable[CheckFinding]) -> Iterator[str]:
    items = [
        f'<li><b class="{finding.severity.value}">{finding.severity.value}</b> {escape(finding.text)} '
        f"<small><code>{finding.slug}</code> {escape(finding.rfc)}</small>"
        + (f'<span class="remedy">{escape(finding.remedy)}</span>' if _advises(finding) else "")
        + "</li>"
        for finding in findings
    ]
    if items:
        yield f"<h2>{title}</h2><ul>{''.join(items)}</ul>"


def _advises(finding: CheckFinding) -> bool:
    """Return True if the remedy is for the domain: a stranger cannot repair this host."""
    return finding.severity is not Severity.OK and not finding.ours and finding.slug != "dane-not-checked"


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
