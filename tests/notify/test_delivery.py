"""Delivery of alerts to a mail server and a webhook, and the verb that tests both."""

import email
from collections.abc import Iterator
from email import policy
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtasts_daemon.cli.main import ctl_main
from mtasts_daemon.config import Config
from mtasts_daemon.errors import ConfigError
from mtasts_daemon.notify.alert import Alert, Severity
from mtasts_daemon.notify.delivery import channels_for
from mtasts_daemon.notify.part import NotifyPart
from tests.event_loop import until
from tests.fakes.ca import Ca
from tests.fakes.smtp import MailSink
from tests.fakes.webhook import Webhook

ALERT = Alert("policy-timeout", Severity.ERROR, "example.com", "It timed out.", 1.8e9, "Fix it.")


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    found = Webhook()
    yield found
    found.close()


def secret(tmp_path: Path, text: str) -> str:
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


async def test_mail_reaches_the_server_over_starttls(ca: Ca) -> None:
    async with MailSink("localhost", certificate=ca.issue("localhost")) as sink:
        settings = {
            "notify": {
                "mail": "ops@example.com",
                "sender": "d@example.com",
                "smtp": f"localhost:{sink.address[1]}",
                "smtp_starttls": True,
            },
            "https": {"ca_file": str(ca.pem)},
        }
        (channel,) = channels_for(Config.model_validate(settings), {})
        await channel.deliver([ALERT])
    (message,) = sink.messages
    assert message.recipients == ("ops@example.com",)
    assert message.tls is not None
    parsed = email.message_from_bytes(message.content, policy=policy.default)
    assert parsed["Subject"] == "mtasts-daemon error: example.com: policy-timeout"
    assert "Fix it." in parsed.get_content()


async def test_mail_server_that_is_down_is_a_sentence() -> None:
    settings = {"notify": {"mail": "ops@example.com", "smtp": "127.0.0.1:1"}}
    (channel,) = channels_for(Config.model_validate(settings), {})
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1: .*refused"):
        await channel.deliver([ALERT])


async def test_webhook_receives_json_and_token(webhook: Webhook, tmp_path: Path) -> None:
    settings = {"notify": {"webhook": webhook.url, "webhook_token_file": secret(tmp_path, "s3cret\n")}}
    (channel,) = channels_for(Config.model_validate(settings), {})
    await channel.deliver([ALERT])
    ((token, body),) = webhook.received
    assert token == "Bearer s3cret"
    assert body["alerts"][0]["slug"] == "policy-timeout"


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_webhook_that_refuses_is_an_error_and_no_redirect_is_followed(webhook: Webhook, status: int) -> None:
    webhook.status = status
    (channel,) = channels_for(Config.model_validate({"notify": {"webhook": webhook.url}}), {})
    with pytest.raises(OSError, match=f"status {status}"):
        await channel.deliver([ALERT])
    assert len(webhook.received) == 1


async def test_part_follows_the_configuration_and_delivers(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtasts_daemon.notify.service._GATHER_SECONDS", 0.0)
    part = NotifyPart({})
    await part.configure(Config())
    part(ALERT)  # logged only
    await part.configure(Config.model_validate({"notify": {"webhook": webhook.url}}))
    part(ALERT)
    await until(lambda: part.service.channels[0].delivered > 0)
    assert len(webhook.received) == 1
    with pytest.raises(ConfigError):
        bad = {"notify": {"webhook": webhook.url, "webhook_token_file": "/no/such/file"}}
        await part.configure(Config.model_validate(bad))
    assert part.service.channels
    await part.stop()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"webhook": "ftp://example.com"}, "is not a webhook"),
        ({"webhook": "https://user:pw@example.com/"}, "is not a webhook"),
        ({"webhook": "https://[::1/"}, "is not a webhook"),
        ({"mail": "nobody"}, "is not an e-mail address"),
        ({"mail": "a@example.com", "smtp_user": "me"}, "smtp_password_file"),
    ],
)
def test_bad_settings_name_the_mistake(tmp_path: Path, settings: dict[str, str], said: str, capsys: Any) -> None:
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump({"notify": settings}))
    assert ctl_main(["notify", "test", "-c", str(config)]) == 78
    assert said in capsys.readouterr().err


def test_verb_sends_a_test_alert_and_says_what_failed(tmp_path: Path, webhook: Webhook, capsys: Any) -> None:
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump({"notify": {"webhook": webhook.url}}))
    assert ctl_main(["notify", "test", "-c", str(config)]) == 0
    assert capsys.readouterr().out == "webhook: delivered\n"
    assert webhook.received[0][1]["alerts"][0]["slug"] == "test"
    webhook.status = 500
    assert ctl_main(["notify", "test", "-c", str(config)]) == 1
    assert "webhook: status 500" in capsys.readouterr().err


def test_verb_without_channels_says_what_to_set(tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "config.yml"
    config.write_text("{}\n")
    assert ctl_main(["notify", "test", "-c", str(config)]) == 78
    assert "notify.mail" in capsys.readouterr().err
