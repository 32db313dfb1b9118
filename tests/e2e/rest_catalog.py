"""An Iceberg REST catalog as the specification has it, over a local folder, with PyIceberg's own idea of requirements and
updates; and what goes wrong on the way to one.

Owns: the protocol (config, namespaces, tables, commits), proof (OAuth2, bearer, Amazon's signature, Google's metadata server),
faults on demand. Does not own: who uses it.
"""

import contextlib
import hashlib
import hmac
import json
import re
import socket
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pyiceberg.catalog.rest import CreateTableRequest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.table import CommitTableRequest
from pyiceberg.table.metadata import TableMetadataUtil, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import update_table_metadata

PREFIX = "lakes%2Fmain"


class RestCatalog:
    """A catalog at a fixed port, which can be stopped and started with all that it keeps."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder, self.lock = folder, threading.RLock()
        self.namespaces: set[str] = set()
        self.tables: dict[tuple[str, str], Path] = {}
        self.requests: list[tuple[str, str]] = []
        self.server: ThreadingHTTPServer | None = None
        self.connections: set[socket.socket] = set()
        self.port = 0
        # A fault takes a commit's handler and a function that makes the commit; it answers, or not.
        self.fault = None
        self.check = lambda handler: None
        self.config_of_tables: dict[str, str] = {}
        self.client: tuple[str, str] | None = None
        self.token_seconds = 3600
        self.tokens: dict[str, float] = {}

    # --- life

    def start(self) -> "RestCatalog":
        catalog = self

        connections = self.connections = set()

        class Handler(CatalogHandler):
            owner = catalog

            def setup(self):
                connections.add(self.request)
                super().setup()

            def finish(self):
                connections.discard(self.request)
                super().finish()

        class Server(ThreadingHTTPServer):
            daemon_threads, allow_reuse_address = True, True

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
            # Those that are kept alive, too.
            for connection in list(self.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- the table

    def location(self, namespace: str = "product", name: str = "events") -> Path:
        return self.folder / namespace / name

    def metadata(self, key: tuple[str, str] = ("product", "events")) -> dict:
        return json.loads(self.tables[key].read_text())

    def write(self, key: tuple[str, str], metadata: dict):
        number = int(self.tables[key].name.split("-")[0]) + 1 if key in self.tables else 0
        folder = self.location(*key) / "metadata"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:05}-{uuid.uuid4()}.metadata.json"
        path.write_text(json.dumps(metadata))
        self.tables[key] = path

    def loaded(self, key: tuple[str, str], config: dict | None = None) -> dict:
        return {"metadata-location": f"file://{self.tables[key]}", "metadata": self.metadata(key), "config": config or {}}

    def create(self, namespace: str, body: dict) -> tuple[int, dict]:
        asked = CreateTableRequest.model_validate({"location": None, **body})
        key = (namespace, asked.name)
        with self.lock:
            if namespace not in self.namespaces:
                return refusal(404, "NoSuchNamespaceException", f"namespace {namespace} does not exist")
            if key in self.tables:
                return refusal(409, "AlreadyExistsException", f"table {asked.name} exists")
            metadata = new_table_metadata(
                asked.table_schema,
                asked.partition_spec or UNPARTITIONED_PARTITION_SPEC,
                asked.write_order or UNSORTED_SORT_ORDER,
                asked.location or f"file://{self.location(*key)}",
                asked.properties,
            )
            if asked.stage_create:
                return 200, {"metadata": json.loads(metadata.model_dump_json()), "config": {}}
            self.write(key, json.loads(metadata.model_dump_json()))
            return 200, self.loaded(key)

    def commit(self, key: tuple[str, str], body: dict) -> tuple[int, dict]:
        asked = CommitTableRequest.model_validate(body)
        with self.lock:
            if key not in self.tables:
                return refusal(404, "NoSuchTableException", "the table does not exist")
            base = TableMetadataUtil.parse_raw(self.tables[key].read_text())
            try:
                for requirement in asked.requirements:
                    requirement.validate(base)
            except CommitFailedException as error:
                return refusal(409, "CommitFailedException", str(error))
            updated = update_table_metadata(base, asked.updates, metadata_location=f"file://{self.tables[key]}")
            self.write(key, json.loads(updated.model_dump_json()))
            return 200, self.loaded(key)


def refusal(status: int, kind: str, message: str) -> tuple[int, dict]:
    return status, {"error": {"message": message, "type": kind, "code": status}}


class CatalogHandler(BaseHTTPRequestHandler):
    """One connection. HTTP/1.1, so that connections are kept and break as real ones do."""

    owner: RestCatalog
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: dict | None):
        text = b"" if body is None else json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)
        except OSError:
            self.close_connection = True

    def hang_up(self):
        """Ends the connection with a reset, and without an answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.connection.close()
        self.close_connection = True

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.raw_body = body
        parts = urlsplit(self.path)
        owner = self.owner
        owner.requests.append((self.command, parts.path))
        if parts.path == "/v1/oauth/tokens":
            return self.answer(*self.token(parse_qs(body.decode())))
        refused = owner.check(self)
        if refused:
            return self.answer(*refused)
        if parts.path == "/v1/config":
            if parse_qs(parts.query).get("warehouse") != ["main"]:
                return self.answer(*refusal(400, "BadRequestException", "there is no such warehouse"))
            return self.answer(200, {"defaults": {}, "overrides": {"prefix": PREFIX}})
        found = re.fullmatch(rf"/v1/{PREFIX}/namespaces(?:/(\w+))?(?:/(tables)(?:/(\w+))?)?(/metrics)?", parts.path)
        if not found:
            return self.answer(404, {"detail": "no such path"})
        namespace, tables, name, metrics = found.groups()
        key = (namespace, name)
        match (self.command, bool(namespace), bool(tables), bool(name)):
            case ("POST", False, False, False):
                names = json.loads(body)["namespace"]
                with owner.lock:
                    if names[0] in owner.namespaces:
                        return self.answer(*refusal(409, "AlreadyExistsException", "the namespace exists"))
                    owner.namespaces.add(names[0])
                return self.answer(200, {"namespace": names, "properties": {}})
            case ("GET", False, False, False):
                return self.answer(200, {"namespaces": [[one] for one in sorted(owner.namespaces)]})
            case ("GET" | "HEAD", True, False, False):
                known = namespace in owner.namespaces
                return self.answer(*((200, {"namespace": [namespace], "properties": {}}) if known else
                                     refusal(404, "NoSuchNamespaceException", "the namespace does not exist")))
            case ("GET", True, True, False):
                names = [{"namespace": [space], "name": one} for space, one in owner.tables if space == namespace]
                return self.answer(200, {"identifiers": names})
            case ("POST", True, True, False):
                return self.answer(*owner.create(namespace, json.loads(body)))
            case ("POST", True, True, True) if metrics:
                return self.answer(204, None)
            case ("GET" | "HEAD", True, True, True):
                with owner.lock:
                    if key not in owner.tables:
                        return self.answer(*refusal(404, "NoSuchTableException", "the table does not exist"))
                    return self.answer(200, owner.loaded(key, owner.config_of_tables))
            case ("DELETE", True, True, True):
                with owner.lock:
                    owner.tables.pop(key, None)
                return self.answer(204, None)
            case ("POST", True, True, True):
                fault, asked = owner.fault, json.loads(body)
                if fault and fault(self, lambda: owner.commit(key, asked)):
                    return None
                return self.answer(*owner.commit(key, asked))
        return self.answer(*refusal(405, "NoSuchMethod", f"{self.command} {self.path}"))

    do_GET = do_POST = do_HEAD = do_DELETE = handle_any

    def token(self, form: dict) -> tuple[int, dict]:
        given = (form.get("client_id", [""])[0], form.get("client_secret", [""])[0])
        if form.get("grant_type") != ["client_credentials"] or given != self.owner.client:
            return 401, {"error": "invalid_client", "error_description": f"{given[1]} is wrong"}
        token = f"token-{uuid.uuid4()}"
        self.owner.tokens[token] = time.monotonic() + self.owner.token_seconds
        return 200, {"access_token": token, "token_type": "bearer", "expires_in": self.owner.token_seconds}


