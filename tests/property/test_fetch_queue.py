"""The queue of fetches under anything: its limits hold, no slot lies idle, nobody is forgotten, all go in at last."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mtasts_daemon.https.fetch_queue import LONG, FetchQueue, Ticket

LIMIT, PER_NETWORK = 4, 3
NETWORKS = "abcdefghijkl"
MOST, MOST_OF_NETWORK = LIMIT - LIMIT // 4, PER_NETWORK - PER_NETWORK // 4


class Fetching(RuleBasedStateMachine):
    """Fetches come, wait, hold, give way and leave, at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FetchQueue(LIMIT, PER_NETWORK)
        self.now = 0.0
        self.all: list[Ticket] = []
        self.given_up: Ticket | None = None

    @rule(network=st.sampled_from(NETWORKS), live=st.booleans())
    def come(self, network: str, live: bool) -> None:
        place = Ticket(network, live)
        assert self.queue.arrive(place, self.now) is (place.since is not None)
        self.all.append(place)

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.all)))

    @rule(seconds=st.sampled_from([0.1, 0.9, 1.0, 4.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def give_way(self) -> None:
        place = self.queue.overdue(self.now)
        if place is not None:
            assert self.given_up is None
            assert not place.live
            assert place.since is not None
            assert self.now - place.since >= LONG
            assert self.waiting()
            self.given_up = place

    def end(self, place: Ticket) -> None:
        self.all.remove(place)
        if place is self.given_up:
            self.given_up = None
        self.queue.leave(place, self.now)
        waiting = self.waiting()
        granted = self.queue.advance(self.now)
        assert granted == [place for place in granted if place in waiting and place.since == self.now]

    def waiting(self) -> list[Ticket]:
        return [place for place in self.all if place.since is None]

    def holding(self, network: str | None = None, live: bool | None = None) -> int:
        return sum(
            place.since is not None and network in (None, place.network) and live in (None, place.live)
            for place in self.all
        )

    def may_go_in(self, place: Ticket) -> bool:
        network, live = str(place.network), place.live
        return (
            self.holding() < LIMIT
            and self.holding(live=live) < MOST
            and self.holding(network) < PER_NETWORK
            and self.holding(network, live) < MOST_OF_NETWORK
        )

    @invariant()
    def the_limits_hold(self) -> None:
        assert self.holding() <= LIMIT
        for live in (True, False):
            assert self.holding(live=live) <= MOST
            for network in NETWORKS:
                assert self.holding(network) <= PER_NETWORK
                assert self.holding(network, live) <= MOST_OF_NETWORK

    @invariant()
    def nobody_waits_for_a_slot_that_is_free(self) -> None:
        assert not any(self.may_go_in(place) for place in self.waiting())

    @invariant()
    def networks_without_fetches_are_forgotten(self) -> None:
        assert len(self.queue) == len({place.network for place in self.all})

    def teardown(self) -> None:
        while self.all:
            holding = [place for place in self.all if place.since is not None]
            assert holding, "all that are left wait"
            self.end(holding[0])
        assert len(self.queue) == 0
        assert self.queue.moment() is None


TestFetching = Fetching.TestCase
