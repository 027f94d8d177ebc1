"""Single flights and their deadlines."""

import asyncio

from mtasts_daemon.clock import SystemClock
from mtasts_daemon.lookup.single_flight import InFlight, SingleFlight

FAR = 3600.0


class Waiter:
    """A lookup that waits for a flight."""

    def __init__(self, flight: InFlight) -> None:
        self.settled = asyncio.Event()
        self.times = 0
        flight.when_settled(self._go_on)

    def _go_on(self, _now: float) -> None:
        self.times += 1
        self.settled.set()


async def test_all_who_wait_go_on_once_when_the_work_is_done() -> None:
    flights = SingleFlight(SystemClock(), FAR)
    flight = flights.begin()
    waiters = [Waiter(flight) for _ in range(3)]
    flights.end(flight)
    flights.end(flight)
    assert [waiter.times for waiter in waiters] == [1, 1, 1]
    assert not flight.deadline_passed
    assert (len(flights), flights.deadline_passed) == (0, 0)


async def test_at_the_deadline_all_go_on_and_the_flight_is_no_longer_waited_for() -> None:
    flights = SingleFlight(SystemClock(), 0.01)
    first, second = flights.begin(), flights.begin()
    waiters = [Waiter(first), Waiter(second), Waiter(second)]
    for waiter in waiters:
        await waiter.settled.wait()
    assert first.deadline_passed and second.deadline_passed
    assert flights.deadline_passed == 3
    flights.end(first)
    assert [waiter.times for waiter in waiters] == [1, 1, 1]


async def test_a_flight_that_begins_later_has_a_deadline_of_its_own() -> None:
    flights = SingleFlight(SystemClock(), 0.01)
    await Waiter(flights.begin()).settled.wait()
    await Waiter(flights.begin()).settled.wait()
    assert flights.deadline_passed == 2


async def test_release_settles_flights_under_way_and_later_ones() -> None:
    flights = SingleFlight(SystemClock(), FAR)
    before = flights.begin()
    waiter = Waiter(before)
    flights.release_waiters()
    assert before.deadline_passed
    assert waiter.times == 1
    await Waiter(flights.begin()).settled.wait()
    assert flights.deadline_passed == 2


async def test_a_hurry_without_flights_is_no_error() -> None:
    SingleFlight(SystemClock(), FAR).release_waiters()


async def test_waiter_that_raises_does_not_stop_the_others() -> None:
    def bug(_now: float) -> None:
        raise ZeroDivisionError

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
    flights = SingleFlight(SystemClock(), 0.01)
    first, second = flights.begin(), flights.begin()
    first.when_settled(bug)
    waiters = [Waiter(first), Waiter(second)]
    await asyncio.gather(*(waiter.settled.wait() for waiter in waiters))
    assert [type(bugs) for bugs in reported] == [ExceptionGroup]
