"""A small Hub for tests: what pushing and loading a dataset or model takes, over HTTP, with everything in memory.

It speaks the calls of `huggingface_hub` to create a repository, to ask how files are to be uploaded (preupload), to
upload them by LFS (batch, upload, verify), to commit, to list (info, tree, paths-info) and to download (resolve, which
redirects to storage for LFS files, and ranges). Writing needs the token, and so does reading a private repository.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_test"
LFS_SUFFIXES = (".parquet", ".png", ".safetensors", ".bin")
REPO = r"(?P<repo>[^/]+/[^/]+)"


@dataclass
class StoredFile:
    """A file of a commit: its git or LFS content."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        content = self.content
        if self.lfs:
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """A dataset, model or Space repository: its commits, newest last."""

    private: bool
    prefix: str = "datasets/"
    commits: list[tuple[str, dict[str, StoredFile]]] = field(default_factory=list)
    branches: dict[str, list[tuple[str, dict[str, StoredFile]]]] = field(default_factory=dict)  # beside main
    variables: dict[str, str] = field(default_factory=dict)  # of a Space

    def commit(self, files: dict[str, StoredFile], message: str, branch: str = "main") -> str:
        commits = self.branches.get(branch, self.commits)
        oid = hashlib.sha1(f"{branch} {len(commits)} {message}".encode()).hexdigest()
        commits.append((oid, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, StoredFile]] | None:
        if revision in ("main", *self.branches):
            return self.branches.get(revision, self.commits)[-1]
        commits = [commit for branch in (self.commits, *self.branches.values()) for commit in branch]
        return next(((oid, files) for oid, files in commits if oid == revision), None)


