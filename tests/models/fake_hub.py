"""As much of the Hugging Face hub as a model needs, over HTTP on this machine: make, list, preupload, commit, download.

What it answers follows the public API that `huggingface_hub` speaks; it keeps everything in memory and remembers what was asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_of_a_tester"


@dataclass
class Repo:
    """One repository: files of its newest commit, and who may see it."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    branches: set[str] = field(default_factory=lambda: {"main"})

    @property
    def commit(self) -> str:
        parts = [name.encode() + hashlib.sha1(content).digest() for name, content in sorted(self.files.items())]
        return hashlib.sha1(b"".join(parts)).hexdigest()


@dataclass
class Hub:
    """Repositories by name, and the requests so far as `METHOD path`."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that answers as long as the block runs."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def _route(self, method: str) -> None:
        path = self.path.split("?")[0]
        self.state.asked.append(f"{method} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, handle in ROUTES:
            if match := re.fullmatch(pattern, path):
                return handle(self, body, *match.groups())
        self._say(404, {"error": f"no route {path}"}, {"X-Error-Code": "RepoNotFound"})

    def _say(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def _knows(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repo(self, name: str) -> Repo | None:
        """The repository if the asker may see it; else the answer is given."""
        repo = self.state.repos.get(name)
        if repo is None or (repo.private and not self._knows):
            self._say(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo

    def create(self, body: bytes) -> None:
        if not self._knows:
            return self._say(401, {"error": "Invalid username or password."})
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        status = 409 if name in self.state.repos else 200
        self.state.repos.setdefault(name, Repo(bool(asked.get("private") or asked.get("visibility") == "private")))
        return self._say(status, {"url": f"{self.state.url}/{name}", "name": name, "id": name})

    def validate(self, body: bytes) -> None:
        """The hub refuses a card whose first lines are no YAML."""
        lines = yaml.safe_load(json.loads(body)["content"].split("---")[1])
        errors = [] if isinstance(lines, dict) and isinstance(lines.get("tags"), list) else [{"message": "no metadata"}]
        self._say(400 if errors else 200, {"errors": errors, "warnings": []})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        if repo := self._repo(name):
            repo.branches.add(branch)
            self._say(200, {})

    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        if repo := self._repo(name):
            if revision not in (None, repo.commit, *repo.branches):
                return self._say(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": file} for file in sorted(repo.files)]
            self._say(200, {"id": name, "modelId": name, "sha": repo.commit, "private": repo.private, "tags": [], "siblings": siblings})
        return None

    def tree(self, body: bytes, name: str, revision: str) -> None:
        if repo := self._repo(name):
            entries = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in sorted(repo.files.items())
            ]
            self._say(200, entries)

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if self._repo(name):
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self._say(200, {"files": files})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if not self._knows:
            return self._say(403, {"error": "Forbidden"})
        if repo := self._repo(name):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    repo.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "deletedFile":
                    del repo.files[line["value"]["path"]]
            url = f"{self.state.url}/{name}/commit/{repo.commit}"
            self._say(200, {"commitUrl": url, "commitOid": repo.commit, "success": True, "hookOutput": "", "pullRequestUrl": None})
        return None

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        if repo := self._repo(name):
            if file not in repo.files:
                return self._say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{hashlib.sha1(repo.files[file]).hexdigest()}"'}
            self._say(200, repo.files[file], headers)
        return None


NAME = r"([^/]+/[^/]+)"
ROUTES: tuple[tuple[str, Any], ...] = (
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate),
    (rf"/api/models/{NAME}/branch/([^/]+)", _Handler.branch),
    (rf"/api/models/{NAME}/revision/([^/]+)", _Handler.info),
    (rf"/api/models/{NAME}/tree/([^/]+)", _Handler.tree),
    (rf"/api/models/{NAME}/preupload/([^/]+)", _Handler.preupload),
    (rf"/api/models/{NAME}/commit/([^/]+)", _Handler.commit),
    (rf"/api/models/{NAME}", _Handler.info),
    (rf"/{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
)
