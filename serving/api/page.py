"""The web page: plain files beside the endpoint, which they call as any client does.

Browsers are told to load nothing but these files and to run no other script. The page is public, because a token is
typed into it; the videos that it shows are not.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent.parent / "page"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # or files of a new version would be mixed with old ones
}


class PageFiles(StaticFiles):
    """The page's files, with what a browser may do with them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file or a refusal."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Shows the page at /page/, redirects the server's root to it, and /docs to the endpoint's description."""

    @app.get("/", include_in_schema=False)
    def front() -> RedirectResponse:
        return RedirectResponse("page/", headers=HEADERS)

    @app.get("/docs", include_in_schema=False)
    def docs() -> RedirectResponse:
        return RedirectResponse("page/docs.html", headers=HEADERS)

    app.mount("/page", PageFiles(directory=FOLDER, html=True), name="page")