# --- proof


def needs_token(catalog: RestCatalog, client_id: str, client_secret: str, seconds: int = 3600):
    """OAuth2: only tokens that were given out, and only until they end."""
    catalog.client, catalog.token_seconds = (client_id, client_secret), seconds

    def check(handler):
        token = handler.headers.get("authorization", "").removeprefix("Bearer ")
        if catalog.tokens.get(token, 0) < time.monotonic():
            return refusal(401, "NotAuthorizedException", "the token is unknown, or has ended")

    catalog.check = check


def needs_bearer(catalog: RestCatalog, token: str, **more: str):
    def check(handler):
        if handler.headers.get("authorization") != f"Bearer {token}":
            return refusal(403, "ForbiddenException", "not this token")
        for name, item in more.items():
            if handler.headers.get(name.replace("_", "-")) != item:
                return refusal(403, "ForbiddenException", f"{name} is wrong")

    catalog.check = check


def needs_signature(catalog: RestCatalog, key_id: str, secret: str, region: str, service: str):
    """Amazon's signature, version 4, as its documentation computes it."""

    def check(handler):
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)",
            handler.headers.get("authorization", ""),
        )
        if not found or found[1] != key_id or (found[3], found[4]) != (region, service):
            return refusal(403, "ForbiddenException", "the credential's scope is wrong")
        day, names, moment = found[2], found[5].split(";"), handler.headers["x-amz-date"]
        if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names) or not moment.startswith(day):
            return refusal(403, "ForbiddenException", "too little is signed")
        parts = urlsplit(handler.path)
        body_hash = hashlib.sha256(handler.raw_body).hexdigest()
        query = "&".join(sorted(pair for pair in parts.query.split("&") if pair))
        lines = "".join(f"{name}:{handler.headers[name].strip()}\n" for name in names)
        canonical = "\n".join([handler.command, quote(parts.path, safe="/-_.~"), query, lines, found[5], body_hash])
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{day}/{region}/{service}/aws4_request\n{hashed}"
        key = f"AWS4{secret}".encode()
        for part in (day, region, service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        if hmac.digest(key, to_sign.encode(), "sha256").hex() != found[6]:
            return refusal(403, "ForbiddenException", "SignatureDoesNotMatch")

    catalog.check = check


class GoogleMetadata:
    """The metadata server of a machine of Google's, as far as tokens go."""

    def __init__(self, token: str):
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                wanted = "/computeMetadata/v1/instance/service-accounts/default/token"
                good = unquote(urlsplit(self.path).path) == wanted and self.headers.get("metadata-flavor") == "Google"
                body = json.dumps({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}).encode()
                self.send_response(200 if good else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
