"""A Hub on this machine: the part of its HTTP interface that publishing and loading use."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER, TOKEN = "me", "hf_a_secret_that_nobody_prints"
LARGE = (".safetensors", ".bin")


@dataclass
class Repository:
    private: bool = False
    commits: list = field(default_factory=lambda: [("0" * 40, {})])  # (id, {path: blob's id})

    def commit(self, tree):
        text = json.dumps([len(self.commits), sorted(tree.items())])
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), tree))
        return self.commits[-1][0]

    def at(self, revision):
        named = [commit for commit in self.commits if commit[0] == revision]
        return self.commits[-1] if revision in (None, "main") else (named or [None])[0]


class HubServer(ThreadingHTTPServer):
    """
    Serves while its `with` block runs.

    `repositories` and `log` may be read, `refusals` set: the statuses of the next commits.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.blobs, self.log, self.refusals = {}, {}, [], []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return super().__enter__()

    def __exit__(self, *error):
        self.shutdown()
        super().__exit__(*error)

    def environment(self, home):
        """What a process that talks to this Hub has in its environment."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
            "NO_PROXY": "*",
            "OMP_NUM_THREADS": "1",
        }

    def files(self, repo_id):
        """The last commit's contents by path."""
        _, tree = self.repositories[repo_id].commits[-1]
        return {path: self.blobs[blob] for path, blob in tree.items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        self.server.log.append((self.command, path))
        for pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                return function(self, *match.groups())
        return self.send(404, {"error": f"{self.command} {path} is not spoken here"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, code, **headers):
        self.send(401 if code == "RepoNotFound" else 404, X_Error_Code=code, **headers)

    def authorized(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def visible(self, repo_id):
        repository = self.server.repositories.get(repo_id)
        hidden = repository is None or (repository.private and not self.authorized())
        return None if hidden else repository

    def log_message(self, *_):
        pass


def who_am_i(request):
    request.send(200, {"type": "user", "name": USER, "orgs": []})


def create(request):
    if not request.authorized():
        return request.send(401, {"error": "Invalid username or password."})
    asked = json.loads(request.content)
    repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
    url = {"url": f"{request.server.address}/{repo_id}"}
    if repo_id in request.server.repositories:
        return request.send(409, url | {"error": "You already created this model repo"})
    private = asked.get("private") or asked.get("visibility") == "private"
    request.server.repositories[repo_id] = Repository(bool(private))
    return request.send(200, url)


def validate_card(request):
    request.send(200, {"errors": [], "warnings": []})


def preupload(request, repo_id, _):
    def mode(path):
        return "lfs" if path.endswith(LARGE) else "regular"

    files = [
        {"path": file["path"], "uploadMode": mode(file["path"]), "shouldIgnore": False}
        for file in json.loads(request.content)["files"]
    ]
    request.send(200, {"files": files})


def large_files(request, _):
    objects = []
    for wanted in json.loads(request.content)["objects"]:
        there = wanted["oid"] in request.server.blobs
        upload = {"upload": {"href": f"{request.server.address}/large/{wanted['oid']}"}}
        objects.append({**wanted, **({} if there else {"actions": upload})})
    request.send(200, {"transfer": "basic", "objects": objects})


def receive_large(request, sha256):
    if hashlib.sha256(request.content).hexdigest() != sha256:
        return request.send(400)
    request.server.blobs[sha256] = request.content
    return request.send(200)


def commit(request, repo_id, _):
    if request.server.refusals:
        return request.send(request.server.refusals.pop(0), {"error": "not now"})
    repository = request.server.repositories[repo_id]
    tree = dict(repository.commits[-1][1])
    for line in map(json.loads, request.content.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            content = base64.b64decode(value["content"])
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            request.server.blobs[blob] = content
            tree[value["path"]] = blob
        elif line["key"] == "lfsFile":
            tree[value["path"]] = value["oid"]
    oid = repository.commit(tree)
    url = f"{request.server.address}/{repo_id}/commit/{oid}"
    return request.send(200, {"success": True, "commitOid": oid, "commitUrl": url})


def information(request, repo_id, revision=None):
    repository = request.visible(repo_id)
    if repository is None or repository.at(revision) is None:
        return request.refuse("RepoNotFound" if repository is None else "RevisionNotFound")
    oid, tree = repository.at(revision)
    siblings = [{"rfilename": path} for path in tree]
    known = {"id": repo_id, "sha": oid, "private": repository.private, "siblings": siblings}
    return request.send(200, known)


def listing(request, repo_id, revision, folder=None):
    repository = request.visible(repo_id)
    if repository is None or repository.at(revision) is None:
        return request.refuse("RepoNotFound" if repository is None else "RevisionNotFound")
    found = [
        {"type": "file", "path": path, "oid": blob, "size": len(request.server.blobs[blob])}
        for path, blob in repository.at(revision)[1].items()
        if path.startswith(folder or "")
    ]
    return request.send(200, found) if found else request.refuse("EntryNotFound")


def resolve(request, repo_id, revision, path):
    repository = request.visible(repo_id)
    if repository is None or repository.at(revision) is None:
        return request.refuse("RepoNotFound" if repository is None else "RevisionNotFound")
    oid, tree = repository.at(revision)
    if path not in tree:
        return request.refuse("EntryNotFound", X_Repo_Commit=oid)
    etag = f'"{tree[path]}"'
    return request.send(200, request.server.blobs[tree[path]], X_Repo_Commit=oid, ETag=etag)


REPOSITORY = r"([^/]+/[^/]+)"
ROUTES = [
    (r"/api/whoami-v2", who_am_i),
    (r"/api/repos/create", create),
    (r"/api/validate-yaml", validate_card),
    (rf"/api/models/{REPOSITORY}/preupload/(.+)", preupload),
    (rf"/{REPOSITORY}\.git/info/lfs/objects/batch", large_files),
    (r"/large/([0-9a-f]{64})", receive_large),
    (rf"/api/models/{REPOSITORY}/commit/(.+)", commit),
    (rf"/api/models/{REPOSITORY}", information),
    (rf"/api/models/{REPOSITORY}/revision/([^/]+)", information),
    (rf"/api/models/{REPOSITORY}/tree/([^/]+)", listing),
    (rf"/api/models/{REPOSITORY}/tree/([^/]+)/(.+)", listing),
    (rf"/{REPOSITORY}/resolve/([^/]+)/(.+)", resolve),
]
