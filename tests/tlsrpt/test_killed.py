"""kill -9 while reports are sent: each arrives; duplicates are identical, at most one for each kill."""

import asyncio
import signal
import sys
from collections import Counter
from email import message_from_bytes
from pathlib import Path

from tests.fakes.ca import Ca
from tests.fakes.rua import RuaHost, RuaMail
from tests.tlsrpt.delivery_world import World

REPORTS = 60
KILLS = 5
_ROOT = Path(__file__).parent.parent.parent


async def _killed_at(folder: Path, mail: RuaMail, web: RuaHost, taken: int | None) -> None:
    """Run a sender and kill it after a number of accepted mails; None: run until all is delivered."""
    sender = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.tlsrpt.sender", str(folder), str(mail.address[1]), str(web.port)),
        cwd=_ROOT,
    )
    try:
        if taken is not None:
            await mail.seen(taken)
        else:
            await _all_delivered(folder)
    finally:
        sender.send_signal(signal.SIGKILL)
        await sender.wait()


async def _all_delivered(folder: Path) -> None:
    async with World(folder) as world:
        while (found := await world.progress()).delivered < 2 * REPORTS:
            assert found.failed == found.refused == 0
            await asyncio.sleep(0.05)


async def test_kill_repeats_at_most_one_report_per_destination_and_loses_none(tmp_path: Path) -> None:
    ca = Ca(tmp_path / "ca")
    async with World(tmp_path) as world:
        await world.mailed(*(f"{lane}{number}.example" for lane in "mw" for number in range(REPORTS)))
    async with RuaMail() as mail, RuaHost(ca) as web:
        for kill in range(KILLS):
            # killed right after a mail was accepted that is not counted yet
            await _killed_at(tmp_path, mail, web, min(len(mail.taken) + 1 + kill % 3, REPORTS))
        await _killed_at(tmp_path, mail, web, None)
        mails = Counter(each.content for each in mail.taken)
        posts = Counter((post.target, post.body) for post in web.posts)
    ids = {message_from_bytes(content)["Message-ID"] for content in mails}
    to = {message_from_bytes(content)["To"] for content in mails}
    assert len(mails) == len(ids) == len(to) == REPORTS
    assert len(posts) == len({target for target, _ in posts}) == REPORTS
    assert mails.total() <= REPORTS + KILLS
    assert posts.total() <= REPORTS + KILLS
    assert max(mails.values()) <= 1 + KILLS
