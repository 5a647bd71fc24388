"""The guard of the web UI: our own pages pass, everybody else's requests do not."""

import asyncio

import pytest

from assets.ui import Guard, prepare_home

HOST = "127.0.0.1:3000"


async def inner(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"through"})


def ask(path="/", method="GET", kind="http", **headers):
    sent = []

    async def send(message):
        sent.append(message)

    fields = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": kind,
        "path": path,
        "method": method,
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }
    asyncio.run(Guard(inner, frozenset({HOST}))(scope, None, send))
    return sent[0].get("status", sent[0].get("code"))


@pytest.mark.parametrize(
    "request_",
    [
        {"path": "/"},
        {"path": "/assets/detector", "sec_fetch_site": "same-origin"},
        {"path": "/graphql", "method": "POST", "content_type": "application/json", "origin": f"http://{HOST}"},
    ],
)
def test_our_own_pages_pass(request_):
    assert ask(**request_) == 200


@pytest.mark.parametrize(
    "request_",
    [
        {"path": "/", "host": "evil.example"},
        {"path": "/", "sec_fetch_site": "cross-site"},
        {"path": "/graphql", "method": "GET"},
        {"path": "/graphql/", "method": "GET"},
        {"path": "/graphql", "method": "POST", "content_type": "text/plain"},
        {"path": "/graphql", "method": "POST", "content_type": "application/json", "origin": "http://evil.example"},
        {"path": "/report_asset_check/gate_verdict", "method": "POST"},
        {"path": "//report_asset_materialization/x", "method": "POST"},
    ],
)
def test_foreign_and_forging_requests_are_refused(request_):
    assert ask(**request_) == 403


def test_a_foreign_websocket_is_closed():
    assert ask(kind="websocket", path="/graphql", origin="http://evil.example") == 1008


def test_the_home_is_hardened(tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", "unset")
    prepare_home(tmp_path / "home")
    text = (tmp_path / "home/dagster.yaml").read_text()
    assert "telemetry: {enabled: false}" in text
    assert "nux: {enabled: false}" in text
