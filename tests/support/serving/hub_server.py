"""A server on a loopback port that behaves like Hugging Face and like ModelScope: listings, ranges, refusals.

Files are served by a second host, as both hubs do: the first redirects to it. What goes wrong is set per test:
`cut_after` (bytes after which a connection breaks off), `stall_after` (after which nothing more comes), `refusals`
(answers before the right one), `damaged` (paths that come with other bytes), `ignore_ranges`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Bytes from which a file is one of LFS: its SHA-256 is listed; the others have that of their Git blob."""


@dataclass
class Refusal:
    """An answer other than the right one."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


@dataclass
class Repository:
    """A repository of the server."""

    files: dict[str, bytes]
    kind: str = "model"
    branch: str = "main"


@dataclass
class Seen:
    """A request: which host, its path, its range, and the headers that may carry a token."""

    host: str
    path: str
    range: str
    secrets: str


class HubServer:
    """Both hubs on one port, their store of files on another."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.refusals: dict[str, list[Refusal]] = {}
        self.cut_after: list[int] = []
        self.damaged: set[str] = set()
        self.ignore_ranges = False
        self.stall_after: int | None = None
        self._closing = threading.Event()
        self.gated = False
        self.token = ""
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._servers = [self._start("hub"), self._start("store")]
        self.url, self.store_url = (f"http://127.0.0.1:{server.server_port}" for server, _ in self._servers)

    def _start(self, name: str) -> tuple[ThreadingHTTPServer, threading.Thread]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two packets, of which the second would wait 40 ms

            def do_GET(self) -> None:
                secrets = " ".join(self.headers.get(key, "") for key in ("Authorization", "Cookie"))
                hub.seen.append(Seen(name, self.path, self.headers.get("Range", ""), secrets))
                (hub.answer_hub if name == "hub" else hub.answer_store)(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        return server, thread

    def close(self) -> None:
        self._closing.set()
        for server, thread in self._servers:
            server.shutdown()
            server.server_close()
            thread.join()

    # --- what tests ask of it -----------------------------------------------------------------------------------------

    def file_requests(self) -> list[Seen]:
        """The requests that reached the store of files."""
        return [one for one in self.seen if one.host == "store"]

    def refuse(self, part: str, *refusals: Refusal) -> None:
        """Answer the next requests whose path holds `part` so."""
        self.refusals[part] = list(refusals)

    # --- answers ------------------------------------------------------------------------------------------------------

    def answer_hub(self, request: BaseHTTPRequestHandler) -> None:
        refusal = self._next_refusal(request.path)
        if refusal is not None:
            self._send(request, refusal.status, refusal.body, refusal.headers)
            return
        parts = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/api/v1/"):
            self._answer_modelscope(request, unquote(parts.path), query)
        else:
            self._answer_hugging_face(request, unquote(parts.path), query)

    def _next_refusal(self, path: str) -> Refusal | None:
        with self._lock:
            for part, waiting in self.refusals.items():
                if part in unquote(path) and waiting:
                    return waiting.pop(0)
        return None

    def _answer_hugging_face(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        is_api = path.startswith("/api/")
        words = path.removeprefix("/api").strip("/").split("/")
        kind = "dataset" if words[0] == "datasets" else "model"
        words = words[1:] if words[0] in ("models", "datasets") else words
        name = "/".join(words[:2])
        repository = self.repositories.get(name)
        if repository is None or repository.kind != kind:
            status = 404 if self.token else 401  # who has no token is told nothing of private ones
            self._send(request, status, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        rest = words[2:]
        if is_api and rest[:1] == ["revision"]:
            if rest[1] not in (repository.branch, COMMIT, COMMIT[:7]):
                self._send(request, 404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
            else:
                self._send(request, 200, {"id": name, "sha": COMMIT, "siblings": []})
        elif is_api and rest[:1] == ["tree"]:
            self._send_tree(request, name, repository, int(query.get("cursor", "0")))
        elif rest[:1] == ["resolve"] and "/".join(rest[2:]) in repository.files:
            if self.gated and f"Bearer {self.token}" not in request.headers.get("Authorization", ""):
                status = 403 if request.headers.get("Authorization") else 401
                self._send(request, status, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
                return
            file = "/".join(rest[2:])
            data = repository.files[file]
            headers = {
                "Location": f"{self.store_url}/{quote(name)}/{quote(file)}?signature=s3cret",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{_digest_of(data)}"',
                "ETag": f'"{_digest_of(data)}"',
            }
            self._send(request, 302, {}, headers)
        else:
            self._send(request, 404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})

    def _send_tree(self, request: BaseHTTPRequestHandler, name: str, repository: Repository, start: int) -> None:
        rows: list[dict[str, Any]] = []
        for path, data in repository.files.items():
            row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_digest(data)}
            if len(data) >= LARGE:
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            rows.append(row)
        folders = {path.rpartition("/")[0] for path in repository.files if "/" in path}
        rows += [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)]
        page = rows[start : start + 3]  # small pages, so that there are some
        headers = {}
        if start + 3 < len(rows):  # a mirror may name the hub itself here
            after = (
                f"https://huggingface.co/api/{repository.kind}s/{name}/tree/{COMMIT}?recursive=true&cursor={start + 3}"
            )
            headers["Link"] = f'<{after}>; rel="next"'
        self._send(request, 200, page, headers)

    def _answer_modelscope(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        kind, name = path.split("/")[3].removesuffix("s"), "/".join(path.split("/")[4:6])
        rest = "/".join(path.split("/")[6:])
        repository = self.repositories.get(name)
        if repository is None or repository.kind != kind:
            self._send(request, 404, {"Code": 10010205001, "Message": "record not found", "Success": False})
        elif rest == "commits":
            found = query["Ref"] in (repository.branch, COMMIT, COMMIT[:7])
            commits = [{"Id": COMMIT, "ShortId": COMMIT[:8], "Title": "files"}] if found else []
            self._send(request, 200, {"Code": 200, "Data": {"Commit": commits}, "Success": True, "TotalCount": 1})
        elif rest in ("repo/files", "repo/tree"):
            self._send(request, 200, {"Code": 200, "Data": {"Files": self._list_entries(repository, query)}})
        elif rest == "repo" and query["FilePath"] in repository.files:
            if self.gated and f"Bearer {self.token}" not in request.headers.get("Authorization", ""):
                self._send(request, 403, {"Code": 10010203002, "Message": "no permission", "Success": False})
                return
            location = f"{self.store_url}/{quote(name)}/{quote(query['FilePath'])}?Signature=s3cret"
            self._send(request, 302, {}, {"Location": location})
        else:
            self._send(request, 404, {"Code": 404, "Message": "no such file", "Success": False})

    def _list_entries(self, repository: Repository, query: dict[str, str]) -> list[dict[str, Any]]:
        root = query.get("Root", "").strip("/")
        deep = query.get("Recursive") == "True"
        entries: dict[str, dict[str, Any]] = {}
        for path, data in repository.files.items():
            if root and not path.startswith(root + "/"):
                continue
            inside = path[len(root) + 1 :] if root else path
            for depth in range(1, inside.count("/") + 1):
                folder = "/".join([*([root] if root else []), *inside.split("/")[:depth]])
                if deep or depth == 1:
                    entries[folder] = {"Path": folder, "Name": folder, "Type": "tree", "Size": 0, "Sha256": ""}
            if deep or "/" not in inside:
                digest = hashlib.sha256(data).hexdigest()
                row = {"Path": path, "Name": path, "Type": "blob", "Size": len(data), "Sha256": digest}
                entries[path] = {**row, "Revision": COMMIT, "IsLFS": len(data) >= LARGE}
        rows = list(entries.values())
        if "PageNumber" in query:
            size = int(query["PageSize"])
            start = (int(query["PageNumber"]) - 1) * size
            return rows[start : start + size]
        return rows[:3000]

    def answer_store(self, request: BaseHTTPRequestHandler) -> None:
        refusal = self._next_refusal(request.path)
        if refusal is not None:
            self._send(request, refusal.status, refusal.body, refusal.headers)
            return
        owner, name, file = unquote(urlsplit(request.path).path).strip("/").split("/", 2)
        data = self.repositories[f"{owner}/{name}"].files[file]
        if file in self.damaged:
            data = bytes(byte ^ 1 for byte in data)
        start = 0
        asked = request.headers.get("Range", "")
        if asked and not self.ignore_ranges:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                self._send(request, 416, {}, {"Content-Range": f"bytes */{len(data)}"})
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(data) - start))
        request.send_header("Content-Type", "text/plain; charset=utf-8")
        request.end_headers()
        with self._lock:
            cut = self.cut_after.pop(0) if self.cut_after and len(data) >= LARGE else None
        if request.command == "HEAD":
            return
        if self.stall_after is not None and len(data) >= LARGE:
            cut, self.stall_after = self.stall_after, None
            request.wfile.write(data[start : start + cut])
            self._closing.wait(60)
            return
        request.wfile.write(data[start:] if cut is None else data[start : start + cut])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, row: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(row).encode()
        request.send_response(status)
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)


def _git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\x00" % len(data) + data).hexdigest()


def _digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) >= LARGE else _git_digest(data)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A server for the time of a block."""
    server = HubServer()
    try:
        yield server
    finally:
        server.close()
