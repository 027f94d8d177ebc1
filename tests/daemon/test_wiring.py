"""Settings that the configuration leaves open are read from main.cf."""

import pytest

from mtasts_daemon.config import Config
from mtasts_daemon.daemon.wiring import zones_for
from mtasts_daemon.policy.precedence import DaneMode


def level(main_cf: str | None, **zone: str) -> str | None:
    config = Config.model_validate({"zones": {"postfix-tlsrpt": {"dialect": "tlsrpt", **zone}}})
    return zones_for(config, main_cf)["postfix-tlsrpt"].default_level


@pytest.mark.parametrize("value", ["none", "may", "encrypt", "dane", "dane-only", "verify", "secure"])
def test_default_level_is_read_from_main_cf(value: str) -> None:
    assert level(f"smtp_tls_security_level = {value}\n") == value


@pytest.mark.parametrize("value", ["", "fingerprint", "$other", "${x?{may}:{dane}}", "may, encrypt", "MAY"])
def test_level_that_no_reply_can_repeat_is_unknown(value: str) -> None:
    assert level(f"smtp_tls_security_level = {value}\n") is None


def test_default_level_without_main_cf_is_unknown() -> None:
    assert level(None) is None
    assert level("# smtp_tls_security_level = may\n") is None


def test_configured_level_stands() -> None:
    assert level("smtp_tls_security_level = may\n", default_level="encrypt") == "encrypt"


def test_dane_auto_is_read_from_main_cf() -> None:
    zones = zones_for(Config(), "smtp_dns_support_level = dnssec\n")
    assert zones["postfix"].dane is DaneMode.ON
    assert zones_for(Config(), "")["postfix"].dane is DaneMode.OFF
