import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from small_review import finding, write_artifacts
from starlette.testclient import TestClient

from secpipeline.errors import InputError
from secpipeline.review import app as pages
from secpipeline.review.app import create_app, serve
from secpipeline.review.budget import BudgetRule
from secpipeline.review.data import ReviewData
from secpipeline.review.guard import MAX_BODY_BYTES
from secpipeline.review.journal import read
from secpipeline.review.session import Session

HOST = "127.0.0.1:8100"
ORIGIN = f"http://{HOST}"
TOKEN = "a" * 43
RULE = BudgetRule(items=8)
NAME = "<b>reviewer</b> one"


def ghosts(images, boxes):
    people = boxes[~boxes["ignore"]].drop_duplicates("image_id")
    return [finding(row["image_id"], "ghost", 0.9, box=row) for _, row in people.head(6).iterrows()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ReviewData.read(*write_artifacts(tmp_path_factory.mktemp("artifacts"), ghosts), image_score=0.8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def finished():
    return []


@pytest.fixture
def client(data, path, finished):
    with Session.open(path, data, NAME, RULE, 1) as session:
        app = create_app(session, TOKEN, {HOST}, lambda: finished.append(True))
        yield TestClient(app, base_url=f"{ORIGIN}/{TOKEN}/", headers={"origin": ORIGIN})


def state(client):
    return client.get("state").json()


def answer(client, verdict="skip", drawn=(), item=None):
    item = item or state(client)["item"]["id"]
    return client.post("decide", json={"item": item, "verdict": verdict, "drawn": list(drawn)})


def decided(path):
    return len(read(path.read_bytes()).decisions)


def test_the_page_loads_nothing_from_elsewhere_and_shows_names_as_text(client):
    page = client.get("")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "&lt;b&gt;reviewer&lt;/b&gt; one" in page.text
    assert "<b>reviewer" not in page.text
    assert not re.findall(
        r"(?:https?:)?//(?!www\.w3\.org)[a-z]", re.sub(r"^\s*//.*$", "", page.text, flags=re.MULTILINE)
    )
    assert not re.findall(r"<[a-z][^>]*\s(?:src|href)\s*=|url\(|@import", page.text)
    assert not re.findall(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", page.text)
    assert not re.findall(r"""<[^>]*\s(?:style|on[a-z]+)=""", page.text)


def test_the_content_security_policy_allows_this_pages_script_and_style_only(client):
    policies = [client.get("").headers["content-security-policy"] for _ in range(2)]
    for policy in policies:
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
        assert rules["img-src"] == rules["connect-src"] == "'self'"
        assert re.fullmatch(r"'nonce-[\w-]{22}'", rules["script-src"])
    assert policies[0] != policies[1]
    page = client.get("")
    nonce = re.search(r"script-src 'nonce-([^']+)'", page.headers["content-security-policy"])[1]
    assert page.text.count(f'nonce="{nonce}"') == page.text.count("<script") + page.text.count("<style") == 2


@pytest.mark.parametrize("path_", ["", "state", "picture/0000000000000000", "nothing", "decide"])
def test_nothing_is_kept_framed_or_told_to_others(client, path_):
    headers = client.get(path_).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "set-cookie" not in headers
    assert "access-control-allow-origin" not in headers


def test_an_item_is_shown_answered_and_taken_back(client, path):
    item = state(client)["item"]
    picture = client.get(f"picture/{item['id']}")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    after = answer(client, "accept-label")
    assert after.status_code == 200
    assert after.json()["done"] == 1
    assert after.json() == state(client)
    assert decided(path) == 1
    back = client.post("undo", json={"item": item["id"]})
    assert back.json()["item"] == item
    assert decided(path) == 0


def test_a_label_is_redrawn(client, path):
    while not (item := state(client)["item"])["label"]:
        answer(client)
    assert answer(client, "redraw", [{"box_id": item["box_id"], "new": [3, 4.5, 20, 60]}]).status_code == 200
    assert read(path.read_bytes()).decisions[-1].changes[0].new == (3.0, 4.5, 20.0, 60.0)


def test_the_review_ends_when_everything_is_answered_and_not_before(client, finished):
    refusal = client.post("finish", json={})
    assert refusal.status_code == 422
    assert "more to answer" in refusal.json()["error"]
    while state(client)["item"]:
        answer(client)
    assert state(client)["summary"]["verdicts"]["skip"] == state(client)["total"]
    assert not finished
    assert client.post("finish", json={}).json() == {"finished": True}
    assert finished


def test_a_second_tab_cannot_answer_twice(client, path):
    item = state(client)["item"]["id"]
    assert answer(client, item=item).status_code == 200
    late = answer(client, "accept-label", item=item)
    assert late.status_code == 409
    assert "another tab" in late.json()["error"]
    assert client.post("undo", json={"item": "0" * 16}).status_code == 409
    assert decided(path) == 1


BODIES = [
    b"",
    b"[]",
    b"null",
    b"{",
    b'{"item": "000000000000000"}',
    b'{"item": "0000000000000000", "verdict": "skip", "drawn": [], "reviewer": "somebody else"}',
    b'{"item": "0000000000000000", "verdict": "skip", "verdict": "redraw", "drawn": []}',
    b'{"item": 7, "verdict": "skip", "drawn": []}',
    b'{"item": "../../state", "verdict": "skip", "drawn": []}',
    b'{"item": "0000000000000000", "verdict": ["skip"], "drawn": []}',
    b'{"item": "0000000000000000", "verdict": "skip", "drawn": NaN}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", BODIES, ids=[str(body[:40]) for body in BODIES])
@pytest.mark.parametrize("path_", ["decide", "undo", "finish"])
def test_malformed_answers_are_refused_with_a_reason(client, path, path_, body):
    answer_ = client.post(path_, content=body, headers={"content-type": "application/json"})
    assert answer_.status_code == 422
    assert answer_.json()["error"]
    assert decided(path) == 0


def test_unknown_pictures_and_paths_are_refused(client):
    assert client.get("picture/0000000000000000").status_code == 422
    for path_ in ("nothing", "docs", "openapi.json", "redoc", "picture/", "../state/x"):
        assert client.get(path_).status_code == 404
    assert client.get("decide").status_code == 405


def test_a_picture_that_cannot_be_read_gives_a_reason(client, data, monkeypatch):
    def fail(image_id):
        raise InputError("shard is missing")

    monkeypatch.setattr(data.release, "decode", fail)
    refusal = client.get(f"picture/{state(client)['item']['id']}")
    assert (refusal.status_code, refusal.json()) == (422, {"error": "shard is missing"})


def test_an_answer_that_cannot_be_written_is_not_shown_as_given(client, monkeypatch):
    from secpipeline.review import journal

    before = state(client)
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        refusal = answer(client)
    assert refusal.status_code == 422
    assert "make room" in refusal.json()["error"]
    assert state(client) == before


BODY = {"content-type": "application/json"}


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin"}])
def test_our_own_page_passes(client, path, headers):
    assert client.get("", headers=headers).status_code == 200
    item = state(client)["item"]["id"]
    body = {"item": item, "verdict": "skip", "drawn": []}
    assert client.post("decide", json=body, headers=headers).status_code == 200
    assert decided(path) == 1


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"host": "evil.example"}, "unknown host"),
        ({"host": "127.0.0.1:8101"}, "unknown host"),
        ({"host": f"{HOST}.evil.example"}, "unknown host"),
        ({"sec-fetch-site": "cross-site"}, "cross-site"),
        ({"sec-fetch-site": "same-site"}, "cross-site"),
        ({"origin": "http://evil.example"}, "foreign origin"),
        ({"origin": "http://127.0.0.1:9999"}, "foreign origin"),
        ({"origin": f"https://{HOST}"}, "foreign origin"),
        ({"origin": "null"}, "foreign origin"),
    ],
)
def test_other_pages_are_refused(client, path, headers, reason):
    for refusal in (
        client.get("state", headers=headers),
        client.post(
            "decide", json={"item": state(client)["item"]["id"], "verdict": "skip", "drawn": []}, headers=headers
        ),
    ):
        assert refusal.status_code == 403
        assert reason in refusal.text
    assert decided(path) == 0


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "text/plain; application/json"],
)
def test_forms_of_other_pages_are_refused(client, path, kind):
    body = json.dumps({"item": state(client)["item"]["id"], "verdict": "skip", "drawn": []})
    assert client.post("decide", content=body, headers={"content-type": kind}).status_code == 403
    assert decided(path) == 0


