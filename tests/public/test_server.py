"""The public listener's sockets and certificates, while the configuration and the files change."""

import asyncio
import os
import re
import socket
import ssl
from pathlib import Path

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.config.sections.public import CertificateSettings, PublicListen, PublicSettings
from mtasts_daemon.public import thread as thread_module
from mtasts_daemon.public.counters import PublicCounters
from mtasts_daemon.public.server import PublicServer
from tests.event_loop import until
from tests.fakes.ca import Ca
from tests.public.serving import BODY, POLICIES, serving

DOCUMENTATION = Path(__file__).parents[2] / "docs/publishing.md"
GET = b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.example.com\r\n\r\n"


async def ask(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        return await reader.readexactly(len(BODY))
    finally:
        writer.close()


def at(*listen: PublicListen) -> Config:
    return Config(public=PublicSettings(listen=listen))


def unix(path: Path) -> PublicListen:
    return PublicListen(False, path=str(path))


async def test_listener_moves_with_the_configuration(tmp_path: Path) -> None:
    server = PublicServer(PublicCounters())
    server.change_policies(POLICIES)
    await server.configure(at())
    assert server.addresses == ()
    one, two = tmp_path / "one.sock", tmp_path / "two.sock"
    await server.configure(at(unix(one)))
    assert await ask(one) == BODY
    await server.configure(at(unix(two)))
    assert await ask(two) == BODY
    assert not one.exists()
    assert list(server.addresses) == [f"http:unix:{two}"]
    await server.stop()
    assert not two.exists()


async def test_address_in_use_is_reported_and_the_others_are_served(tmp_path: Path) -> None:
    path = tmp_path / "public.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = PublicServer(PublicCounters())
        server.change_policies(POLICIES)
        config = at(PublicListen(False, "127.0.0.1", port), unix(path))
        with pytest.raises(OSError, match=f"cannot listen on http:127.0.0.1:{port}: Address already in use"):
            await server.configure(config)
        assert await ask(path) == BODY
    await server.configure(config)
    assert set(server.addresses) == {f"http:127.0.0.1:{port}", f"http:unix:{path}"}
    await server.stop()


def trusting(ca: Ca) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca.pem))


def split(ca: Ca, folder: Path, *names: str) -> CertificateSettings:
    """Certificate and key in a folder of their own, as certbot keeps them."""
    folder.mkdir(exist_ok=True)
    pem = ca.issue(*names).read_bytes()
    files = CertificateSettings(certificate_file=folder / "fullchain.pem", key_file=folder / "privkey.pem")
    files.key_file.write_bytes(pem)
    files.certificate_file.write_bytes(pem)
    return files


async def test_certificate_is_chosen_by_server_name(tmp_path: Path) -> None:
    ca = Ca(tmp_path / "ca")
    first = split(ca, tmp_path / "first", "mta-sts.example.com")
    second = split(ca, tmp_path / "second", "mta-sts.example.org")
    async with serving(tls=True, settings=PublicSettings(certificates=(first, second))) as served:
        for name in ("mta-sts.example.com", "mta-sts.example.org"):
            client = await served.connect(trusting(ca), name)
            assert (await client.ask(GET)).endswith(BODY)
        with pytest.raises(ssl.SSLCertVerificationError):
            await served.connect(trusting(ca), "mta-sts.example.net")


async def test_changed_certificate_is_loaded_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_module, "_CERTIFICATE_SECONDS", 0.05)

    ca = Ca(tmp_path / "ca")
    files = split(ca, tmp_path / "live", "mta-sts.example.com")
    async with serving(tls=True, settings=PublicSettings(certificates=(files,))) as served:
        files.certificate_file.write_bytes(b"rubbish")
        await until(lambda: bool(served.server.problems))
        await served.connect(trusting(ca), "mta-sts.example.com")
        split(ca, tmp_path / "live", "mta-sts.example.com", "mta-sts.example.org")
        await until(lambda: not served.server.problems)
        await served.connect(trusting(ca), "mta-sts.example.org")
        (loaded,) = served.server.certificates
        assert loaded.names == ("mta-sts.example.com", "mta-sts.example.org")


def _hooks() -> list[str]:
    """Return the scripts for certbot and lego in the documentation."""
    scripts = re.findall(r"```sh\n(#!/bin/sh.*?)```", DOCUMENTATION.read_text("utf-8"), re.DOTALL)
    assert len(scripts) == 2
    return scripts


@pytest.mark.parametrize("script", _hooks(), ids=["certbot", "lego"])
async def test_documented_hook_installs_a_renewed_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(thread_module, "_CERTIFICATE_SECONDS", 0.05)
    name, target = "mta-sts.example.com", tmp_path / "tls" / "mta-sts.example.com"
    script = script.replace("/etc/mtasts-daemon/tls", str(tmp_path / "tls"))
    script = script.replace("-o root", f"-o {os.getuid()}").replace("-g _mtasts", f"-g {os.getgid()}")
    ca = Ca(tmp_path / "ca")

    async def renew(*names: str) -> None:
        lineage = tmp_path / name
        made = split(ca, lineage, *names)
        variables = {"RENEWED_LINEAGE": str(lineage), "LEGO_CERT_DOMAIN": name}
        variables |= {"LEGO_CERT_PATH": str(made.certificate_file), "LEGO_CERT_KEY_PATH": str(made.key_file)}
        ran = await asyncio.create_subprocess_exec("sh", "-c", script, env={**os.environ, **variables})
        assert await ran.wait() == 0

    await renew(name)
    assert (target / "privkey.pem").stat().st_mode & 0o777 == 0o640
    files = CertificateSettings(certificate_file=target / "fullchain.pem", key_file=target / "privkey.pem")
    async with serving(tls=True, settings=PublicSettings(certificates=(files,))) as served:
        await served.connect(trusting(ca), name)
        await renew(name, "mta-sts.example.org")
        await until(lambda: len(served.server.certificates[0].names) == 2)
        client = await served.connect(trusting(ca), "mta-sts.example.org")
        assert (await client.ask(GET)).endswith(BODY)


async def test_client_of_http_2_alone_gets_no_answer(tmp_path: Path) -> None:
    ca = Ca(tmp_path / "ca")
    files = split(ca, tmp_path / "live", "mta-sts.example.com")
    async with serving(tls=True, settings=PublicSettings(certificates=(files,))) as served:
        context = trusting(ca)
        context.set_alpn_protocols(["h2"])
        client = await served.connect(context, "mta-sts.example.com")
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
        response = await client.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        assert response[9:12] in (b"", b"400")
        assert await client.is_closed()


async def test_tls_without_a_certificate_ends_the_handshake(tmp_path: Path) -> None:
    missing = CertificateSettings(certificate_file=tmp_path / "none.pem", key_file=tmp_path / "none.pem")
    async with serving(tls=True, settings=PublicSettings(certificates=(missing,))) as served:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await served.connect(ssl.create_default_context(), "mta-sts.example.com")
        assert "No such file" in served.server.problems[0]
