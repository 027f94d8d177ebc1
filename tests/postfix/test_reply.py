"""Decisions as replies to Postfix."""

import pytest

from mtasts_daemon.policy.decision import Answer, Decision, Dialect
from mtasts_daemon.policy.mtasts import Mode, MxPattern, StsPolicy
from mtasts_daemon.postfix import tcp_table
from mtasts_daemon.postfix.policy_table import level_with_policy, secure
from mtasts_daemon.postfix.reply import NOT_FOUND, Reply, ReplyKind, reply_to

LIMIT = tcp_table.TEXT_LIMIT
POLICY = StsPolicy(Mode.ENFORCE, (MxPattern("mail.example.com"),), 86400)


def reply_for(decision: Decision, dialect: Dialect = Dialect.PLAIN, limit: int = LIMIT) -> Reply:
    return reply_to(decision, "example.com", dialect, limit)


def test_enforced_policy_is_formatted_in_the_dialect_of_the_zone() -> None:
    for dialect in Dialect:
        text = secure("example.com", POLICY, dialect, LIMIT).text
        assert reply_for(Decision(Answer.SECURE, "mode-enforce", POLICY), dialect) == Reply(ReplyKind.FOUND, text)


def test_omitted_part_of_the_entry_is_named() -> None:
    reply = reply_for(Decision(Answer.SECURE, "mode-enforce", POLICY), Dialect.TLSRPT, 100)
    assert reply.shortened == "tlsrpt-attributes"


def test_testing_policy_has_the_level_or_is_not_found() -> None:
    rendered = level_with_policy("may", "example.com", POLICY, LIMIT)
    assert rendered is not None
    decision = Decision(Answer.LEVEL, "mode-testing", POLICY, "may")
    assert reply_for(decision, Dialect.TLSRPT) == Reply(ReplyKind.FOUND, rendered.text)
    assert reply_for(decision, Dialect.TLSRPT, 50) is NOT_FOUND


def test_no_policy_is_not_found() -> None:
    assert reply_for(Decision(Answer.NONE, "no-policy")) is NOT_FOUND


def test_dane_is_a_level_without_attributes() -> None:
    assert reply_for(Decision(Answer.DANE, "dane-usable-and-none")) == Reply(ReplyKind.FOUND, "dane")
    assert reply_for(Decision(Answer.DANE_ONLY, "dane-usable"), Dialect.TLSRPT) == Reply(ReplyKind.FOUND, "dane-only")


def test_long_reply_keeps_the_patterns_of_current_hosts() -> None:
    policy = StsPolicy(Mode.ENFORCE, (MxPattern("mail.example.com"), MxPattern("*.example.net")), 86400)
    reply = reply_to(Decision(Answer.SECURE, "x", policy), "example.com", Dialect.PLAIN, 50, ("mx.example.net",))
    assert reply == Reply(ReplyKind.FOUND, "secure match=.example.net servername=hostname", "mx-patterns")


def test_fixed_reply_is_returned_unchanged() -> None:
    assert reply_for(Decision(Answer.FIXED, "override-reply", text="encrypt")) == Reply(ReplyKind.FOUND, "encrypt")


def test_fixed_reply_for_a_newer_postfix_defers_with_the_reason() -> None:
    decision = Decision(Answer.FIXED, "override-reply", text="may policy_type=no-policy-found")
    assert reply_for(decision, Dialect.TLSRPT).kind is ReplyKind.FOUND
    reply = reply_for(decision)
    assert reply.kind is ReplyKind.TEMPORARY
    assert "3.10" in reply.text


def test_policy_that_cannot_be_formatted_defers() -> None:
    evil = StsPolicy(Mode.ENFORCE, (MxPattern("} {"),), 86400)
    reply = reply_for(Decision(Answer.SECURE, "mode-enforce", evil))
    assert reply.kind is ReplyKind.TEMPORARY
    assert "example.com" in reply.text


def test_temporary_failure_names_its_cause() -> None:
    assert reply_for(Decision(Answer.TEMP, "x", text="why")) == Reply(ReplyKind.TEMPORARY, "why")


@pytest.mark.parametrize("answer", [Answer.DANE, Answer.DANE_ONLY])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_dane_reply_is_its_level(answer: Answer, dialect: Dialect) -> None:
    assert reply_to(Decision(answer, "dane-usable"), "example.com", dialect, 4000) == Reply(
        ReplyKind.FOUND, answer.value
    )
