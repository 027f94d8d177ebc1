"""DNS records of published domains, and how they differ from what DNS has."""

import dns.rdata
import dns.zone
import pytest

from mtasts_daemon.publish.dns_records import (
    DnsRecord,
    Endpoint,
    ObservedDns,
    RecordChange,
    RecordType,
    differences,
    wanted_records,
    zone_line,
)

ID = "0123456789abcdef0123456789abcdef"
HOST = Endpoint(host="policy.example.net")
ADDRESSES = Endpoint(addresses=("192.0.2.1", "2001:db8::1"))
STS = b"v=STSv1; id=0123456789abcdef0123456789abcdef;"


def lines(*args: object, **kwargs: object) -> list[str]:
    return [zone_line(record) for record in wanted_records(*args, **kwargs)]  # type: ignore[arg-type]


def test_records_of_a_domain_with_a_host() -> None:
    assert lines("example.com", ID, HOST, rua=("mailto:tlsrpt@example.com", "https://r.example/x")) == [
        "mta-sts.example.com. 3600 IN CNAME policy.example.net.",
        f'_mta-sts.example.com. 3600 IN TXT "v=STSv1; id={ID};"',
        '_smtp._tls.example.com. 3600 IN TXT "v=TLSRPTv1; rua=mailto:tlsrpt@example.com,https://r.example/x"',
    ]


def test_records_of_a_domain_with_addresses() -> None:
    assert lines("example.com", ID, ADDRESSES)[:2] == [
        "mta-sts.example.com. 3600 IN A 192.0.2.1",
        "mta-sts.example.com. 3600 IN AAAA 2001:db8::1",
    ]


def test_records_of_a_delegated_domain_are_cnames() -> None:
    assert lines("user.example", ID, HOST, delegate_to="provider.example") == [
        "mta-sts.user.example. 3600 IN CNAME mta-sts.provider.example.",
        "_mta-sts.user.example. 3600 IN CNAME _mta-sts.provider.example.",
    ]


def test_policy_host_has_no_cname_to_itself() -> None:
    assert lines("example.com", None, Endpoint(host="mta-sts.example.com")) == []


def test_zone_lines_are_read_back_by_another_program() -> None:
    rua = tuple(f"mailto:tls-reports-{number}@a-domain-with-a-long-name.example.com" for number in range(9))
    records = wanted_records("example.com", ID, ADDRESSES, rua=rua)
    text = "example.com. 60 IN SOA a. b. 1 2 3 4 5\nexample.com. 60 IN NS a.\n"
    zone = dns.zone.from_text(text + "\n".join(map(zone_line, records)), "example.com", relativize=False)
    for record in records:
        found = zone.get_rdataset(f"{record.name}.", record.kind.value)
        assert found is not None
        values = [
            b"".join(item.strings).decode() if record.kind is RecordType.TXT else item.to_text() for item in found
        ]
        assert record.value in values


def wanted() -> tuple[DnsRecord, ...]:
    return wanted_records("example.com", ID, HOST, rua=("mailto:t@example.com",))


RIGHT = {
    "sts": (STS,),
    "tlsrpt": (b"v=TLSRPTv1; rua=mailto:t@example.com",),
    "host_cname": "policy.example.net",
}


def changes(**observed: object) -> list[tuple[str, str]]:
    found = differences(wanted(), ObservedDns(**{**RIGHT, **observed}))  # type: ignore[arg-type]
    return [(one.change.value, one.name) for one in found]


@pytest.mark.parametrize(
    ("observed", "found"),
    [
        ({}, []),
        ({"sts": (b"v=STSv1;id=0123456789abcdef0123456789abcdef",)}, []),
        ({"sts": (STS, b"google-site-verification=x")}, []),
        ({"tlsrpt": (b"v=TLSRPTv1;rua=mailto:t@example.com",)}, []),
        ({"host_cname": "Policy.Example.Net"}, []),
        (
            {
                "host_cname": "",
                "addresses": frozenset({"192.0.2.1"}),
                "endpoint_addresses": frozenset({"192.0.2.1", "192.0.2.2"}),
            },
            [],
        ),
        ({"sts": ()}, [("add", "_mta-sts.example.com")]),
        ({"sts": (b"v=STSv1; id=1;",)}, [("replace", "_mta-sts.example.com")]),
        ({"sts": (STS, STS)}, [("replace", "_mta-sts.example.com")]),
        ({"sts": (STS, b"v=STSv1; id=1;")}, [("replace", "_mta-sts.example.com")]),
        ({"tlsrpt": ()}, [("add", "_smtp._tls.example.com")]),
        ({"tlsrpt": (b"v=TLSRPTv1; rua=mailto:u@example.com",)}, [("replace", "_smtp._tls.example.com")]),
        ({"host_cname": ""}, [("add", "mta-sts.example.com")]),
        ({"host_cname": "old.example.net"}, [("replace", "mta-sts.example.com")]),
        ({"host_cname": "", "addresses": frozenset({"192.0.2.9"})}, [("replace", "mta-sts.example.com")]),
        ({"problems": {"_mta-sts.example.com": "SERVFAIL"}, "sts": ()}, [("unknown", "_mta-sts.example.com")]),
    ],
)
def test_differences_name_what_has_to_change(observed: dict[str, object], found: list[tuple[str, str]]) -> None:
    assert changes(**observed) == found


def test_differences_of_addresses_go_both_ways() -> None:
    observed = ObservedDns(addresses=frozenset({"192.0.2.1", "192.0.2.9"}))
    found = differences(wanted_records("example.com", None, ADDRESSES), observed)
    assert [(one.change, one.kind, one.wanted) for one in found] == [
        (RecordChange.ADD, RecordType.AAAA, "2001:db8::1"),
        (RecordChange.REMOVE, RecordType.A, "192.0.2.9"),
    ]


def test_differences_of_a_delegated_domain_need_the_cname() -> None:
    records = wanted_records("user.example", ID, HOST, delegate_to="provider.example")
    right = ObservedDns(sts_cname="_mta-sts.provider.example", host_cname="mta-sts.provider.example", sts=(STS,))
    assert differences(records, right) == ()
    own = ObservedDns(host_cname="mta-sts.provider.example", sts=(STS,))
    assert [one.change for one in differences(records, own)] == [RecordChange.REPLACE]


def test_differences_show_foreign_text_escaped() -> None:
    (one,) = differences(
        wanted_records("example.com", ID, Endpoint()), ObservedDns(sts=(b"v=STSv1; id=\x1b[2J\xff\n;",))
    )
    assert one.found[0].isascii()
    assert one.found[0].isprintable()