def test_answers_without_an_origin_are_refused(client, path):
    body = {"item": state(client)["item"]["id"], "verdict": "skip", "drawn": []}
    del client.headers["origin"]
    assert client.post("decide", json=body).status_code == 403
    assert client.get("state").status_code == 200
    assert decided(path) == 0


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_other_methods_are_refused(client, method):
    assert client.request(method, "state").status_code == 405


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/state",
        "/favicon.ico",
        f"/{TOKEN}",
        f"/{TOKEN[1:]}/state",
        f"/{TOKEN}x/state",
        f"//{TOKEN}/state",
        "/%C3%A9/state",
    ],
)
def test_whoever_does_not_know_the_token_sees_nothing(client, address):
    refusal = client.get(f"{ORIGIN}{address}")
    assert refusal.status_code == 404
    assert refusal.text == "not found"
    assert client.get(f"{ORIGIN}/{TOKEN}/state").status_code == 200


def test_large_bodies_are_refused(client, path):
    refusal = client.post("decide", content=b" " * (MAX_BODY_BYTES + 1), headers=BODY)
    assert refusal.status_code == 413
    assert decided(path) == 0


def test_websockets_are_closed(client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("state"):
        pass
    assert closed.value.code == 1008


def fetch(address, **headers):
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def post(address, body):
    origin = address[: address.index("/", 8)]
    headers = {"Content-Type": "application/json", "Origin": origin}
    with urllib.request.urlopen(
        urllib.request.Request(address, json.dumps(body).encode(), headers), timeout=10
    ) as response:
        return json.load(response)


def test_it_serves_this_machine_alone_until_the_person_is_done(data, path):
    told, outcome = [], []
    with Session.open(path, data, NAME, RULE, 1) as session:
        thread = threading.Thread(target=lambda: outcome.append(serve(session, 0, told.append)), daemon=True)
        thread.start()
        while not told:
            time.sleep(0.01)
        (address,) = told
        match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{43})/", address)
        assert fetch(address)[0] == 200
        assert fetch(f"http://127.0.0.1:{match[1]}/state")[0] == 404
        assert fetch(address, Host="evil.example")[0] == 403
        assert fetch(address.replace("127.0.0.1", "localhost"))[0] == 200
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection(("127.0.0.2", int(match[1])), timeout=2)
        while item := session.view()["item"]:
            post(f"{address}decide", {"item": item["id"], "verdict": "skip", "drawn": []})
        post(f"{address}finish", {})
        thread.join(20)
    assert outcome == [True]
    assert decided(path) == session.view()["total"]


def test_who_interrupts_the_page_gets_an_answer_and_can_sign(data, path):
    with Session.open(path, data, NAME, RULE, 1) as session:

        def interrupt(address):
            def later():
                fetch(address)  # it serves, so its handlers are in place
                os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=later, daemon=True).start()

        assert serve(session, 0, interrupt) is False


def test_addresses_are_never_the_same(data, path, monkeypatch):
    told = []
    monkeypatch.setattr(pages.uvicorn.Server, "run", lambda self, sockets: None)
    with Session.open(path, data, NAME, RULE, 1) as session:
        for _ in range(2):
            assert serve(session, 0, told.append) is False
    assert told[0].split("/")[3] != told[1].split("/")[3]


def test_a_taken_port_is_refused(data, path):
    with socket.socket() as other, Session.open(path, data, NAME, RULE, 1) as session:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for port in (other.getsockname()[1], 70_000):
            with pytest.raises(InputError, match="choose another port"):
                serve(session, port, print)
