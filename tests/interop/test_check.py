"""``mtastsctl check`` for every fake domain, compared with real Postfix, and with real servers."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.ca import Flaw
from tests.interop.machine import Machine
from tests.interop.prepare import WEB_SERVER
from tests.interop.site import Site, every_dialect, every_postfix

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120, func_only=True)]

World = Callable[[Site, str], None]


def checked(site: Site, domain: str, *arguments: str) -> dict[str, Any]:
    with site.world.validating():
        found: dict[str, Any] = json.loads(site.daemon.ctl("check", "--json", *arguments, domain, codes=(0, 1, 2, 75)))
    assert found["resolver_validates"] is True
    return found


def one(flaw: Flaw | None, mode: str | None = "enforce", pattern: str = "mx.") -> World:
    def build(site: Site, domain: str) -> None:
        exchanger = site.world.exchanger(f"mx.{domain}", flaw=flaw)
        site.world.send_mail_for(domain, exchanger)
        if mode is not None:
            site.world.publish(domain, mode, [f"{pattern}{domain}"])

    return build


def two(first: Flaw | None, *, forged: bool = False) -> World:
    def build(site: Site, domain: str) -> None:
        names = ("forged" if forged else "mx", "true")
        exchangers = [
            site.world.exchanger(f"{names[0]}.{domain}", flaw=first),
            site.world.exchanger(f"{names[1]}.{domain}"),
        ]
        site.world.send_mail_for(domain, *exchangers)
        permitted = exchangers[1:] if forged else exchangers
        site.world.publish(domain, "enforce", [exchanger.name for exchanger in permitted])

    return build


def down(site: Site, domain: str) -> None:
    one(Flaw.SELF_SIGNED)(site, domain)
    site.world.policy_host_down(domain)


def nowhere(site: Site, domain: str) -> None:
    site.world.records(domain, f"MX 10 mx.{domain}.", f"MX 20 mx2.{domain}.")
    site.world.publish(domain, "enforce", [f"mx.{domain}"])


def absent(site: Site, domain: str) -> None:
    site.world.records(domain, 'TXT "no mail here"')


WORLDS: dict[str, World] = {
    "clear": one(None, None),
    "unverified": one(Flaw.SELF_SIGNED, None),
    "good": one(Flaw.GOOD),
    "wildcard": one(Flaw.GOOD, pattern="*."),
    "injected": one(Flaw.GOOD, pattern="other."),
    "injected-first": two(Flaw.GOOD, forged=True),
    "expired-first": two(Flaw.EXPIRED),
    "stripped": one(None),
    "stripped-testing": one(None, "testing"),
    **{f"{flaw}": one(flaw) for flaw in (Flaw.WRONG_NAME, Flaw.SELF_SIGNED, Flaw.UNTRUSTED, Flaw.EXPIRED)},
    "testing": one(Flaw.SELF_SIGNED, "testing", pattern="other."),
    "none": one(Flaw.SELF_SIGNED, "none", pattern="other."),
    "policy-host-down": down,
    "no-address": nowhere,
    "no-address-implicit": absent,
}


@every_dialect
@pytest.mark.parametrize("world", WORLDS)
def test_check_concludes_what_postfix_does(site: Site, dialect: str, domain: str, world: str) -> None:
    WORLDS[world](site, domain)
    conclusion = next(one for one in checked(site, domain)["conclusions"] if one["sender"] == "dane-first")
    log_before = len(site.postfix.log)
    sent = site.postfix.send(domain)
    assert (conclusion["delivery"] == "deferred") is sent.deferred, conclusion
    if sent.delivered:
        verified = f"Verified TLS connection established to {conclusion['host']}" in site.postfix.log[log_before:]
        assert conclusion["delivery"] == ("authenticated" if verified else "unauthenticated"), conclusion


@every_postfix
def test_real_smtpd_is_probed_to_the_second_ehlo(site: Site) -> None:
    domain, host = "real-smtpd.example", "mail.real-smtpd.example"
    etc = site.machine.root / "etc/postfix"
    (etc / "smtpd.pem").write_bytes(site.world.ca.issue(host).read_bytes())
    site.machine.run("postconf", "-e", "smtpd_tls_chain_files=/etc/postfix/smtpd.pem", "smtpd_tls_security_level=may")
    site.machine.run("postfix", "reload")
    site.world.records(domain, f"MX 10 {host}.")
    site.world.records(host, "A 127.0.0.1")
    site.world.publish(domain, "enforce", [host])
    found = checked(site, domain)
    (server,) = found["mx"][0]["addresses"]
    assert server["problem"] is None
    assert server["certificate_problem"] is None
    assert (server["tls"], server["starttls"], server["names"]) == ("TLSv1.3", True, [host])
    assert server["banner"].startswith("220 sender.example ESMTP Postfix")
    assert [one["delivery"] for one in found["conclusions"]] == ["authenticated"] * 3
    # The server's log of it.
    last = [line for line in site.postfix.log.splitlines() if "disconnect from localhost[127.0.0.1]" in line][-1]
    assert "ehlo=2 starttls=1 quit=1 commands=4" in last


@every_postfix
def test_real_nginx_serves_the_policy_that_is_checked(site: Site) -> None:
    domain = "real-nginx.example"
    exchanger = site.world.exchanger(f"mx.{domain}")
    site.world.send_mail_for(domain, exchanger)
    site.world.records(f"mta-sts.{domain}", "A 127.0.9.1")
    site.world.records(f"_mta-sts.{domain}", 'TXT "v=STSv1; id=20261128;"')
    with Machine(WEB_SERVER, site.world.network) as machine:
        (machine.root / "etc/nginx/policy.pem").write_bytes(site.world.ca.issue(f"mta-sts.{domain}").read_bytes())
        text = f"version: STSv1\\nmode: enforce\\nmx: {exchanger.name}\\nmax_age: 604800\\n"
        (machine.root / "etc/nginx/nginx.conf").write_text(
            "user root; events {} http { access_log off; server { listen 127.0.9.1:443 ssl;"
            " ssl_certificate policy.pem; ssl_certificate_key policy.pem;"
            " location = /.well-known/mta-sts.txt { default_type text/plain;"
            f' return 200 "{text}"; }} }} }}'
        )
        machine.run("sh", "-c", "nginx >/dev/null 2>&1 </dev/null")
        found = checked(site, domain)
    assert found["policy"] == {"mode": "enforce", "max_age": 604800, "mx": [exchanger.name]}
    (endpoint,) = found["policy_host"]
    assert (endpoint["problem"], endpoint["tls"]) == (None, "TLSv1.3")
    assert found["conclusions"][0]["delivery"] == "authenticated"
