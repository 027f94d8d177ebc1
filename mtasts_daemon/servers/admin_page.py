"""The status page's files, read once and served from memory."""

from importlib import resources

from aiohttp import web

from .admin_http import Handler, page_answer

__all__ = ["add_page"]

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def add_page(app: web.Application) -> None:
    """Serve ``static/index.html`` as ``/``, and the other files beside it as ``/static/NAME``."""
    folder = resources.files(__package__) / "static"
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        content_type = _TYPES.get(file.name[file.name.rfind(".") :])
        if content_type is not None:
            path = "/" if file.name == "index.html" else f"/static/{file.name}"
            app.router.add_get(path, _file(file.read_bytes(), content_type))


def _file(body: bytes, content_type: str) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return page_answer(body, content_type)

    return answer
