"""How fast the admin side answers: not so fast that lookups notice."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.admin import http
from mtasts_daemon.admin.http import AdminSite, RequestPace, json_answer
from mtasts_daemon.counters import Counters


def test_so_many_requests_in_a_row_wait_for_nothing() -> None:
    pace = RequestPace(every=0.5, at_once=3, waits=60.0)
    assert [pace.wait(100.0) for _ in range(3)] == [0, 0, 0]


def test_what_comes_behind_them_is_answered_one_by_one() -> None:
    pace = RequestPace(every=0.5, at_once=3, waits=60.0)
    assert [pace.wait(100.0) for _ in range(5)][3:] == [0.5, 1.0]
    assert pace.wait(101.0) == 0.5


def test_after_a_pause_as_many_as_at_first_go_through_again() -> None:
    pace = RequestPace(every=0.5, at_once=3, waits=60.0)
    for _ in range(4):
        pace.wait(100.0)
    assert [pace.wait(102.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_what_would_wait_too_long_gets_no_turn_and_takes_none() -> None:
    pace = RequestPace(every=0.5, at_once=1, waits=1.0)
    assert [pace.wait(100.0) for _ in range(5)] == [0, 0.5, 1.0, None, None]
    assert [pace.wait(100.5) for _ in range(2)] == [1.0, None]


@given(st.lists(st.integers(0, 20)), st.integers(1, 8), st.integers(1, 5), st.integers(0, 30))
def test_no_span_of_time_has_more_answers_than_it_may(pauses: list[int], every: int, at_once: int, waits: int) -> None:
    pace, now, begun = RequestPace(every, at_once, waits), 0, []
    for pause in pauses:
        now += pause
        wait = pace.wait(now)
        assert wait is None or 0 <= wait <= waits
        if wait is not None:
            begun.append(now + wait)
    assert begun == sorted(begun)
    for first, start in enumerate(begun):
        for last, end in enumerate(begun[first:], first):
            assert last - first + 1 <= at_once + (end - start) / every


class Turns(RequestPace):
    """So many turns without a pause, and then none."""

    def __init__(self, left: int) -> None:
        super().__init__(0, 1, 0)
        self.left = left

    def wait(self, now: float) -> float | None:
        self.left -= 1
        return None if self.left < 0 else 0.0


def test_each_request_that_may_be_answered_takes_a_turn_but_that_for_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "RequestPace", lambda *_values: Turns(2))
    monkeypatch.setattr(http, "_WAITS", 0.0)

    async def answer(request: web.Request) -> web.Response:
        return json_answer(request, True)

    async def ask() -> list[int]:
        site = AdminSite(Counters(), writable=False)
        site.app.router.add_get("/", answer)
        site.app.router.add_get("/healthz", answer)
        async with TestClient(TestServer(site.app)) as client:
            asked = [client.post("/"), *[client.get(path) for path in ("/", "/healthz", "/", "/", "/healthz")]]
            answers = [await one for one in asked]
            assert (await answers[4].json())["title"] == "too-many-requests"
            assert answers[4].headers["Retry-After"] == "0"
            return [answer.status for answer in answers]

    assert asyncio.run(ask()) == [405, 200, 200, 200, 429, 200]
