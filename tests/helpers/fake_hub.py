"""The few pages of the Hugging Face hub that an upload of small files needs, and the download of models."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

COMMIT = "1" * 40


class Pages(BaseHTTPRequestHandler):
    """The requests to one hub."""

    hub: "FakeHub"

    def do_HEAD(self) -> None:
        self.file(with_body=False)

    def do_GET(self) -> None:
        """An upload reads nothing of its repository; the client asks once a day for a public list of its own."""
        owner, name, *_ = [*self.path.removeprefix("/api/models/").strip("/").split("/"), ""]
        if self.path.startswith("/api/models/") and f"{owner}/{name}" in self.hub.models:
            files = [{"rfilename": path} for path in self.hub.models[f"{owner}/{name}"]]
            self.answer({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": files})
        else:
            self.file(with_body=True)

    def file(self, with_body: bool) -> None:
        repo, _, rest = self.path.strip("/").partition("/resolve/")
        path = rest.partition("/")[2]
        data = self.hub.models.get(repo, {}).get(path)
        if data is None:
            self.send_response(404)
            self.send_header("x-error-code", "EntryNotFound" if repo in self.hub.models else "RepoNotFound")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(200)
        headers = {"etag": f'"{hashlib.sha256(data).hexdigest()}"', "x-repo-commit": COMMIT, "content-length": len(data)}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if with_body:
            self.hub.taken.append(f"{repo}/{path}")
            self.wfile.write(data)

    def do_POST(self) -> None:
        self.hub.tokens.add(self.headers["authorization"])
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.answer(self.hub.posted(self.path, body))

    def answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Tests are quiet."""


class FakeHub:
    """Remembers what was created and what was uploaded; takes every file the plain way, without large-file storage."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        """What came as `authorization` with each request that writes."""
        self.models: dict[str, dict[str, bytes]] = {}
        """Files of the repositories that it has, by path."""
        self.taken: list[str] = []
        """Each file that was downloaded, as OWNER/NAME/PATH."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnPages", (Pages,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def posted(self, path: str, body: bytes) -> Any:
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.address}/me/tiny", "id": "1"}
        if "/preupload/" in path:
            return {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
                ]
            }
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.address}/me/tiny/commit/{'1' * 40}", "commitOid": "1" * 40}
        return {}

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()
