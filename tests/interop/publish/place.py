"""One network with all parts of a published domain: authoritative DNS with RFC 2136, a resolver, web servers
in front of the public listener, mail exchangers, and two daemons."""

import http.client
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Self

import dns.message
import dns.query
from dns.rdatatype import RdataType

from tests.fakes.ca import Ca
from tests.interop.daemon import Daemon
from tests.interop.machine import Machine
from tests.interop.network import Network
from tests.interop.postfix import eventually
from tests.interop.prepare import TREES, Tree
from tests.tlsrpt.receive.corpus import key_record

__all__ = ["FRONTS", "PUBLISH_TREE", "SENDER", "ZONE", "Exchanger", "Place"]

PUBLISH_TREE: Final = Tree(
    "trixie", ("knot", "knot-dnsutils", "unbound"), "publish", ("nginx-light", "caddy", "apache2")
)
ZONE: Final = "report.example"
"""For its subdomains Postfix uses a transport that asks the daemon and collects TLS results."""
AUTHORITY: Final = "127.0.1.53"
FRONTS: Final = {"nginx": "127.0.3.1", "caddy": "127.0.3.2", "apache": "127.0.3.3"}
LISTENER: Final = "127.0.0.1:8464"
SENDER: Final = f"sender.{ZONE}"
"""Signs its report mails with the key ``corpus.key("sender")``."""
_SECRET: Final = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTMyYg=="
_FOLDER: Final = "/srv/publish"
_PATH: Final = "/.well-known/mta-sts.txt"

_KNOT: Final = f"""
server:
  rundir: "{_FOLDER}"
  listen: {AUTHORITY}@53
log:
  - target: stderr
    any: info
database:
  storage: "{_FOLDER}"
key:
  - id: mtasts
    algorithm: hmac-sha256
    secret: {_SECRET}
acl:
  - id: updates
    key: mtasts
    action: update
zone:
  - domain: {ZONE}
    storage: "{_FOLDER}"
    file: zone
    acl: updates
    zonefile-sync: -1
    zonefile-load: difference
    journal-content: all
"""
_UNBOUND: Final = f"""
server:
  interface: 127.0.0.1
  do-ip6: no
  do-daemonize: no
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  directory: "{_FOLDER}"
  module-config: "iterator"
  do-not-query-localhost: no
  cache-max-ttl: 0
  cache-max-negative-ttl: 0
stub-zone:
  name: "{ZONE}"
  stub-addr: {AUTHORITY}
  stub-prime: no
"""
_NGINX: Final = f"""
pid {_FOLDER}/nginx.pid;
error_log {_FOLDER}/nginx-error.log;
events {{}}
http {{
  access_log off;
  upstream mtasts {{ server {LISTENER}; keepalive 8; }}
  server {{
    listen {FRONTS["nginx"]}:443 ssl;
    server_name ~^mta-sts\\.;
    ssl_certificate {_FOLDER}/web.pem;
    ssl_certificate_key {_FOLDER}/web.pem;
    location / {{
      proxy_pass http://mtasts;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"""
_CADDY: Final = f"""
{{
  admin off
  auto_https disable_redirects
  storage file_system {_FOLDER}/caddy
  skip_install_trust
  on_demand_tls {{
    ask http://{LISTENER}/ask
  }}
}}
https:// {{
  bind {FRONTS["caddy"]}
  tls internal {{
    on_demand
  }}
  reverse_proxy {LISTENER}
}}
"""
_APACHE: Final = f"""
ServerName web.{ZONE}
PidFile {_FOLDER}/apache.pid
ErrorLog {_FOLDER}/apache-error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
Listen {FRONTS["apache"]}:443
<VirtualHost *:443>
  SSLEngine on
  SSLCertificateFile {_FOLDER}/web.pem
  SSLCertificateKeyFile {_FOLDER}/web.pem
  ProxyPreserveHost On
  ProxyPass / http://{LISTENER}/
</VirtualHost>
"""


