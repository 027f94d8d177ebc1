"""Whose turn it is to fetch: the order of those that wait, and who gives way to whom."""

import pytest

from mtasts_daemon.https.fetch_queue import LONG, PATIENCE, REMEMBERED, SMOOTHING, FetchQueue, Paces, Speed, Ticket

NEW, LIVE = False, True


class Scene:
    """A queue of eight slots, of which six are for new fetches, and a clock that is set by hand.

    Until the moment 1000 many fetches took the ``usual`` time.
    """

    def __init__(self, per_network: int = 100, usual: float | None = 0.1) -> None:
        self.queue = FetchQueue(8, per_network)
        self.now = 0.0
        self.places: dict[str, Ticket] = {}
        for number in range(10 * SMOOTHING if usual is not None else 0):
            assert self.come(f"usual {number}")
            self.now += usual or 0.0
            assert self.leave(f"usual {number}") == []
        self.places.clear()
        self.now = 1000.0

    def come(self, name: str, network: str | None = None, live: bool = NEW) -> bool:
        self.places[name] = Ticket(network or name, live)
        return self.queue.arrive(self.places[name], self.now)

    def leave(self, *names: str) -> list[str]:
        """They leave one after another; who goes in then."""
        granted = []
        for name in names:
            self.queue.leave(self.places[name], self.now)
            granted += self.queue.advance(self.now)
        return [self.name(place) for place in granted]

    def overdue(self) -> str | None:
        place = self.queue.overdue(self.now)
        return None if place is None else self.name(place)

    def name(self, place: Ticket) -> str:
        return next(name for name, one in self.places.items() if one is place)

    def fill(self, live: bool = NEW) -> None:
        """Six fetches, which begin a tenth of a second after one another."""
        for number in range(6):
            assert self.come(f"hung {number}", live=live)
            self.now += 0.1

    def known(self, network: str, seconds: float) -> None:
        """A fetch in the network took so long."""
        self.queue._paces.note(network, seconds)


def test_nobody_gives_way_where_nobody_waits() -> None:
    scene = Scene()
    scene.fill()
    scene.now += 60
    assert scene.queue.moment() is None
    assert scene.overdue() is None


def test_the_new_fetch_that_lasted_longest_gives_way_once_it_has_lasted_a_second() -> None:
    scene = Scene()
    scene.fill()
    assert not scene.come("honest")
    assert scene.overdue() is None
    assert scene.queue.moment() == pytest.approx(1000 + LONG)
    scene.now = 1000.01 + LONG
    assert scene.overdue() == "hung 0"
    assert scene.leave("hung 0") == ["honest"]


@pytest.mark.parametrize(
    ("usual", "left"),
    [(0.1, LONG), (None, 2 * LONG), (1.4, 2.8), (4.0, PATIENCE), (60.0, 2 * LONG)],
    ids=["quick", "not known yet", "slow", "very slow", "hanging"],
)
def test_every_fetch_is_left_twice_what_is_usual_of_those_that_end(usual: float | None, left: float) -> None:
    scene = Scene(usual=usual)
    scene.fill()
    scene.come("honest")
    assert scene.queue.moment() == pytest.approx(1000 + left, abs=0.001)


def test_one_gives_way_after_another() -> None:
    scene = Scene()
    scene.fill()
    scene.come("honest")
    scene.come("honest too")
    scene.now += PATIENCE
    assert scene.overdue() == "hung 0"
    assert scene.overdue() is None
    assert scene.queue.moment() is None
    scene.leave("hung 0")
    assert scene.overdue() == "hung 1"


def test_no_live_fetch_gives_way() -> None:
    scene = Scene()
    scene.fill(LIVE)
    scene.come("new")
    scene.come("new too")
    assert not scene.come("live", live=LIVE)
    scene.now += 3600
    assert scene.overdue() is None


def test_a_new_fetch_gives_way_to_a_live_one_first() -> None:
    scene = Scene()
    scene.fill()
    for name in ("live 0", "live 1"):
        assert scene.come(name, live=LIVE)
    scene.come("new")
    scene.come("live 2", live=LIVE)
    scene.now += LONG
    assert scene.overdue() == "hung 0"
    assert scene.leave("hung 0") == ["live 2"]


