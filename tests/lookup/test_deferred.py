"""Deferred mail is logged with the reason."""

from pathlib import Path

from tests.fakes.admin import Admin
from tests.fakes.https import Behaviour
from tests.fakes.process import Internet, Process

OTHER = b"version: STSv1\nmode: enforce\nmx: other.example.com\nmax_age: 86400\n"


def test_policy_that_permits_no_mx_host_is_logged_as_deferral(tmp_path: Path) -> None:
    with Internet(tmp_path / "internet") as internet:
        internet.publish("a.example", behaviour=Behaviour(body=OTHER))
        with Process(tmp_path / "daemon", internet) as daemon:
            daemon.lookup("a.example")
            daemon.logged("policy-permits-no-mx-host domain=a.example")
            # With another map name, so that it is not answered from the reply cache.
            daemon.lookup("a.example", "QUERY")
            daemon.logged("mail-deferred domain=a.example reason=policy-permits-no-mx-host")


def test_the_status_lists_it_until_another_policy_is_there(tmp_path: Path) -> None:
    admin = Admin(tmp_path / "admin.sock")
    with Internet(tmp_path / "internet") as internet:
        internet.publish("a.example", behaviour=Behaviour(body=OTHER))
        internet.publish("fine.example")
        with Process(tmp_path / "daemon", internet, {"admin": {"socket": str(admin.address)}}) as daemon:
            for name in ("a.example", "fine.example"):
                daemon.lookup(name)
            daemon.logged("policy-permits-no-mx-host domain=a.example")
            daemon.logged("admin-listening")
            assert admin.get("/api/v1/status").json["deferred"]["domains"][0]["reason"] == "policy-permits-no-mx-host"
            internet.publish("a.example", "2", Behaviour(body=OTHER.replace(b"enforce", b"testing")))
            assert admin.post("/api/v1/refresh/a.example").json["held"]["mode"] == "testing"
            assert admin.get("/api/v1/status").json["deferred"] == {"total": 0, "domains": []}
            daemon.logged("mail-deferral-ended domain=a.example reason=policy-permits-no-mx-host seconds=")


def test_reply_that_cannot_be_made_is_logged_once(tmp_path: Path) -> None:
    reply = "secure policy_type=sts policy_domain=x.example mx_host_pattern=a.example policy_string={version: STSv1}"
    overrides = {"x.example": {"reply": reply, "reason": "a test"}}
    with Process(tmp_path / "daemon", None, {"overrides": overrides}) as daemon:
        for name in ("postfix", "query"):
            assert daemon.lookup("x.example", name).startswith("TEMP mtasts-daemon: x.example: ")
        assert len(daemon.logged("mail-deferred domain=x.example reason=.*3.10")) == 1
