"""How fast the admin side answers: not so fast that lookups notice."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.counters import Counters
from mtasts_daemon.servers import admin_http
from mtasts_daemon.servers.admin_http import AdminSite, Pace, json_answer


def test_so_many_requests_in_a_row_wait_for_nothing() -> None:
    pace = Pace(every=0.5, at_once=3)
    assert [pace.wait(100.0) for _ in range(3)] == [0, 0, 0]


def test_what_comes_behind_them_is_answered_one_by_one() -> None:
    pace = Pace(every=0.5, at_once=3)
    assert [pace.wait(100.0) for _ in range(5)][3:] == [0.5, 1.0]
    assert pace.wait(101.0) == 0.5


def test_after_a_pause_as_many_as_at_first_go_through_again() -> None:
    pace = Pace(every=0.5, at_once=3)
    for _ in range(4):
        pace.wait(100.0)
    assert [pace.wait(102.0) for _ in range(4)] == [0, 0, 0, 0.5]


@given(st.lists(st.integers(0, 20)), st.integers(1, 8), st.integers(1, 5))
def test_no_span_of_time_has_more_answers_than_it_may(pauses: list[int], every: int, at_once: int) -> None:
    pace, now, begun = Pace(every, at_once), 0, []
    for pause in pauses:
        now += pause
        begun.append(now + pace.wait(now))
    assert begun == sorted(begun)
    for first, start in enumerate(begun):
        for last, end in enumerate(begun[first:], first):
            assert last - first + 1 <= at_once + (end - start) / every


class Noted(Pace):
    """Lets all through, and notes when they came."""

    def __init__(self) -> None:
        super().__init__(0, 1)
        self.came: list[float] = []

    def wait(self, now: float) -> float:
        self.came.append(now)
        return 0.0


def test_each_request_that_may_be_answered_keeps_to_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Noted()
    monkeypatch.setattr(admin_http, "Pace", lambda _every, _at_once: pace)

    async def answer(request: web.Request) -> web.Response:
        return json_answer(request, len(pace.came))

    async def ask() -> list[object]:
        site = AdminSite(Counters(), writable=False)
        site.app.router.add_get("/", answer)
        async with TestClient(TestServer(site.app)) as client:
            # One that is refused costs next to nothing.
            assert (await client.post("/")).status == 405
            return [await (await client.get("/")).json() for _ in range(3)]

    assert asyncio.run(ask()) == [1, 2, 3]
