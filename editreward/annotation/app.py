"""The annotation app as a web server: sign-in, images out of the dataset, and the Gradio page.

Everything but the sign-in form asks for a session. Of Gradio's own addresses only those are let through that its page
needs: none of those that read files, take uploads, or fetch from elsewhere.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import gradio as gr
import uvicorn
from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from editreward.annotation.adjudication import Adjudication
from editreward.annotation.adjudication_blocks import adjudication_blocks
from editreward.annotation.database import Database
from editreward.annotation.pages import sign_in_page
from editreward.annotation.people import SESSION_DAYS, sign_in, sign_out, signed_in
from editreward.annotation.rating_blocks import rating_blocks
from editreward.annotation.workflow import Workflow
from editreward.groups.protocol import Protocol

COOKIE = "editreward-annotate"
STATIC = Path(__file__).with_name("static")

SIGN_IN_PATH = "/sign-in"

OWN_PATHS = re.compile(r"/|/sign-out|/image/\d+/\w+/\d+|/tuple/\d+/\w+/\d+")

GRADIO_PATHS = re.compile(
    r"/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)/.*"
    r"|/gradio_api/(info|app_id|startup-events|theme\.css|login_check|cancel|reset)/?"
    r"|/gradio_api/queue/(join|data)|/gradio_api/heartbeat/\w+"
)
"""What Gradio's page asks for, assets of Gradio itself included."""

HEADERS = {
    b"content-security-policy": b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    b"frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}
"""The page loads nothing from elsewhere and is shown in no other page."""

PRIVATE = {"Cache-Control": "private, max-age=3600"}


class SignedInOnly:
    """Lets requests through that belong to a session and ask for a known address; notes whose they are.

    Args:
        app: what is protected.
        annotator_of: the annotator's name for a session key, None for a wrong one.
    """

    def __init__(self, app: ASGIApp, annotator_of: Callable[[str], str | None]) -> None:
        self.app, self.annotator_of = app, annotator_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        response = await self._refusal(scope)
        await (response or self.app)(scope, receive, send_with_headers)

    async def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"]
        if path == SIGN_IN_PATH and scope["type"] == "http":
            return None
        key = HTTPConnection(scope).cookies.get(COOKIE, "")
        annotator = await run_in_threadpool(self.annotator_of, key) if key else None
        if scope["type"] != "http":
            return Response(status_code=403)
        if annotator is None:
            if path == "/" and scope["method"] == "GET":
                return RedirectResponse(SIGN_IN_PATH, status_code=303)
            return JSONResponse({"detail": "Sign in first."}, status_code=401)
        if not (OWN_PATHS.fullmatch(path) or GRADIO_PATHS.fullmatch(path)) or ".." in path:
            return JSONResponse({"detail": "There is nothing here."}, status_code=404)
        scope.setdefault("state", {})["annotator"] = annotator
        return None


def build_app(database: Database, protocol: Protocol, activity: Workflow | Adjudication) -> FastAPI:
    """The whole app.

    Args:
        database: who may sign in, and what they did.
        protocol: what is asked.
        activity: what annotators do.
    """
    app = FastAPI(openapi_url=None)
    app.add_middleware(SignedInOnly, annotator_of=lambda key: signed_in(database, key))
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


def _add_sign_in(app: FastAPI, database: Database) -> None:
    @app.get(SIGN_IN_PATH)
    def form() -> HTMLResponse:
        return HTMLResponse(sign_in_page(wrong=False), headers={"Cache-Control": "no-store"})

    @app.post(SIGN_IN_PATH)
    def enter(
        request: Request,
        name: Annotated[str, Form(max_length=200)] = "",
        token: Annotated[str, Form(max_length=200)] = "",
    ) -> Response:
        key = sign_in(database, name.strip(), token.strip())
        if key is None:
            return HTMLResponse(sign_in_page(wrong=True), status_code=403, headers={"Cache-Control": "no-store"})
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
