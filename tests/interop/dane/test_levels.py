"""What real Postfix does at the level that the decision table gives for each state of a signed domain.

The level stands in a table of Postfix's own, so that a failure here is of the table and not of the daemon.
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
