"""An IMAP server over TLS with one mailbox: the part of RFC 3501 that a poll by UID uses."""

import re
import socketserver
import ssl
import threading
from types import TracebackType
from typing import Self

__all__ = ["FakeImap"]


class FakeImap:
    """A context manager. ``mails`` is the mailbox by UID; ``validity`` its UIDVALIDITY."""

    def __init__(self, context: ssl.SSLContext, user: str = "reports", password: str = "secret") -> None:
        self.mails: dict[int, bytes] = {}
        self.validity = 7
        self.fetched: list[int] = []
        self.logins = 0
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def setup(self) -> None:
                self.request = context.wrap_socket(self.request, server_side=True)
                super().setup()

            def finish(self) -> None:
                super().finish()
                self.request.close()

            def handle(self) -> None:
                self.wfile.write(b"* OK ready\r\n")
                for line in self.rfile:
                    tag, _, command = line.decode().strip().partition(" ")
                    said = fake.answer(command, user, password)
                    self.wfile.write(said + f"{tag} {fake.status}\r\n".encode())
                    if command.upper() == "LOGOUT":
                        return

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, _request: object, _address: object) -> None:
                """Ignore clients that end the handshake because they do not trust the certificate."""

        self.status = "OK done"
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    def answer(self, command: str, user: str, password: str) -> bytes:
        self.status = "OK done"
        words = command.split()
        verb = words[0].upper() if words else ""
        if verb == "CAPABILITY":
            return b"* CAPABILITY IMAP4rev1\r\n"
        if verb == "LOGIN":
            self.logins += 1
            if [word.strip('"') for word in words[1:]] != [user, password]:
                self.status = "NO wrong password"
            return b""
        if verb in ("SELECT", "EXAMINE"):
            return f"* {len(self.mails)} EXISTS\r\n* OK [UIDVALIDITY {self.validity}] valid\r\n".encode()
        if verb == "UID" and words[1].upper() == "SEARCH":
            first = int(words[3].partition(":")[0])
            found = {uid for uid in self.mails if uid >= first} | ({max(self.mails)} if self.mails else set())
            return f"* SEARCH {' '.join(map(str, sorted(found)))}\r\n".encode()
        if verb == "UID" and words[1].upper() == "FETCH":
            return self._fetch(int(words[2]), command)
        if verb == "LOGOUT":
            return b"* BYE\r\n"
        self.status = "BAD unknown"
        return b""

    def _fetch(self, uid: int, command: str) -> bytes:
        mail = self.mails.get(uid)
        if mail is None:
            return b""
        if re.search(r"RFC822\.SIZE", command):
            return f"* 1 FETCH (UID {uid} RFC822.SIZE {len(mail)})\r\n".encode()
        self.fetched.append(uid)
        return f"* 1 FETCH (UID {uid} BODY[] {{{len(mail)}}}\r\n".encode() + mail + b")\r\n"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
