"""A Hub on this machine for the real client: repositories of files in memory, read over HTTP."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


class SmallHub:
    """
    Serves folders as repositories, each with its revisions, for `HF_ENDPOINT`.

    `broken` names endings of files whose download breaks off in the middle; `requests` are the paths asked for.
    """

    def __init__(self):
        self.commits: dict[str, dict[str, bytes]] = {}  # files by `repository@commit`
        self.revisions: dict[str, str] = {}  # commits by `repository@revision`
        self.broken: tuple[str, ...] = ()
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def publish(self, folder: Path, repository: str, revision: str = "main") -> str:
        """Publish the files of a folder as a revision of a repository; returns its commit."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        digest = hashlib.sha1()
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        commit = digest.hexdigest()
        self.commits[f"{repository}@{commit}"] = files
        self.revisions[f"{repository}@{revision}"] = self.revisions[f"{repository}@{commit}"] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: SmallHub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self.describe(match[1], match[2], match[3] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.download(match[1], match[2], match[3])
        else:
            self.refuse("NotFound")

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.hub.revisions.get(f"{repository}@{revision}")
        if commit is None:
            known = any(name.startswith(f"{repository}@") for name in self.hub.revisions)
            self.refuse("RevisionNotFound" if known else "RepoNotFound")
            return None
        return commit, self.hub.commits[f"{repository}@{commit}"]

    def describe(self, repository: str, what: str | None, revision: str):
        if found := self.find(repository, revision):
            commit, files = found
            tree = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": _oid(files[name])} for name in files
            ]
            siblings = [{"rfilename": name} for name in files]
            answer = tree if what == "tree" else {"id": repository, "sha": commit, "siblings": siblings}
            self.send(200, json.dumps(answer).encode())

    def download(self, repository: str, revision: str, name: str):
        if not (found := self.find(repository, revision)):
            return
        commit, files = found
        if name not in files:
            self.refuse("EntryNotFound", {"X-Repo-Commit": commit})
            return
        breaks_off = name.endswith(self.hub.broken) if self.hub.broken else False
        self.send(200, files[name], {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": commit}, breaks_off)

    def refuse(self, code: str, headers: dict[str, str] | None = None):
        self.send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, breaks_off: bool = False):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if breaks_off else body)
            self.close_connection = self.close_connection or breaks_off


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