class Exchanger:
    """A real Postfix that receives mail at its own address, with a certificate."""

    def __init__(self, place: "Place", name: str, address: str, domains: Sequence[str]) -> None:
        self.name, self.address = name, address
        self._place = place
        place.network.add_address(address)  # Postfix requires an address of an interface
        self.machine = Machine(TREES["3.10"], place.network)
        etc = self.machine.root / "etc/postfix"
        settings = {
            "compatibility_level": "3.6",
            "myhostname": name,
            "mydestination": ", ".join(domains),
            "inet_interfaces": address,
            "inet_protocols": "ipv4",
            "maillog_file": "/var/log/mail.log",
            "mynetworks": "192.0.2.1/32",
            "local_recipient_maps": "",
            "local_transport": "discard:",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": "/etc/postfix/tls.pem",
        }
        (etc / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
        self.use_certificate(name)
        self.machine.run("postfix", "start")

    def deliver(self, routes: str) -> None:
        """Route these addresses by ``transport_maps``; ``take:`` writes a mail to ``/tmp/taken``."""
        self.machine.run("install", "-d", "-m", "0777", "/var/spool/postfix/run/mtasts")
        self.machine.run(
            "postconf", "-M", "take/unix=take unix - n n - - pipe flags=D user=nobody argv=/usr/bin/dd of=/tmp/taken"
        )
        self.machine.run("postconf", "-e", f"transport_maps=inline:{{{routes}}}")
        self.machine.run("postfix", "reload")

    def use_certificate(self, name: str) -> None:
        """Serve a certificate for ``name`` from the next session on."""
        pem = self._place.ca.issue(name).read_bytes()
        (self.machine.root / "etc/postfix/tls.pem").write_bytes(pem)
        self.machine.run("postfix", "reload", check=False)

    @property
    def log(self) -> str:
        file = self.machine.root / "var/log/mail.log"
        return file.read_text(errors="replace") if file.exists() else ""


class Place:
    """A context manager: name servers and web servers run, and ``publisher`` starts the daemon that publishes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Ca(folder / "ca")
        self.network = Network()
        self.web = Machine(PUBLISH_TREE, self.network)
        self._files = self.web.root / _FOLDER.lstrip("/")
        self._servers: list[subprocess.Popen[bytes]] = []
        self.exchangers: list[Exchanger] = []
        key = folder / "tsig.key"
        key.write_text(_SECRET + "\n")
        key.chmod(0o600)
        self.key_file = key

    def __enter__(self) -> Self:
        self._files.mkdir(parents=True)
        self._files.chmod(0o777)
        zone = f"{ZONE}. 60 IN SOA ns.{ZONE}. host.{ZONE}. 1 60 60 60 1\n{ZONE}. 60 IN NS ns.{ZONE}.\n"
        zone += f"ns.{ZONE}. 60 IN A {AUTHORITY}\nmx1.{ZONE}. 60 IN A 127.0.2.1\nmx2.{ZONE}. 60 IN A 127.0.2.2\n"
        for name in ("corp", "nginx", "caddy", "apache"):
            zone += f"{name}.{ZONE}. 60 IN MX 10 mx1.{ZONE}.\n{name}.{ZONE}. 60 IN MX 20 mx2.{ZONE}.\n"
        zone += "".join(f"mta-sts.{name}.{ZONE}. 60 IN A {address}\n" for name, address in FRONTS.items())
        record = key_record("sender").decode()
        quoted = " ".join(f'"{record[at : at + 200]}"' for at in range(0, len(record), 200))
        zone += f"sel._domainkey.{SENDER}. 60 IN TXT {quoted}\n"
        names = [f"mta-sts.{name}.{ZONE}" for name in ("corp", "nginx", "apache")]
        for name, text in {
            "zone": zone,
            "knot.conf": _KNOT,
            "unbound.conf": _UNBOUND,
            "nginx.conf": _NGINX,
            "Caddyfile": _CADDY,
            "apache.conf": _APACHE,
            "web.pem": self.ca.issue(*names).read_text(),
        }.items():
            (self._files / name).write_text(text)
        self._start("knotd", "-c", f"{_FOLDER}/knot.conf")
        self._start("unbound", "-d", "-c", f"{_FOLDER}/unbound.conf")
        eventually(lambda: self.dig(f"mx1.{ZONE}", RdataType.A), "an answer of the resolver")
        return self

    def __exit__(self, *_exception: object) -> None:
        for exchanger in self.exchangers:
            exchanger.machine.close()
        self.web.close()
        for server in self._servers:
            server.wait()
        self.network.close()

    def front(self, name: str) -> None:
        """Start nginx, caddy or apache."""
        commands = {
            "nginx": ("nginx", "-c", f"{_FOLDER}/nginx.conf", "-g", "daemon off;"),
            "caddy": (
                "env",
                f"HOME={_FOLDER}",
                "caddy",
                "run",
                "--config",
                f"{_FOLDER}/Caddyfile",
                "--adapter",
                "caddyfile",
            ),
            "apache": ("apache2", "-X", "-f", f"{_FOLDER}/apache.conf"),
        }
        self._start(*commands[name])
        eventually(lambda: self.network.call(lambda: _connects(FRONTS[name])), f"{name} to listen")

    def _start(self, *command: str) -> None:
        with (self._files / f"{command[0]}.log").open("ab") as log:
            self._servers.append(subprocess.Popen(self.web.command(command), stdout=log, stderr=log))

    def logs(self) -> str:
        return "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')}" for file in sorted(self._files.glob("*.log"))
        )

    def exchanger(self, number: int, *domains: str) -> Exchanger:
        """Start the real Postfix ``mx<number>``."""
        found = Exchanger(self, f"mx{number}.{ZONE}", f"127.0.2.{number}", domains)
        self.exchangers.append(found)
        return found

    def dig(self, name: str, rrtype: RdataType, server: str = "127.0.0.1") -> list[str]:
        """Return the records that a server has."""
        query = dns.message.make_query(name, rrtype)

        def ask() -> list[str]:
            try:
                reply = dns.query.udp(query, server, timeout=2)
            except (OSError, dns.exception.Timeout):
                return []
            return [item.to_text() for rrset in reply.answer for item in rrset if rrset.rdtype == rrtype]

        return self.network.call(ask)

    def fetch(
        self, host: str, address: str, *, path: str = "/.well-known/mta-sts.txt", verify: bool = True
    ) -> tuple[int, bytes]:
        """GET over HTTPS, as a sender does."""
        context = ssl.create_default_context(cafile=str(self.ca.pem))
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def get() -> tuple[int, bytes]:
            with (
                socket.create_connection((address, 443), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname=host) as secured,
            ):
                connection = http.client.HTTPSConnection(host)
                connection.sock = secured
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read()

        return self.network.call(get)

    def daemon(self, name: str, settings: dict[str, Any], *, sockets: Path | None = None) -> Daemon:
        """Return a daemon on the network, not started yet."""
        folder = self.folder / name
        folder.mkdir()
        world: Any = SimpleNamespace(network=self.network, ca=self.ca)
        return Daemon(world, folder, {"admin": {"socket": str(folder / "admin.sock")}} | settings, sockets=sockets)

    def publisher(
        self, domains: dict[str, Any], *, sections: Mapping[str, Any] | None = None, **publish: Any
    ) -> Daemon:
        """Return the daemon that publishes ``domains``, not started yet; ``sections`` are more of its configuration."""
        update = {"server": AUTHORITY, "key_name": "mtasts", "key_file": str(self.key_file), "wait": "20s"}
        return self.daemon(
            "publisher",
            {
                "listen": ["socketmap:inet:127.0.0.1:9461"],
                "public": {"listen": [f"http:{LISTENER}"]},
                "publish": {"domains": domains, "addresses": [FRONTS["nginx"]], "dns_update": update, **publish},
                **(sections or {}),
            },
        )


def _connects(address: str) -> bool:
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex((address, 443)) == 0
