"""Recognition of the usual policy request without aiohttp."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtasts_daemon.public.connection import policy_request

START = b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        (b"Host: mta-sts.example.com\r\n", b"mta-sts.example.com"),
        (b"HOST:mta-sts.example.com \r\n", b"mta-sts.example.com"),
        (b"User-Agent: a\r\nhost: Mta-Sts.Example.com:443\r\nAccept: */*\r\n", b"Mta-Sts.Example.com:443"),
        (b"X-Host: b\r\nHost: a\r\n", b"a"),
        (b"Host:\r\nAccept: */*\r\n", b""),
    ],
)
def test_policy_request_in_usual_form_gives_its_host(fields: bytes, host: bytes) -> None:
    assert policy_request(START + fields + b"\r\n") == (host, False)


@pytest.mark.parametrize(
    ("version", "fields", "closes"),
    [
        (b"1.1", b"Host: a\r\nConnection: close\r\n", True),
        (b"1.1", b"Connection:\tClose \r\nHost: a\r\n", True),
        (b"1.1", b"Host: a\r\nConnection: Keep-Alive\r\n", False),
        (b"1.0", b"Host: a\r\nConnection: close\r\n", True),
        (b"1.0", b"Host: a\r\n", True),
    ],
)
def test_policy_request_says_if_the_connection_is_closed(version: bytes, fields: bytes, closes: bool) -> None:
    assert policy_request(START.replace(b"1.1", version) + fields + b"\r\n") == (b"a", closes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        START,
        START + b"\r\n",
        START + b"Accept: */*\r\n\r\n",
        START + b"Host: a\r\nHost: b\r\n\r\n",
        START + b"Host: a\r\nhost: a\r\n\r\n",
        START + b"Host: a\r\nContent-Length: 0\r\n\r\n",
        START + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        START + b"Transfer-encoding : chunked\r\nHost: a\r\n\r\n",
        START + b"Host: a\r\nConnection: close\r\nConnection: close\r\n\r\n",
        START + b"Host: a\r\nConnection: close, TE\r\n\r\n",
        START + b"Host: a\r\nConnection: Host\r\n\r\n",
        START + b"Host: a\r\n" + b"X: y\r\n" * 4096 + b"\r\n",
        START.replace(b"1.1", b"1.0") + b"Host: a\r\nConnection: keep-alive\r\n\r\n",
        START.replace(b"1.1", b"1.2") + b"Host: a\r\n\r\n",
        START + b"Host: a\r\nUpgrade: h2c\r\n\r\n",
        START + b"Host: a\r\nExpect: 100-continue\r\n\r\n",
        START + b"Host: a\r\n folded\r\n\r\n",
        START + b"Host: a\n\r\n\r\n",
        START + b"Host: a\rb\r\n\r\n",
        START + b"Host: a\x00\r\n\r\n",
        START + b"Host: \xc3\xa4\r\n\r\n",
        START + b"Host: a\r\n: b\r\n\r\n",
        START + b"Host: a\r\n\r\n ",
        START + b"Host: a\r\n\r\n" + START + b"Host: a\r\n\r\n",
        b" " + START + b"Host: a\r\n\r\n",
        b"\r\n" + START + b"Host: a\r\n\r\n",
        b"GET /.well-known/mta-sts.txt?x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /.well-known/../.well-known/mta-sts.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/.well-known/mta-sts.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /.well-known/mta-sts.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /.well-known/mta-stsxtxt HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_policy_request_in_any_other_form_is_left_to_aiohttp(data: bytes) -> None:
    assert policy_request(data) is None


def test_policy_request_is_recognised_only_when_it_is_complete() -> None:
    request = START + b"Host: a\r\nAccept: */*\r\n\r\n"
    assert [policy_request(request[:end]) for end in range(len(request))] == [None] * len(request)
    assert policy_request(request) == (b"a", False)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_policy_request_with_foreign_bytes_never_gives_two_readings(noise: bytes, at: int) -> None:
    request = START + b"Host: a\r\n\r\n"
    found = policy_request(request[:at] + noise + request[at:])
    # Whatever is recognised is one head without a body, so that a proxy in front read the same message.
    if found is not None:
        assert (request[:at] + noise + request[at:]).count(b"\r\n\r\n") == 1
        assert b"content-length" not in noise.lower()
        assert b"\n" not in found[0]