class Hub(ThreadingHTTPServer):
    """The server; a context manager that serves in a thread.

    Attributes:
        repositories: by id.
        objects: LFS storage by SHA-256.
        log: "METHOD path" of every request, in order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage(self) -> str:
        """Where LFS objects are: another host, as for the Hub, whose clients don't follow a HEAD there."""
        return f"http://localhost:{self.server_port}/storage"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def handle_request(self) -> None:
        self.body = self.read_body()
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.query = parse_qs(url.query)
        self.server.log.append(f"{self.command} {path}")
        for method, pattern, handler, writes in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                if writes and not self.is_authorized():
                    return self.error(401, "Unauthorized", "Invalid username or password.")
                return handler(self, **match.groupdict())
        return self.error(404, "NotFound", f"no route for {self.command} {path}")

    def is_authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str, message: str) -> None:
        self.answer({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def revision(self, repo: str, revision: str) -> tuple[str, dict[str, StoredFile]] | None:
        """Commit id and files, or None after an error was sent."""
        if repo not in self.server.repositories:
            self.error(404, "RepoNotFound", "Repository not found")
            return None
        if self.server.repositories[repo].private and not self.is_authorized():
            self.error(401, "RepoNotFound", "Invalid username or password.")
            return None
        found = self.server.repositories[repo].at(revision)
        if found is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        prefixes = {"dataset": "datasets/", "model": "", "space": "spaces/"}
        prefix = prefixes[asked.get("type", "model")]
        url = f"{self.server.endpoint}/{prefix}{repo}"
        if repo in self.server.repositories:
            return self.answer({"error": "You already created this repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[repo] = Repository(private, prefix)
        self.server.repositories[repo].commit(
            {".gitattributes": StoredFile(b"*.parquet filter=lfs\n", False)}, "initial"
        )
        return self.answer({"url": url, "name": repo})

    def validate_yaml(self) -> None:
        text = json.loads(self.body)["content"]
        errors = [] if text.startswith("---\n") else [{"message": "no front matter"}]
        self.answer({"errors": errors, "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if self.revision(repo, revision) is None:
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer({"files": files})

    def lfs_batch(self, repo: str) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            found = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.objects:
                upload = {"href": f"{self.server.storage}/{asked['oid']}", "header": {}}
                verify = {"href": f"{self.server.endpoint}/{repo}/verify", "header": {}}
                found["actions"] = {"upload": upload, "verify": verify}
            objects.append(found)
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "BadDigest", "content does not match its id")
        self.server.objects[oid] = self.body
        return self.answer(b"")

    def verify(self, repo: str) -> None:
        asked = json.loads(self.body)
        if len(self.server.objects.get(asked["oid"], b"")) != asked["size"]:
            return self.error(404, "NotUploaded", "object is not there")
        return self.answer({})

    def commit(self, repo: str, revision: str) -> None:
        found = self.revision(repo, revision)
        if found is None:
            return
        files, message = dict(found[1]), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), False)
            elif entry["key"] == "lfsFile":
                if len(self.server.objects.get(value["oid"], b"")) != value["size"]:
                    return self.error(400, "NotUploaded", f"LFS object of {value['path']} is not there")
                files[value["path"]] = StoredFile(self.server.objects[value["oid"]], True)
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self.error(400, "BadRequest", f"unknown operation {entry['key']}")
        oid = self.server.repositories[repo].commit(files, message, revision)
        url = f"{self.server.endpoint}/{self.server.repositories[repo].prefix}{repo}/commit/{oid}"
        return self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def branch(self, repo: str, branch: str) -> None:
        found = self.server.repositories[repo]
        if branch in found.branches:
            return self.error(409, "Conflict", "Reference already exists")
        found.branches[branch] = [found.commits[-1]]
        return self.answer({})

    def variable(self, repo: str) -> None:
        asked = json.loads(self.body)
        self.server.repositories[repo].variables[asked["key"]] = asked["value"]
        self.answer({name: {"value": value} for name, value in self.server.repositories[repo].variables.items()})

    def info(self, repo: str, revision: str = "main") -> None:
        found = self.revision(repo, revision)
        if found is not None:
            date = "2026-01-01T00:00:00.000Z"
            self.answer(
                {
                    "_id": "0",
                    "id": repo,
                    "author": repo.split("/")[0],
                    "sha": found[0],
                    "lastModified": date,
                    "createdAt": date,
                    "private": self.server.repositories[repo].private,
                    "gated": False,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "siblings": [{"rfilename": path} for path in sorted(found[1])],
                }
            )

    def entries(self, files: dict[str, StoredFile]) -> dict[str, dict]:
        """Files and folders as the listing calls give them."""
        entries: dict[str, dict] = {}
        for path, file in sorted(files.items()):
            parts = path.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            entries[path] = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id}
            if file.lfs:
                entries[path]["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
        return entries

    def tree(self, repo: str, revision: str, folder: str | None = None) -> None:
        found = self.revision(repo, revision)
        if found is None:
            return
        entries = self.entries(found[1])
        if folder and folder not in entries:
            return self.error(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        prefix = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        listed = [
            entry
            for path, entry in entries.items()
            if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])
        ]
        return self.answer(listed)

    def paths_info(self, repo: str, revision: str) -> None:
        found = self.revision(repo, revision)
        if found is not None:
            if "json" in (self.headers.get("Content-Type") or ""):
                paths = json.loads(self.body)["paths"]
            else:
                paths = parse_qs(self.body.decode())["paths"]
            entries = self.entries(found[1])
            self.answer([entries[path] for path in paths if path in entries])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self.revision(repo, revision)
        if found is None:
            return
        oid, files = found
        if path not in files:
            return self.error(404, "EntryNotFound", "Entry not found")
        file = files[path]
        headers = {"X_Repo_Commit": oid, "Accept_Ranges": "bytes"}
        if file.lfs:
            headers |= {"X_Linked_Size": str(len(file.content)), "X_Linked_Etag": f'"{file.sha256}"'}
            return self.answer(b"", 302, Location=f"{self.server.storage}/{file.sha256}", **headers)
        return self.content(file.content, ETag=f'"{file.blob_id}"', **headers)

    def storage(self, oid: str) -> None:
        if oid not in self.server.objects:
            return self.error(404, "NotFound", "no such object")
        return self.content(self.server.objects[oid], ETag=f'"{oid}"', Accept_Ranges="bytes")

    def content(self, content: bytes, **headers: str) -> None:
        """All of it, or the range asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.answer(content, **headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        headers["Content_Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.answer(content[start : end + 1], 206, **headers)


API = f"/api/(?:datasets|models|spaces)/{REPO}"
REVISION = "(?P<revision>[^/]+)"
# Methods, path, handler, and whether it needs the token.
ROUTES = [
    ("POST", "/api/repos/create", Handler.create, True),
    ("POST", "/api/validate-yaml", Handler.validate_yaml, False),
    ("POST", f"{API}/preupload/{REVISION}", Handler.preupload, True),
    ("POST", f"(?:/datasets|/spaces)?/{REPO}.git/info/lfs/objects/batch", Handler.lfs_batch, True),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})", Handler.store, False),  # the address itself is the permission
    ("POST", f"/{REPO}/verify", Handler.verify, True),
    ("POST", f"{API}/commit/{REVISION}", Handler.commit, True),
    ("POST", f"{API}/branch/(?P<branch>[^/]+)", Handler.branch, True),
    ("POST", f"{API}/variables", Handler.variable, True),
    ("GET", API, Handler.info, False),
    ("GET", f"{API}/revision/{REVISION}", Handler.info, False),
    ("GET", f"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.tree, False),
    ("POST", f"{API}/paths-info/{REVISION}", Handler.paths_info, False),
    ("GET HEAD", f"(?:/datasets|/spaces)?/{REPO}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve, False),
    ("GET HEAD", "/storage/(?P<oid>[0-9a-f]{64})", Handler.storage, False),
]


def run_with_hub(hub: Hub, tmp_path: Path, code: str, *arguments: object, token: str = TOKEN):
    """Run Python code in a process whose Hub is this one, since `huggingface_hub` reads its settings once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf_home"),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