def test_hanging_refreshes_leave_new_fetches_a_quarter() -> None:
    scene = Scene()
    scene.fill(LIVE)
    assert not scene.come("live", live=LIVE)
    assert scene.come("new")
    assert scene.come("new too")
    scene.come("waiting")
    scene.now += LONG
    assert scene.overdue() == "new"
    assert scene.leave("new") == ["waiting"]


def test_a_network_that_is_slow_itself_waits_longer_until_another_gives_way() -> None:
    scene = Scene()
    scene.fill()
    scene.known("slow", 60)
    scene.come("slow")
    scene.now = 1000 + PATIENCE - 0.1
    assert scene.overdue() is None
    scene.come("honest")
    assert scene.overdue() == "hung 0"


def test_networks_that_were_quick_go_first_and_slow_ones_last() -> None:
    scene = Scene()
    scene.fill()
    scene.known("quick", 0.1)
    scene.known("slow", 60)
    for name in ("unknown", "quick", "slow"):
        scene.come(name)
    assert scene.leave("hung 0", "hung 1", "hung 2") == ["quick", "unknown", "slow"]


def test_of_networks_alike_the_newest_new_and_the_oldest_live_fetch_goes_first() -> None:
    for live, order in ((NEW, "321"), (LIVE, "123")):
        scene = Scene()
        scene.fill(live)
        for name in "123":
            scene.come(name, live=live)
        assert scene.leave("hung 0", "hung 1", "hung 2") == list(order)


def test_networks_take_turns_however_many_wait_in_one() -> None:
    for live in (NEW, LIVE):
        scene = Scene()
        scene.fill(live)
        for number in range(3):
            scene.come(f"crowd {number}", "crowd", live)
        scene.come("one", live=live)
        scene.come("crowd 3", "crowd", live)
        turns = scene.leave("hung 0", "hung 1", "hung 2")
        assert [name.split()[0] for name in turns] in (["crowd", "one", "crowd"], ["one", "crowd", "crowd"])


def test_who_waits_for_its_own_network_makes_no_other_give_way_and_holds_up_nobody() -> None:
    scene = Scene(per_network=4)
    for number in range(3):
        assert scene.come(f"hung {number}", "slow")
    assert not scene.come("waiting", "slow")
    assert not scene.come("waiting too", "slow")
    scene.now += 3600
    assert scene.queue.moment() is None
    assert scene.come("other")
    assert scene.leave("waiting") == []
    assert scene.leave("hung 0") == ["waiting too"]


def test_who_stops_waiting_is_passed_over() -> None:
    scene = Scene()
    scene.fill()
    scene.come("gone")
    scene.come("waiting")
    assert scene.leave("gone") == []
    assert scene.leave("hung 0") == ["waiting"]
    assert scene.leave("hung 1") == []


def test_a_queue_that_all_have_left_holds_nothing() -> None:
    scene = Scene()
    scene.fill()
    scene.come("waiting")
    scene.leave(*scene.places)
    assert len(scene.queue) == 0
    assert scene.queue.moment() is None


# -- the pace of networks ----------------------------------------------------------------------------------


def test_a_network_is_as_quick_as_what_was_fetched_there_lately() -> None:
    paces = Paces()
    assert paces.of("a") is Speed.UNKNOWN
    paces.note("a", 0.2)
    assert paces.of("a") is Speed.QUICK
    paces.note("a", 60)
    assert paces.of("a") is Speed.SLOW
    for _ in range(3):
        paces.note("a", 0.2)
    assert paces.of("a") is Speed.QUICK


def test_a_fetch_that_gave_way_counts_as_one_that_would_have_lasted() -> None:
    scene = Scene()
    scene.fill()
    scene.come("honest")
    scene.now = 1000.01 + LONG
    assert scene.overdue() == "hung 0"
    scene.leave("hung 0", "hung 1")
    assert scene.queue._paces.of("hung 0") is Speed.SLOW
    assert scene.queue._paces.of("hung 1") is Speed.QUICK


def test_what_is_remembered_is_bounded_and_slow_networks_crowd_no_quick_one_out() -> None:
    paces = Paces()
    paces.note("quick", 0.1)
    for number in range(REMEMBERED + 1):
        paces.note(number, 60)
    assert paces.of("quick") is Speed.QUICK
    assert paces.of(0) is Speed.UNKNOWN
    assert paces.of(1) is Speed.SLOW
