"""The files of the status page, read once and served from memory."""

from hashlib import blake2b
from importlib import resources

from aiohttp import web

from .http import Handler, page_answer

__all__ = ["add_page"]

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOR_A_YEAR = "private, max-age=31536000, immutable"


def add_page(app: web.Application) -> None:
    """Serve ``static/index.html`` as ``/``, and the other files as ``/static/TAG/NAME``.

    TAG changes with the content of any file, so that browsers may cache the files for a year.
    """
    folder = resources.files(__package__) / "static"
    if not folder.is_dir():
        return
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir(), key=lambda file: file.name)}
    tag = blake2b(b"".join(files.values()), digest_size=8).hexdigest()
    for name, body in files.items():
        content_type = _TYPES.get(name[name.rfind(".") :])
        if name == "index.html":
            app.router.add_get("/", _file(body.replace(b"/static/", f"/static/{tag}/".encode()), "text/html"))
        elif content_type is not None:
            app.router.add_get(f"/static/{tag}/{name}", _file(body, content_type, _FOR_A_YEAR))


def _file(body: bytes, content_type: str, kept: str = "no-store") -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return page_answer(body, content_type, kept)

    return answer
