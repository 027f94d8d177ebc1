"""The check page for strangers: results, limits, hostile names and texts."""

import asyncio
import html
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.diagnose.check.evidence import CheckEvidence
from mtasts_daemon.diagnose.check.gather import CheckStep
from mtasts_daemon.public.check_limits import CheckLimits
from mtasts_daemon.public.check_page import PublicCheck
from mtasts_daemon.public.site import PublicRequest
from tests.diagnose.evidences import DOMAIN, evidence, expired
from tests.fakes.ca import Ca
from tests.fakes.check_world import CheckWorld
from tests.fakes.https import Behaviour
from tests.fakes.probed_smtp import MxBehaviour, MxManner

Gather = Callable[..., Awaitable[CheckEvidence]]


class Page:
    """The page with a fake check; ``checks`` counts them."""

    def __init__(self, found: CheckEvidence | Exception | None = None, limits: CheckLimits | None = None) -> None:
        self.found = found or evidence()
        self.checks: list[str] = []
        self.gate: asyncio.Event | None = None
        self.page = PublicCheck(self._gather, limits)
        self.page.enabled = True

    async def _gather(self, domain: str, *, on_step: Callable[[CheckStep], None]) -> CheckEvidence:
        self.checks.append(domain)
        on_step(CheckStep("mx", domain, "<b>2 hosts</b>"))
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def get(self, path: str, client: str = "192.0.2.1") -> Any:
        call = PublicRequest(make_mocked_request("GET", path), b"", client, False)
        handler = self.page.form if path.partition("?")[0] == "/check" else self.page.result
        return await handler(call)


async def test_form_leads_to_a_link_that_can_be_shared() -> None:
    page = Page()
    assert 'name="domain"' in (await page.get("/check")).text
    answer = await page.get("/check?domain=B%C3%BCcher.example")
    assert (answer.status, answer.headers["Location"]) == (303, "/check/xn--bcher-kva.example")


async def test_result_shows_policy_first_and_is_kept_for_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page()
    text = (await page.get(f"/check/{DOMAIN}")).text
    assert text.index("Mail is delivered with authentication.") < text.index("MTA-STS policy") < text.index("MX hosts")
    for part in ("<code>enforce</code>", "604800 seconds", "<code>mx.example.com</code>", f"/check/{DOMAIN}"):
        assert part in text
    await page.get(f"/check/{DOMAIN}", client="198.51.100.7")
    assert page.checks == [DOMAIN]
    monkeypatch.setattr("mtasts_daemon.public.check_page._HOLD_SECONDS", 0.0)
    await page.get(f"/check/{DOMAIN}")
    assert page.checks == [DOMAIN, DOMAIN]


async def test_result_is_json_on_request() -> None:
    answer = await Page(expired()).get(f"/check/{DOMAIN}?json=1")
    assert answer.content_type == "application/json"
    assert json.loads(answer.text)["exit_code"] == 2


async def test_running_check_is_joined_and_its_page_loads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtasts_daemon.public.check_page._WAIT_SECONDS", 0.05)
    page = Page()
    page.gate = asyncio.Event()
    first, second = await asyncio.gather(page.get(f"/check/{DOMAIN}"), page.get(f"/check/{DOMAIN}", "192.0.2.9"))
    assert (first.status, first.headers["Refresh"]) == (202, "2")
    assert "&lt;b&gt;2 hosts&lt;/b&gt;" in second.text
    assert json.loads((await page.get(f"/check/{DOMAIN}?json=1")).text)["running"] is True
    page.gate.set()
    monkeypatch.setattr("mtasts_daemon.public.check_page._WAIT_SECONDS", 5.0)
    assert (await page.get(f"/check/{DOMAIN}")).status == 200
    assert page.checks == [DOMAIN]


@pytest.mark.parametrize("path", ["/check?domain=", "/check/"])
@pytest.mark.parametrize("name", ["192.0.2.1", "a..b", "<script>", "localhost", "x" * 2000])
async def test_bad_name_is_a_sentence_and_no_check(path: str, name: str) -> None:
    page = Page()
    answer = await page.get(path + html.unescape(name).replace("<", "%3C").replace(">", "%3E"))
    assert answer.status == 400
    assert "<script>" not in answer.text
    assert page.checks == []


@pytest.mark.parametrize("error", [TimeoutError(), RuntimeError("internals: /etc/passwd")])
async def test_failed_check_says_so_and_shows_no_internals(error: Exception) -> None:
    answer = await Page(error).get(f"/check/{DOMAIN}")
    assert answer.status == 503
    assert "passwd" not in answer.text


async def test_page_that_is_off_is_not_found() -> None:
    from aiohttp import web

    page = Page()
    page.page.enabled = False
    for path in ("/check", f"/check/{DOMAIN}"):
        with pytest.raises(web.HTTPNotFound):
            await page.get(path)


async def test_client_beyond_its_limit_waits_and_others_do_not() -> None:
    page = Page(limits=CheckLimits(per_client=3, in_all=100, period=300))
    answers = [await page.get(f"/check/d{number}.example") for number in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert 90 <= int(answers[3].headers["Retry-After"]) <= 101
    assert (await page.get("/check/d0.example")).status == 200  # a kept result costs nothing
    assert (await page.get("/check/d9.example", client="192.0.2.2")).status == 200
    assert (await page.get("/check/d8.example", client="2001:db8::1")).status == 200


async def test_clients_of_one_ipv6_network_share_a_limit() -> None:
    page = Page(limits=CheckLimits(per_client=1, in_all=100))
    assert (await page.get("/check/a.example", client="2001:db8::1")).status == 200
    assert (await page.get("/check/b.example", client="2001:db8::ffff")).status == 429


async def test_all_clients_together_have_a_limit() -> None:
    page = Page(limits=CheckLimits(per_client=10, in_all=5))
    statuses = [(await page.get(f"/check/d{n}.example", client=f"192.0.2.{n}")).status for n in range(7)]
    assert statuses == [200] * 5 + [429] * 2


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 50)), max_size=200))
def test_limits_hold_for_any_arrivals(arrivals: list[tuple[int, float]]) -> None:
    limits, now, admitted = CheckLimits(per_client=3, in_all=6, period=100), 0.0, list[tuple[float, int]]()
    for client, pause in arrivals:
        now += pause
        if not limits.admit(str(client), now):
            admitted.append((now, client))
    for at, client in admitted:
        window = [one for one in admitted if at <= one[0] <= at + 100]
        assert len(window) <= 12
        assert len([one for one in window if one[1] == client]) <= 6


async def test_hostile_policy_and_banner_are_escaped(ca: Ca) -> None:
    evil = b"version: STSv1\nmode: testing\nmx: mx.example.com\nmax_age: 86400\nx: <script>alert(1)</script>\n"
    banner = MxBehaviour("mx.example.com", MxManner.GREETING_554)
    world = CheckWorld(ca, banner, policy=Behaviour(body=evil))
    world.txt("v=STSv1; id=<script>alert(1)</script>;")
    async with world:
        page = Page(await world.evidence())
        text = (await page.get(f"/check/{DOMAIN}")).text
    assert "<script" not in text
    assert "\x1b" not in text
    assert "554 5.7.1 not \\x1b[31mtoday" in text


async def test_every_answer_forbids_scripts_and_frames() -> None:
    page = Page()
    for path in ("/check", f"/check/{DOMAIN}", "/check/a..b", f"/check/{DOMAIN}?json=1"):
        answer = await page.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
