"""Changes of a policy that can defer mail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.policy.mtasts import Mode, StsPolicy
from mtasts_daemon.publish.policy_text import make_policy
from mtasts_daemon.publish.strictness import TighteningKind, tightenings

MODE, MX, AGE = TighteningKind.MODE, TighteningKind.MX, TighteningKind.MAX_AGE


def policy(mode: str, *mx: str, max_age: int = 86400) -> StsPolicy:
    return make_policy(Mode(mode), mx, max_age).policy


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (None, policy("testing", "a.example"), []),
        (None, policy("none"), []),
        (None, policy("enforce", "a.example"), [MODE]),
        (policy("none"), policy("enforce", "a.example"), [MODE]),
        (policy("testing", "a.example"), policy("enforce", "a.example"), [MODE]),
        (policy("testing", "a.example", "b.example"), policy("enforce", "a.example"), [MODE, MX]),
        (policy("enforce", "a.example"), policy("testing", "a.example"), []),
        (policy("enforce", "a.example", "b.example"), policy("enforce", "a.example"), [MX]),
        (policy("testing", "a.example", "b.example"), policy("testing", "a.example"), [MX]),
        (policy("enforce", "a.example", "b.example"), policy("none"), []),
        (policy("enforce", "a.example"), policy("enforce", "a.example", "b.example"), []),
        (policy("enforce", "mx.a.example"), policy("enforce", "*.a.example"), []),
        (policy("enforce", "*.a.example"), policy("enforce", "mx.a.example"), [MX]),
        (policy("enforce", "*.a.example"), policy("enforce", "*.b.a.example"), [MX]),
        (policy("enforce", "a.example"), policy("enforce", "a.example", max_age=86401), [AGE]),
        (policy("enforce", "a.example"), policy("enforce", "a.example", max_age=60), []),
        (policy("testing", "a.example"), policy("testing", "a.example", max_age=864000), []),
        (policy("none"), policy("testing", "a.example"), []),
    ],
)
def test_tightenings_are_those_that_hold_mail_back(
    before: StsPolicy | None, after: StsPolicy, kinds: list[TighteningKind]
) -> None:
    assert [one.kind for one in tightenings(before, after)] == kinds


NAMES = st.lists(st.sampled_from(["a.x.example", "b.x.example", "*.x.example", "x.example", "a.y.example"]), min_size=1)


@given(NAMES, NAMES, st.sampled_from(["a.x.example", "b.x.example", "c.x.example", "x.example", "a.y.example"]))
def test_change_without_tightenings_permits_every_host_as_before(
    before: list[str], after: list[str], host: str
) -> None:
    old, new = policy("enforce", *before), policy("enforce", *after)
    if not tightenings(old, new) and old.permits(host):
        assert new.permits(host)
