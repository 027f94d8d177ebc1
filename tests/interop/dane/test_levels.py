"""Real Postfix at the level of the decision table, for each state of a signed domain.

The level comes from a table of Postfix, so a failure here is in the decision table, not in the daemon.
"""

import pytest

from tests.interop.dane.conftest import SUFFIX, Sender
from tests.interop.dane.scenarios import SCENARIOS, Scenario

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_mail_is_delivered_or_deferred_as_rfc_7672_requires(sender: Sender, scenario: Scenario) -> None:
    sent = sender.postfix.send(scenario.domain(SUFFIX))
    exchangers = sender.signed.exchangers[scenario.domain(SUFFIX)]
    taken = [bool(exchanger.messages) for exchanger in exchangers]
    assert taken == [number == scenario.takes for number in range(len(exchangers))]
    assert sent.delivered is (scenario.takes is not None), sent
    assert sent.deferred is (scenario.takes is None), sent
