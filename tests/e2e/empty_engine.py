"""A Docker Engine that answers, but has no images and cannot pull any."""

import json
import re
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Self

VERSION = {"Version": "27.0.0", "ApiVersion": "1.46", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64"}
ANSWERS: dict[str, tuple[int, object]] = {
    r"/_ping": (200, "OK"),
    r"/version": (200, VERSION),
    r"/info": (200, {"NCPU": 2, "ServerVersion": "27.0.0", "SecurityOptions": [], "CgroupVersion": "2"}),
    r"/images/create": (500, {"message": "the registry cannot be reached"}),
    r"/images/.*/json": (404, {"message": "No such image"}),
    r"/(containers|networks|volumes)(/json)?": (200, []),
}


class EmptyEngine:
    """Listens on a Unix socket."""

    def __init__(self, socket: Path) -> None:
        self.url = f"unix://{socket}"
        self._server = _Server(str(socket), _Answering)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = re.sub(r"^/v[0-9.]+", "", self.path.partition("?")[0])
        found = next((answer for pattern, answer in ANSWERS.items() if re.fullmatch(pattern, path)), None)
        status, content = found or (404, {"message": f"page not found: {path}"})
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Api-Version", "1.46")
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - named by the library

    def address_string(self) -> str:
        return "a Unix socket"

    def log_message(self, *_: object) -> None:
        pass
