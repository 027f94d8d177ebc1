"""The HTTP server of the admin listeners: requests are answered at once, in any number."""

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mtasts_daemon.admin.http import AdminSite, json_answer
from mtasts_daemon.counters import Counters


async def test_many_requests_in_a_row_are_answered() -> None:
    async def answer(request: web.Request) -> web.Response:
        return json_answer(request, True)

    site = AdminSite(Counters(), writable=False)
    site.app.router.add_get("/", answer)
    async with TestClient(TestServer(site.app)) as client:
        assert {(await client.get("/")).status for _ in range(200)} == {200}


async def test_write_on_a_read_only_listener_is_refused() -> None:
    site = AdminSite(Counters(), writable=False)
    async with TestClient(TestServer(site.app)) as client:
        answer = await client.post("/", headers={"X-MTASTS-Request": "test"})
        assert (answer.status, (await answer.json())["title"]) == (405, "read-only")
