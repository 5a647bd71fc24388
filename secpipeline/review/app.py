"""The page on which people decide, for one person on this machine.

>>> with Session.open(path, data, "M. Example") as session:                         # doctest: +SKIP
...     finished = serve(session, port=8100, announce=print)

It answers at an address with a random token, on 127.0.0.1 only, and holds no key: what was decided is signed by whoever
started it, after it ended.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Collection
from contextlib import closing, suppress
from typing import Any

import jinja2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from secpipeline.errors import AttestationError, InputError, IntegrityError, SecpipelineError
from secpipeline.provenance.envelopes import parse_object
from secpipeline.review.guard import Guard
from secpipeline.review.records import exactly, item_id, text
from secpipeline.review.session import Session, Stale

ADDRESS = "127.0.0.1"
_STATUS = {Stale: 409, IntegrityError: 500}


def create_app(session: Session, token: str, hosts: Collection[str], finish: Callable[[], None]) -> Guard:
    """The page as an ASGI application.

    Parameters
    ----------
    session
        What it shows and writes.
    token
        The first part of every path.
    hosts
        The values of the Host header that are answered.
    finish
        Called when the person says that the review is done.
    """
    app = FastAPI(title="secpipeline review", docs_url=None, redoc_url=None, openapi_url=None)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("secpipeline", "review"), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("page.html.j2")

    @app.get("/")
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self';"
            " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        content = template.render(nonce=nonce, reviewer=session.reviewer)
        return HTMLResponse(content, headers={"Content-Security-Policy": policy})

    @app.get("/state")
    def state() -> dict[str, Any]:
        return session.view()

    @app.get("/picture/{item}")
    def picture(item: str) -> Response:
        return Response(session.picture(item), media_type="image/png")

    @app.post("/decide")
    async def decide(request: Request) -> dict[str, Any]:
        body = exactly(_object(await request.body()), ("item", "verdict", "drawn"), "an answer")
        session.decide(item_id(body["item"]), text(body["verdict"], "verdict"), body["drawn"])
        return session.view()

    @app.post("/undo")
    async def undo(request: Request) -> dict[str, Any]:
        body = exactly(_object(await request.body()), ("item",), "a request to undo")
        session.undo(item_id(body["item"]))
        return session.view()

    @app.post("/finish")
    async def end(request: Request) -> dict[str, bool]:
        exactly(_object(await request.body()), (), "a request to finish")
        if not session.finished:
            raise InputError("there is more to answer")
        finish()
        return {"finished": True}

    @app.exception_handler(SecpipelineError)
    def refuse(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, _STATUS.get(type(error), 422))

    return Guard(app, token, hosts)


def _object(body: bytes) -> dict[str, Any]:
    try:
        return parse_object(body)
    except AttestationError as error:
        raise InputError(error.message) from error


def serve(session: Session, port: int, announce: Callable[[str], None]) -> bool:
    """Serve the page until the person is done, or interrupts it.

    Parameters
    ----------
    session
        An open review.
    port
        On 127.0.0.1; 0 for any that is free.
    announce
        Told the address, which is as good as a key while the page is served.

    Returns
    -------
    bool
        Whether everything is answered.

    Raises
    ------
    InputError
        If the port is taken.
    """
    with closing(_listen(port)) as listener:
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(32)
        hosts = {f"{ADDRESS}:{port}", f"localhost:{port}"}

        def finish() -> None:
            server.should_exit = True

        config = uvicorn.Config(
            create_app(session, token, hosts, finish), log_level="warning", access_log=False, server_header=False
        )
        server = uvicorn.Server(config)
        announce(f"http://{ADDRESS}:{port}/{token}/")
        with suppress(KeyboardInterrupt):  # it ends in order, then raises the interrupt again
            server.run(sockets=[listener])
    return session.finished


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen()  # from here on a browser waits instead of being refused
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(f"{ADDRESS}:{port}: cannot be served from ({error}); choose another port") from error
    return listener
