"""Decisions in Postfix's words."""

import pytest

from mtasts_daemon.policy.decision import Answer, Decision, Dialect
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy
from mtasts_daemon.postfix import tcp_table
from mtasts_daemon.postfix.policy_table import level_with_policy, secure
from mtasts_daemon.postfix.reply import NOT_FOUND, Reply, ReplyKind, reply_to

LIMIT = tcp_table.TEXT_LIMIT
POLICY = StsPolicy(Mode.ENFORCE, (MxPattern("mail.example.com"),), 86400)


def told(decision: Decision, dialect: Dialect = Dialect.PLAIN, limit: int = LIMIT) -> Reply:
    return reply_to(decision, "example.com", dialect, limit)


def test_an_enforced_policy_is_found_in_the_zones_dialect() -> None:
    for dialect in Dialect:
        text = secure("example.com", POLICY, dialect, LIMIT).text
        assert told(Decision(Answer.SECURE, "mode-enforce", POLICY), dialect) == Reply(ReplyKind.FOUND, text)


def test_what_was_left_out_for_want_of_room_is_named() -> None:
    reply = told(Decision(Answer.SECURE, "mode-enforce", POLICY), Dialect.TLSRPT, 100)
    assert reply.shortened == "tlsrpt-attributes"


def test_a_policy_in_testing_is_told_at_the_level_or_not_at_all() -> None:
    rendered = level_with_policy("may", "example.com", POLICY, LIMIT)
    assert rendered is not None
    decision = Decision(Answer.LEVEL, "mode-testing", POLICY, "may")
    assert told(decision, Dialect.TLSRPT) == Reply(ReplyKind.FOUND, rendered.text)
    assert told(decision, Dialect.TLSRPT, 50) is NOT_FOUND


def test_no_policy_is_not_found() -> None:
    assert told(Decision(Answer.NONE, "no-policy")) is NOT_FOUND


def test_dane_is_told_as_a_level_alone() -> None:
    assert told(Decision(Answer.DANE, "dane-usable-and-none")) == Reply(ReplyKind.FOUND, "dane")
    assert told(Decision(Answer.DANE_ONLY, "dane-usable"), Dialect.TLSRPT) == Reply(ReplyKind.FOUND, "dane-only")


def test_a_reply_that_is_too_long_keeps_the_patterns_of_the_current_hosts() -> None:
    policy = StsPolicy(Mode.ENFORCE, (MxPattern("mail.example.com"), MxPattern("*.example.net")), 86400)
    reply = reply_to(Decision(Answer.SECURE, "x", policy), "example.com", Dialect.PLAIN, 50, ("mx.example.net",))
    assert reply == Reply(ReplyKind.FOUND, "secure match=.example.net servername=hostname", "mx-patterns")


def test_a_fixed_reply_is_told_as_it_is() -> None:
    assert told(Decision(Answer.FIXED, "override-reply", text="encrypt")) == Reply(ReplyKind.FOUND, "encrypt")


def test_a_fixed_reply_for_a_newer_postfix_defers_with_the_reason_instead_of_a_riddle() -> None:
    decision = Decision(Answer.FIXED, "override-reply", text="may policy_type=no-policy-found")
    assert told(decision, Dialect.TLSRPT).kind is ReplyKind.FOUND
    reply = told(decision)
    assert reply.kind is ReplyKind.TEMPORARY
    assert "3.10" in reply.text


def test_a_policy_that_cannot_be_told_defers_rather_than_delivers_without_it() -> None:
    evil = StsPolicy(Mode.ENFORCE, (MxPattern("} {"),), 86400)
    reply = told(Decision(Answer.SECURE, "mode-enforce", evil))
    assert reply.kind is ReplyKind.TEMPORARY
    assert "example.com" in reply.text


def test_a_temporary_failure_tells_its_cause() -> None:
    assert told(Decision(Answer.TEMP, "x", text="why")) == Reply(ReplyKind.TEMPORARY, "why")


@pytest.mark.parametrize("answer", [Answer.DANE, Answer.DANE_ONLY])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_dane_is_its_level_and_nothing_more(answer: Answer, dialect: Dialect) -> None:
    assert reply_to(Decision(answer, "dane-usable"), "example.com", dialect, 4000) == Reply(
        ReplyKind.FOUND, answer.value
    )
