"""A minimal DNS server, if there is no real one: ``python -m tests.bench.responder PORT POLICIES``."""

import socket
import struct
import sys

from tests.bench.names import POLICY_HOSTS

__all__ = ["answer"]

_A, _MX, _TXT = 1, 15, 16
_HEAD = struct.Struct("!HHIH")
_RECORD = b"v=STSv1; id=1;"
# The SOA record's name is a pointer into the question: bench.test are its last 12 bytes.
_SOA = struct.pack("!HHIH", 6, 1, 3600, 22) + b"\0\0" + struct.pack("!5I", 1, 3600, 600, 86400, 3600)


def answer(query: bytes, policies: int) -> bytes:
    """Return the response to a query."""
    end = query.index(b"\0", 12) + 5
    labels = _labels(query[12 : end - 4])
    kind = query[end - 3]
    data = _data(labels, kind, policies)
    counts = b"\0\1\0\1\0\0\0\0" if data is not None else b"\0\1\0\0\0\1\0\0"
    head = query[:2] + b"\x81\x80" + counts + query[12:end]
    if data is None:
        return head + (0xC000 | end - 16).to_bytes(2, "big") + _SOA
    return head + b"\xc0\x0c" + _HEAD.pack(kind, 1, 3600, len(data)) + data


def _labels(name: bytes) -> list[bytes]:
    labels: list[bytes] = []
    while name[0]:
        labels.append(name[1 : 1 + name[0]])
        name = name[1 + name[0] :]
    return labels


def _data(labels: list[bytes], kind: int, policies: int) -> bytes | None:
    if kind == _TXT and labels[0] == b"_smtp":
        record = b"v=TLSRPTv1; rua=mailto:tls@%b.bench.test" % labels[-3]
        return bytes((len(record),)) + record
    if kind == _MX and len(labels) == 3:
        return b"\0\x0a\4mail\xc0\x0c"
    if len(labels) != 4 or not labels[1].startswith(b"p") or int(labels[1][1:]) >= policies:
        return None
    if kind == _TXT and labels[0] == b"_mta-sts":
        return bytes((len(_RECORD),)) + _RECORD
    if kind == _A and labels[0] == b"mta-sts":
        return socket.inet_aton(POLICY_HOSTS[int(labels[1][1:]) % len(POLICY_HOSTS)])
    return None


def main() -> None:
    """Answer until stopped."""
    port, policies = map(int, sys.argv[1:])
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        server.bind(("127.0.0.1", port))
        print("serving", flush=True)
        while True:
            query, client = server.recvfrom(512)
            server.sendto(answer(query, policies), client)


if __name__ == "__main__":
    main()
