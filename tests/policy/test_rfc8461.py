"""RFC 8461, requirement by requirement, for the sender: the tests of each, or why there is none.

A name stands for one or more tests in a file. The tables are checked against the files, so that a test that is
renamed or deleted takes its requirement with it.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent

STS = "policy/test_mtasts.py"
ENTRY = "policy/test_cache_entry.py"
DECIDE = "policy/test_decision.py"
NAMES = "policy/test_next_hop.py"
PRECEDENCE = "policy/test_precedence.py"
MACHINE = "property/test_cache_entry.py"
REPLIES = "postfix/test_policy_table.py"
DNS = "dns/test_message.py"
SERVICE = "lookup/test_service.py"
HTTPS = "https/test_policy_fetcher.py"
MAIL = "interop/test_scenarios.py"
LOOKUPS = "interop/test_lookups.py"


@dataclass(frozen=True)
class Rule:
    """What section ``section`` demands at ``level``, the tests (file, name) that show it, or why there is none."""

    section: str
    level: str
    demand: str
    shown: tuple[tuple[str, str], ...] = ()
    elsewhere: str = ""

    def __str__(self) -> str:
        return f"{self.section}-{self.level}-{self.demand}"


RULES = [
    # -- discovery ---------------------------------------------------------------------------------------------
    Rule(
        "2",
        "MUST NOT",
        "MTA-STS overrides a failing DANE validation",
        (
            (PRECEDENCE, "test_usable_hosts_and_perhaps_dead_ones_demand_dane"),
            (PRECEDENCE, "test_usable_hosts_among_hosts_without_tlsa_override_neither_dane_nor_the_policy"),
        ),
    ),
    Rule(
        "3.1",
        "MUST",
        "records that do not begin with v=STSv1; are discarded",
        ((STS, "test_a_record_that_does_not_begin_with_the_version_is_discarded"),),
    ),
    Rule(
        "3.1",
        "MUST",
        "other than one record, or a malformed one, is as if there were none",
        (
            (STS, "test_no_records_mean_no_policy"),
            (STS, "test_a_second_record_makes_both_invalid"),
            (STS, "test_a_second_record_counts_even_if_it_is_malformed"),
            (STS, "test_a_record_that_breaks_the_grammar_is_invalid"),
            (STS, "test_a_record_without_an_id_is_invalid"),
            (STS, "test_a_record_is_us_ascii"),
            (DECIDE, "test_without_a_policy_mail_goes_on_and_the_reason_is_named"),
        ),
    ),
    Rule(
        "3.1",
        "MUST",
        "the id is 1 to 32 letters and digits",
        (
            (STS, "test_an_id_has_up_to_32_letters_and_digits"),
            (STS, "test_any_other_id_is_refused"),
        ),
    ),
    Rule(
        "3.1",
        "MUST",
        "a missing or bad record does not end a cached policy",
        (
            (ENTRY, "test_no_failure_ends_or_shortens_a_live_policy"),
            (SERVICE, "test_live_policy_survives_every_txt_failure"),
        ),
    ),
    Rule(
        "3.1",
        "MUST",
        "the strings of one record are joined without blanks",
        ((DNS, "test_strings_of_a_txt_record_are_joined_without_blanks"),),
    ),
    Rule(
        "3.1",
        "MUST",
        "CNAMEs are followed",
        ((DNS, "test_ttl_is_the_least_of_the_chain_and_the_canonical_name_its_end"),),
    ),
    # -- the policy --------------------------------------------------------------------------------------------
    Rule(
        "3.2",
        "MUST",
        "the policy follows the grammar: fields, case, blanks and line ends",
        (
            (STS, "test_blanks_line_ends_order_and_unknown_fields_do_not_matter"),
            (STS, "test_a_line_that_breaks_the_grammar_makes_the_policy_invalid"),
            (STS, "test_a_policy_states_its_version"),
            (STS, "test_a_policy_states_a_mode_in_lower_case"),
            (STS, "test_max_age_is_1_to_10_digits"),
            (STS, "test_an_mx_is_a_host_name_or_a_wildcard_pattern"),
            (STS, "test_a_policy_is_utf_8"),
        ),
    ),
    Rule(
        "3.2",
        "MUST",
        "a policy names an mx unless its mode is none",
        (
            (STS, "test_a_policy_names_an_mx"),
            (STS, "test_a_policy_of_mode_none_needs_no_mx"),
        ),
    ),
    Rule(
        "3.2",
        "MUST",
        "unknown fields are ignored",
        (
            (STS, "test_a_valid_record_gives_its_id"),
            (STS, "test_blanks_line_ends_order_and_unknown_fields_do_not_matter"),
        ),
    ),
    Rule(
        "3.2",
        "MUST",
        "of a repeated field other than mx the first counts",
        (
            (STS, "test_of_a_repeated_field_the_first_counts"),
            (STS, "test_of_a_repeated_id_the_first_counts"),
        ),
    ),
    Rule("3.2", "MUST", "max_age is at most a year", ((STS, "test_max_age_is_capped_at_a_year"),)),
    Rule(
        "3.2",
        "SHOULD",
        "the media type is text/plain, whatever its parameters",
        (
            (HTTPS, "test_parameters_and_case_of_the_media_type_do_not_matter"),
            (HTTPS, "test_response_that_is_no_policy_is_rejected_by_name"),
        ),
    ),
    Rule(
        "3.2",
        "SHOULD",
        "a policy is cached up to max_age from its last fetch",
        (
            (ENTRY, "test_a_policy_is_live_to_the_last_second_of_its_max_age"),
            (ENTRY, "test_an_unchanged_id_asks_for_nothing_and_extends_no_life"),
            (MACHINE, "a_policy_is_live_exactly_as_long_as_its_own_fetch_allows"),
        ),
    ),
    # -- fetching ----------------------------------------------------------------------------------------------
    Rule(
        "3.3",
        "MUST",
        "the certificate is valid for the policy host by DNS-ID alone",
        (
            ("https/test_trust_anchors.py", "test_tls_settings_are_those_of_rfc_8461"),
            (HTTPS, "test_response_that_is_no_policy_is_rejected_by_name"),
        ),
    ),
    Rule(
        "3.3",
        "MUST",
        "only status 200 counts",
        ((HTTPS, "test_response_that_is_no_policy_is_rejected_by_name"),),
    ),
    Rule("3.3", "MUST NOT", "redirects are followed", ((HTTPS, "test_redirect_is_not_followed"),)),
    Rule(
        "3.3", "MUST NOT", "HTTP caching is used", elsewhere="the fetcher keeps nothing; each fetch is a new connection"
    ),
    Rule(
        "3.3",
        "MUST",
        "a record whose policy cannot be had, and none cached, is as without MTA-STS",
        (
            (DECIDE, "test_without_a_policy_mail_goes_on_and_the_reason_is_named"),
            (SERVICE, "test_failed_first_fetch_is_retried_after_its_back_off"),
        ),
    ),
    Rule(
        "3.3",
        "MUST",
        "a cached policy that has not expired is applied when no live one can be had",
        (
            (DECIDE, "test_live_policy_is_applied_after_failures"),
            (ENTRY, "test_no_failure_ends_or_shortens_a_live_policy"),
            (MAIL, "test_cached_policy_is_enforced_while_its_host_is_down"),
        ),
    ),
    Rule(
        "3.3",
        "SHOULD",
        "five minutes pass between failed fetches of one id",
        (
            (ENTRY, "test_an_id_that_could_not_be_fetched_is_left_alone_for_five_minutes"),
            (ENTRY, "test_back_off_doubles_from_5_minutes_to_6_hours_with_jitter"),
            (ENTRY, "test_a_new_id_is_never_held_back"),
            (MACHINE, "txt_is_found"),
        ),
    ),
    Rule(
        "3.3",
        "SHOULD",
        "a policy is refreshed before it expires, about daily",
        (
            (ENTRY, "test_a_policy_is_due_daily_or_half_way_through_a_short_life"),
            (ENTRY, "test_a_live_policy_is_tried_for_several_times_before_it_ends"),
        ),
    ),
    Rule(
        "3.3",
        "SHOULD",
        "the administrator is alerted when a refresh fails",
        ((ENTRY, "test_a_failed_refresh_is_saved_so_that_its_back_off_outlives_a_restart"),),
    ),
    Rule(
        "3.3",
        "MAY",
        "a fetch ends after a minute and 64 KiB",
        (
            (HTTPS, "test_host_that_does_not_answer_completely_in_time_is_given_up"),
            (HTTPS, "test_one_octet_more_than_64_kib_is_refused"),
        ),
    ),
    Rule(
        "3.4",
        "MUST",
        "a smart host's name is the policy domain",
        (
            (NAMES, "test_a_smart_hosts_name_is_its_policy_domain"),
            (LOOKUPS, "test_smart_host_uses_its_own_policy"),
        ),
    ),
    Rule(
        "3.4", "MUST NOT", "a parent's policy is applied to a subdomain", ((NAMES, "test_a_parent_key_has_no_policy"),)
    ),
    Rule("3.4", "MUST NOT", "an address literal has a policy", ((NAMES, "test_an_address_literal_has_no_policy"),)),
    # -- validation --------------------------------------------------------------------------------------------
    Rule(
        "4",
        "MUST",
        "the MX name matches a pattern and STARTTLS gives a certificate valid for that host",
        (
            (REPLIES, "test_an_enforced_policy_in_the_tlsrpt_dialect"),
            (REPLIES, "test_an_enforced_policy_in_the_plain_dialect"),
            (MAIL, "test_injected_mx_with_a_good_certificate_gets_no_mail"),
            (MAIL, "test_enforce_with_a_good_mx_delivers_over_verified_tls"),
        ),
    ),
    Rule(
        "4.1",
        "MUST",
        "a wildcard stands for exactly one left-most label",
        (
            (STS, "test_a_wildcard_permits_exactly_one_label"),
            (STS, "test_a_wildcard_permits_neither_the_domain_nor_two_labels"),
            (MAIL, "test_enforce_with_a_matching_wildcard_delivers"),
        ),
    ),
    Rule(
        "4.1",
        "MUST",
        "the name in the MX record is what is compared, in any case",
        (
            (STS, "test_a_name_permits_itself_in_any_case"),
            (STS, "test_a_name_permits_nothing_else"),
        ),
    ),
    Rule(
        "4.2",
        "MUST",
        "the MX host's certificate is not expired, trusted, and for that host by DNS-ID",
        ((MAIL, "test_enforce_defers_mail_to_a_bad_certificate"),),
    ),
    # -- applying ----------------------------------------------------------------------------------------------
    Rule(
        "5",
        "MUST NOT",
        "enforce delivers to a host that fails validation",
        (
            (DECIDE, "test_enforce_demands_secure"),
            (REPLIES, "test_shortened_patterns_prefer_current_hosts"),
            (MAIL, "test_enforce_defers_mail_if_starttls_is_stripped"),
        ),
    ),
    Rule(
        "5",
        "MAY",
        "testing delivers as if nothing had failed",
        (
            (DECIDE, "test_testing_leaves_postfix_its_own_level"),
            (REPLIES, "test_testing_policy_has_the_default_level_without_match"),
            (MAIL, "test_policy_not_enforced_delivers_to_a_bad_mx"),
        ),
    ),
    Rule(
        "5",
        "MUST",
        "none is as if there were no policy",
        (
            (DECIDE, "test_none_is_as_if_there_were_no_policy"),
            (ENTRY, "test_mode_none_well_fetched_replaces_a_live_policy_at_once"),
        ),
    ),
    Rule(
        "5",
        "SHOULD",
        "a failure of enforce is transient",
        ((MAIL, "test_enforce_defers_mail_to_a_bad_certificate"),),
    ),
    Rule(
        "5.1",
        "MUST NOT",
        "mail bounces before the id was looked at again",
        (
            (ENTRY, "test_a_changed_id_asks_for_the_policy_at_once"),
            (ENTRY, "test_live_policy_is_settled_until_the_txt_ttl_ends"),
            (SERVICE, "test_a_changed_id_brings_the_new_policy_near_the_lookup"),
            (MAIL, "test_new_id_moves_mail_to_the_new_mx"),
        ),
    ),
    Rule(
        "6",
        "SHOULD",
        "failures to fetch are reported by their kind",
        (("test_errors.py", "test_policy_error_has_its_result_type"),),
    ),
    Rule(
        "7.1",
        "MUST",
        "SNI is the policy host's name, and the MX host's name",
        (
            (REPLIES, "test_an_enforced_policy_in_the_plain_dialect"),
            (HTTPS, "test_name_that_the_policy_host_does_not_know_fails_its_handshake"),
        ),
    ),
    Rule(
        "7.2",
        "MUST",
        "TLS 1.2 or later is spoken",
        (("https/test_trust_anchors.py", "test_tls_settings_are_those_of_rfc_8461"),),
    ),
    Rule(
        "8.4",
        "SHOULD",
        "invalid MX hosts are passed over as if they could not be reached",
        ((MAIL, "test_injected_mx_does_not_block_the_true_one"),),
    ),
    Rule(
        "10.2",
        "SHOULD",
        "policies are refreshed in the background whatever TXT says",
        (
            (ENTRY, "test_txt_answer_does_not_change_when_a_live_policy_is_due"),
            (SERVICE, "test_refresh_of_a_live_policy_fetches_without_txt"),
        ),
    ),
    Rule(
        "10.5",
        "SHOULD",
        "some revocation is checked",
        elsewhere="none is; what a CA withdraws ends with the certificate",
    ),
]


@cache
def functions(path: str) -> frozenset[str]:
    """The names of the tests, and of the rules of a state machine, in a file."""
    nodes = ast.walk(ast.parse((TESTS / path).read_text("utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_requirement_is_shown_by_tests_that_exist_or_has_its_reason(rule: Rule) -> None:
    assert bool(rule.shown) != bool(rule.elsewhere)
    missing = [f"{path}::{name}" for path, name in rule.shown if name not in functions(path)]
    assert missing == []


def test_no_requirement_is_listed_twice() -> None:
    assert len({(rule.section, rule.demand) for rule in RULES}) == len(RULES)


def test_every_section_that_binds_a_sender_is_listed() -> None:
    bound = {"2", "3.1", "3.2", "3.3", "3.4", "4", "4.1", "4.2", "5", "5.1", "6", "7.1", "7.2", "8.4", "10.2", "10.5"}
    assert {rule.section for rule in RULES} == bound
