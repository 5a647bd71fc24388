"""Keep other web pages, other machines and other users away from a local page.

The page has no password and no cookie: its address holds a random token, which other pages cannot guess and browsers do
not send anywhere. Beyond that, a request must name this host (a name that was rebound to 127.0.0.1 does not), come from
this page or from the address line, and write only as JSON by POST.

>>> guard = Guard(app, token="d41d8cd98f00b204e9800998ecf8427e", hosts={"127.0.0.1:8100"})   # doctest: +SKIP
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 256 << 10
# Nothing is loaded from elsewhere, nothing is framed, kept, or told to others.
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_CONTENT = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Guard:
    """ASGI middleware in front of an application whose paths begin after the token.

    Parameters
    ----------
    app
        The application.
    token
        The first part of every path.
    hosts
        The values of the Host header that are ours.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str]) -> None:
        self._app, self._token, self._hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on without the token."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _with_headers(message["headers"])}
            await send(message)

        status, reason = self._objection(scope)
        if reason:
            await PlainTextResponse(reason, status)(scope, receive, send_guarded)
            return
        body = await _read(receive)
        if body is None:
            await PlainTextResponse("too much", 413)(scope, receive, send_guarded)
            return
        await self._app({**scope, "root_path": f"/{self._token}"}, _replay(body), send_guarded)

    def _objection(self, scope: Scope) -> tuple[int, str]:
        """Status and reason of a refusal; the reason is empty if there is none."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if reason := self._foreign(headers, [name.lower() for name, _ in scope["headers"]].count(b"host")):
            return 403, reason
        parts = scope["path"].split("/", 2)
        if len(parts) < 3 or not hmac.compare_digest(parts[1].encode(), self._token.encode()):
            return 404, "not found"
        if scope["method"] not in ("GET", "POST"):
            return 405, "GET or POST only"
        from_page = b"origin" in headers and headers.get(b"content-type") == "application/json"
        if scope["method"] == "POST" and not from_page:
            return 403, "answers come from the page itself, as JSON"
        return 200, ""

    def _foreign(self, headers: Mapping[bytes, str], hosts: int) -> str:
        """Why a request is not of our page or the address line; empty if it may be."""
        host = headers.get(b"host", "")
        if host not in self._hosts or hosts != 1:
            return "unknown host"
        if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
            return "cross-site request"
        own = f"http://{host}"
        return "" if headers.get(b"origin", own) == own else "foreign origin"


def _with_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    own = list(headers)
    policy = [] if any(name.lower() == _NO_CONTENT[0] for name, _ in own) else [_NO_CONTENT]
    return [*own, *HEADERS, *policy]


async def _read(receive: Receive) -> bytes | None:
    """The body of a request; None if it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive
