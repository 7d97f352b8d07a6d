"""Who is let in."""

from __future__ import annotations

import base64

import pytest

from airflow_provider_modelstudio.sandbox.credentials import Credentials
from tests.sandbox.loopback import EMBED, ask, infer


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_anybody_may_ask_when_nothing_is_set(sandbox):
    """Credentials that nobody asked for do no harm."""
    assert ask(sandbox, "GET", "/", headers={"authorization": basic("a", "b")}).status == 200


def test_user_and_password(start):
    """The right pair is let in; a wrong one is named by its user, a missing one by the path."""
    server = start(user="elastic", password="pa:ss wörd")
    assert ask(server, "GET", "/", headers={"authorization": basic("elastic", "pa:ss wörd")}).status == 200
    wrong = ask(server, "GET", "/_inference/_all", headers={"authorization": basic("elastic", "other")})
    assert wrong.status == 401
    assert wrong.error["reason"] == "unable to authenticate user [elastic] for REST request [/_inference/_all]"
    missing = infer(server, EMBED, "a")
    assert missing.status == 401
    assert missing.error["type"] == "security_exception"
    assert missing.error["reason"] == f"missing authentication credentials for REST request [{EMBED}]"
    assert missing.headers.get_all("www-authenticate") == ['Basic realm="security", charset="UTF-8"', "ApiKey"]
    assert missing.error["header"]["WWW-Authenticate"] == missing.headers.get_all("www-authenticate")
    assert server.bill == []


@pytest.mark.parametrize("configured", ["id:secret", base64.b64encode(b"id:secret").decode()])
def test_api_keys_in_both_of_their_forms(start, configured):
    """The key is configured encoded or as ``id:key``; the header always carries it encoded."""
    server = start(api_key=configured)
    encoded = base64.b64encode(b"id:secret").decode()
    assert ask(server, "GET", "/", headers={"authorization": f"ApiKey {encoded}"}).status == 200
    assert ask(server, "GET", "/", headers={"authorization": "ApiKey bm86bm8="}).status == 401
    assert ask(server, "GET", "/", headers={"authorization": basic("id", "secret")}).status == 401


def test_a_raw_token_is_compared_as_it_is(start):
    """Keys that are no base64 work too."""
    server = start(api_key="essu_raw-token")
    assert ask(server, "GET", "/", headers={"authorization": "ApiKey essu_raw-token"}).status == 200
    assert ask(server, "GET", "/", headers={"authorization": "ApiKey essu_raw-toker"}).status == 401


@pytest.mark.parametrize("header", ["", "Basic", "Basic ***", "Bearer x", "ApiKey", "ApiKey \xff", "Basic \xff\xff=="])
def test_odd_headers_are_refused_and_break_nothing(header):
    """Whatever stands in the header, the answer is a refusal."""
    credentials = Credentials(user="u", password="p", api_key="k")
    refusal = credentials.refusal(header, "/")
    assert refusal is not None
    assert refusal.status == 401


def test_half_a_pair_makes_no_sense():
    """A user without a password is a mistake, not an open door."""
    with pytest.raises(ValueError, match="come together"):
        Credentials(user="u")


def test_secrets_are_not_shown():
    """The credentials print without their secrets."""
    shown = repr(Credentials(user="u", password="hidden-password", api_key="hidden-key"))
    assert "hidden" not in shown
