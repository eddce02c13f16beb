"""What is mounted in Airflow's API server: the file of the tab on DAG runs' pages, and the documentation.

Both are given to whoever asks: they are the same in every installation of one version, and tell nothing of this one but
that, and whether tracking is switched off.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tracklayer_airflow.tab import FILE

if TYPE_CHECKING:
    from fastapi import FastAPI


def application(*, is_on: bool) -> FastAPI:
    """The application.

    Args:
        is_on: whether tracking is on; where it is not, there is the documentation alone.
    """
    from fastapi import FastAPI

    app = FastAPI(title="tracklayer", openapi_url=None)
    if is_on:
        _add_tab(app)
    _add_documentation(app, is_on=is_on)
    return app


def _add_tab(app: FastAPI) -> None:
    from fastapi.responses import Response

    content = files("tracklayer_airflow").joinpath("pages", FILE).read_bytes()

    @app.get(f"/{FILE}")
    def component() -> Any:
        headers = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
        return Response(content, media_type="text/javascript", headers=headers)


def _add_documentation(app: FastAPI, *, is_on: bool) -> None:
    from fastapi.responses import HTMLResponse

    def shown(name: str) -> Any:
        # Made when somebody asks: it costs the start of the API server nothing, and cannot keep it from starting.
        from tracklayer_airflow.documentation import HEADERS, PAGES, page

        if name not in PAGES:
            return HTMLResponse("There is no such page.", status_code=404, headers=HEADERS)
        return HTMLResponse(page(name, is_on=is_on), headers=HEADERS)

    @app.get("/docs/")
    def overview() -> Any:
        return shown("")

    @app.get("/docs/{name}")
    def other(name: str) -> Any:
        return shown(name)
