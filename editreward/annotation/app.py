"""The annotation app as a web server: sign-in, images out of the dataset, and the Gradio page, behind the gate."""

import math
import os
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Annotated

import gradio as gr
import uvicorn
from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from editreward.annotation.adjudication import Adjudication
from editreward.annotation.adjudication_blocks import adjudication_blocks
from editreward.annotation.database import Database, UnsavedError
from editreward.annotation.gate import COOKIE, SIGN_IN_PATH, Gate, Tries
from editreward.annotation.pages import sign_in_page
from editreward.annotation.people import SESSION_DAYS, sign_in, sign_out, signed_in
from editreward.annotation.rating_blocks import rating_blocks
from editreward.annotation.workflow import Workflow
from editreward.groups.protocol import Protocol

STATIC = Path(__file__).with_name("static")

PRIVATE = {"Cache-Control": "private, max-age=3600"}


def build_app(database: Database, protocol: Protocol, activity: Workflow | Adjudication) -> FastAPI:
    """The whole app.

    Args:
        database: who may sign in, and what they did.
        protocol: what is asked.
        activity: what annotators do.
    """
    app = FastAPI(openapi_url=None)
    app.add_middleware(Gate, annotator_of=lambda key: signed_in(database, key))
    app.add_exception_handler(UnsavedError, _unsaved)
    _add_sign_in(app, database)
    if isinstance(activity, Workflow):
        _add_images(app, activity)
        blocks = rating_blocks(activity)
    else:
        _add_tuple_images(app, activity)
        blocks = adjudication_blocks(activity, protocol)
    blocks.queue(default_concurrency_limit=None)
    script = (STATIC / "annotate.js").read_text(encoding="utf-8")
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        auth_dependency=lambda request: request.state.annotator,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        theme=gr.themes.Default(font="system-ui", font_mono="monospace"),  # by name: fetched from nowhere
        css_paths=[STATIC / "annotate.css"],
        head=f"<script>{script}</script>",
    )
    return app


def _unsaved(_: Request, error: Exception) -> Response:
    return HTMLResponse(escape(str(error)), status_code=503, headers={"Retry-After": "5"})


def _add_sign_in(app: FastAPI, database: Database) -> None:
    tries = Tries()

    def form_again(message: str, status: int, name: str, **headers: str) -> Response:
        return HTMLResponse(sign_in_page(message, name), status, headers={"Cache-Control": "no-store", **headers})

    @app.get(SIGN_IN_PATH)
    def form() -> Response:
        return form_again("", 200, "")

    @app.post(SIGN_IN_PATH)
    def enter(
        request: Request,
        name: Annotated[str, Form(max_length=200)] = "",
        token: Annotated[str, Form(max_length=200)] = "",
    ) -> Response:
        address = request.client.host if request.client else ""
        if seconds := tries.begin(address):
            text = f"Too many wrong tries from your address. Try again in {math.ceil(seconds / 60)} minutes."
            return form_again(text, 429, name, **{"Retry-After": str(seconds)})
        try:
            key = sign_in(database, name.strip(), token.strip())
        except UnsavedError as error:
            tries.succeeded(address)
            return form_again(str(error), 503, name, **{"Retry-After": "5"})
        if key is None:
            return form_again("Name or token is wrong.", 403, name)
        tries.succeeded(address)
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            COOKIE,
            key,
            max_age=SESSION_DAYS * 86400,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    @app.post("/sign-out")
    def leave(request: Request) -> Response:
        sign_out(database, request.cookies.get(COOKIE, ""))
        response = RedirectResponse(SIGN_IN_PATH, status_code=303)
        response.delete_cookie(COOKIE)
        return response


def _add_images(app: FastAPI, workflow: Workflow) -> None:
    @app.get("/image/{assignment}/{kind}/{number}")
    def image(request: Request, assignment: int, kind: str, number: int) -> Response:
        return _image(lambda: workflow.image(request.state.annotator, assignment, kind, number))


def _add_tuple_images(app: FastAPI, adjudication: Adjudication) -> None:
    @app.get("/tuple/{place}/{kind}/{number}")
    def image(place: int, kind: str, number: int) -> Response:
        return _image(lambda: adjudication.image(place, kind, number))


def _image(read: Callable[[], tuple[bytes, str]]) -> Response:
    try:
        content, media_type = read()
    except LookupError as error:
        raise HTTPException(404, "There is no such image.") from error
    except ValueError as error:
        raise HTTPException(410, "The image cannot be read.") from error
    return Response(content, media_type=media_type, headers=PRIVATE)


def run_app(app: FastAPI, host: str, port: int) -> None:
    """Serve until interrupted."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # Open pages keep a connection each: they are not waited for.
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)
