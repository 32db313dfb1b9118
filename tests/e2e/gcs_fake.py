"""A small, strict Google Cloud Storage for tests: the documented behaviour of its XML API, and of the part of its JSON API that
readers use, in memory on loopback. What it does not know it refuses, so that a client that sends something else is found out.

Owns: access tokens, generations and their preconditions, XML multipart uploads, resumable uploads, listing by pages, ranges,
error bodies; a log of requests, and faults on demand. Does not own: access control lists, versions, and everything else.

XML:  https://cloud.google.com/storage/docs/xml-api/reference-headers , .../multipart-uploads , .../get-bucket-list
JSON: https://cloud.google.com/storage/docs/json_api/v1 , .../performing-resumable-uploads
"""

import base64
import hashlib
import itertools
import json
import re
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

PART_BYTES_MIN = 5 << 20
PARTS_MAX = 10_000
NAME_BYTES_MAX = 1024
CHUNK_BYTES = 256 << 10
PAGE = 1000


@dataclass
class Object:
    data: bytes
    generation: int
    content_type: str
    updated: datetime

    @property
    def md5(self) -> bytes:
        return hashlib.md5(self.data).digest()

    @property
    def e_tag(self) -> str:
        return f'"{self.md5.hex()}"'


@dataclass
class Upload:
    """An upload in parts, or one that can be resumed."""

    bucket: str
    name: str
    content_type: str
    parts: dict[int, bytes] = field(default_factory=dict)
    received: bytearray = field(default_factory=bytearray)
    precondition: int | None = None


class Refusal(Exception):
    """An answer that is an error."""

    CODES = {400: "InvalidArgument", 401: "AuthenticationRequired", 403: "AccessDenied", 404: "NoSuchKey",
             405: "MethodNotAllowed", 411: "MissingContentLength", 412: "PreconditionFailed", 416: "InvalidRange",
             503: "ServiceUnavailable"}

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code or self.CODES.get(status, "InternalError")


@dataclass
class Fault:
    """What goes wrong with the next requests whose method and path match."""

    pattern: re.Pattern
    times: int
    status: int | None  # None: the connection is closed
    after: bool  # True: the request does its work, and its answer is lost or replaced


class GcsFake:
    """The server: `with GcsFake() as gcs`. Buckets are made by `make_bucket`."""

    def __init__(self, page: int = PAGE):
        self.page = page
        self.tokens = {"ya29.test-token"}
        self.buckets: dict[str, dict[str, Object]] = {}
        self.uploads: dict[str, Upload] = {}
        self.requests: list[str] = []
        self.denied: list[re.Pattern] = []
        self.faults: list[Fault] = []
        self.requester_pays: set[str] = set()
        self.lock = threading.RLock()
        self.generations, self.upload_ids = itertools.count(1_700_000_000_000_001), itertools.count(1)
        handler = type("Handler", (_Handler,), {"fake": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "GcsFake":
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def make_bucket(self, name: str):
        self.buckets.setdefault(name, {})

    def deny(self, pattern: str):
        """Requests whose `METHOD path?query` matches are denied from now on."""
        self.denied.append(re.compile(pattern))

    def fail(self, pattern: str, times: int = 1, status: int | None = 503, after: bool = False):
        """The next requests that match fail."""
        with self.lock:
            self.faults.append(Fault(re.compile(pattern), times, status, after))

    def take_requests(self) -> list[str]:
        with self.lock:
            taken, self.requests = self.requests, []
            return taken

    def put(self, bucket: str, name: str, data: bytes, content_type="application/octet-stream") -> Object:
        made = Object(bytes(data), next(self.generations), content_type, datetime.now(timezone.utc))
        self.buckets[bucket][name] = made
        return made

    def download(self, bucket: str, prefix: str, folder: Path):
        """Writes the objects under a prefix as files."""
        with self.lock:
            found = {name: item.data for name, item in self.buckets[bucket].items() if name.startswith(prefix)}
        for name, data in found.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def fault(self, line: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.pattern.search(line):
                    fault.times -= 1
                    return fault
        return None


def _listing(objects, prefix, delimiter, after, limit):
    """Names and common prefixes in order, at most `limit`, and the last one of a page that is not the last page."""
    entries: list[tuple[str, Object | None]] = []
    for name in sorted(objects):
        if not name.startswith(prefix):
            continue
        entry = name
        if delimiter and delimiter in name[len(prefix):]:
            entry = prefix + name[len(prefix):].split(delimiter)[0] + delimiter
        if entry <= after or (entries and entries[-1][0] == entry):
            continue
        if len(entries) == limit:
            return entries, entries[-1][0]
        entries.append((entry, objects[name] if entry == name else None))
    return entries, None


class _Handler(BaseHTTPRequestHandler):
    fake: GcsFake
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_):
        pass

    # --- one request

    def _serve(self):
        parts = urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.is_json = parts.path.startswith(("/storage/v1/", "/upload/storage/v1/", "/download/storage/v1/"))
        line = f"{self.command} {unquote(parts.path)}" + (f"?{parts.query}" if parts.query else "")
        try:
            body = self._body()
            with self.fake.lock:
                self.fake.requests.append(line)
            fault = self.fake.fault(line)
            if fault and not fault.after:
                return self._fail(fault)
            self._authorise(line)
            # Decides and changes under one lock: of two conditional creates, one comes first.
            with self.fake.lock:
                answer = self._json(parts.path, body) if self.is_json else self._xml(parts.path, body)
            if fault:
                return self._fail(fault)
            self._answer(*answer)
        except Refusal as refusal:
            self._refuse(refusal)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        length = self.headers.get("Content-Length")
        if length is None and self.command in ("PUT", "POST"):
            self.close_connection = True
            raise Refusal(411, "You must provide the Content-Length HTTP header.")
        return self.rfile.read(int(length or 0))

    def _authorise(self, line: str):
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or token not in self.fake.tokens:
            raise Refusal(401, "Authentication required." if not token else "Invalid Credentials")
        if any(pattern.search(line) for pattern in self.fake.denied):
            raise Refusal(403, "Access denied.")

    def _bucket(self, name: str) -> dict[str, Object]:
        if name not in self.fake.buckets:
            raise Refusal(404, "The specified bucket does not exist.", "NoSuchBucket")
        project = self.headers.get("x-goog-user-project") or self.query.get("userProject")
        if name in self.fake.requester_pays and not project:
            raise Refusal(400, "Bucket is a requester pays bucket but no user project provided.", "UserProjectMissing")
        return self.fake.buckets[name]

    def _only(self, *known: str):
        unknown = self.query.keys() - set(known)
        if unknown:
            raise Refusal(400, f"Invalid query parameter(s): {sorted(unknown)}")

    def _fail(self, fault: Fault):
        if fault.status is None:
            self.close_connection = True
            self.connection.close()
            return
        self._refuse(Refusal(fault.status, "A fault that the test wants."))

    def _refuse(self, refusal: Refusal):
        if self.is_json:
            reason = {"message": refusal.message, "domain": "global", "reason": refusal.code}
            body = json.dumps({"error": {"code": refusal.status, "message": refusal.message, "errors": [reason]}})
            kind = "application/json; charset=UTF-8"
        else:
            body = (f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{refusal.code}</Code>"
                    f"<Message>{escape(refusal.message)}</Message></Error>")
            kind = "application/xml; charset=UTF-8"
        self._answer(refusal.status, {"Content-Type": kind}, body.encode())

    def _answer(self, status: int, headers: dict, body: bytes = b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    # --- what both APIs share

    def _check_generation(self, objects, name, wanted: str | None):
        """`0` means: only if there is no live object."""
        if wanted is None:
            return
        if not wanted.isdigit():
            raise Refusal(400, f"Invalid generation: {wanted}")
        live = objects[name].generation if name in objects else 0
        if live != int(wanted):
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")

    def _check_name(self, name: str):
        if not name or len(name.encode()) > NAME_BYTES_MAX or "\r" in name or "\n" in name or name in (".", ".."):
            raise Refusal(400, "The specified object name is not valid.", "InvalidObjectName")

    def _check_digest(self, body: bytes):
        told = {}
        if "Content-MD5" in self.headers:
            told["md5"] = self.headers["Content-MD5"]
        for entry in self.headers.get("x-goog-hash", "").split(","):
            if "=" in entry:
                kind, value = entry.strip().split("=", 1)
                told[kind] = value
        if "md5" in told and told["md5"] != base64.b64encode(hashlib.md5(body).digest()).decode():
            raise Refusal(400, "The Content-MD5 you specified did not match what we received.", "BadDigest")

    def _found(self, objects, name) -> Object:
        if name not in objects:
            raise Refusal(404, "The specified key does not exist.")
        found = objects[name]
        if self.query.get("generation", str(found.generation)) != str(found.generation):
            raise Refusal(404, "No such object generation.")
        return found

    def _media(self, found: Object):
        headers = {
            "ETag": found.e_tag,
            "Last-Modified": format_datetime(found.updated, usegmt=True),
            "Content-Type": found.content_type,
            "Accept-Ranges": "bytes",
            "x-goog-generation": found.generation,
            "x-goog-metageneration": 1,
            "x-goog-stored-content-length": len(found.data),
            "x-goog-stored-content-encoding": "identity",
            "x-goog-hash": f"md5={base64.b64encode(found.md5).decode()}",
        }
        tags = self.headers.get("If-None-Match")
        if tags and (tags == "*" or found.e_tag in [tag.strip() for tag in tags.split(",")]):
            return 304, {name: headers[name] for name in ("ETag", "Last-Modified", "x-goog-generation")}
        since = self.headers.get("If-Modified-Since")
        if since and not tags and found.updated.replace(microsecond=0) <= parsedate_to_datetime(since):
            return 304, {"ETag": found.e_tag, "Last-Modified": headers["Last-Modified"]}
        wanted = self.headers.get("If-Match")
        if wanted and wanted not in ("*", found.e_tag):
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")
        spec = self.headers.get("Range")
        if not spec:
            return 200, headers | {"Content-Length": len(found.data)}, found.data
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", spec)
        if not match or match.groups() == ("", ""):
            raise Refusal(416, "The requested range cannot be satisfied.")
        size, (first, last) = len(found.data), match.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last), size - 1) if first and last else size - 1
        if start > end or start >= size:
            raise Refusal(416, "The requested range cannot be satisfied.")
        data = found.data[start:end + 1]
        headers |= {"Content-Range": f"bytes {start}-{end}/{size}", "Content-Length": len(data)}
        return 206, headers, data

    # --- the XML API

    def _xml(self, path: str, body: bytes):
        bucket, _, encoded = path.lstrip("/").partition("/")
        objects, name = self._bucket(unquote(bucket)), unquote(encoded)
        if not name:
            if self.command != "GET":
                raise Refusal(405, "The specified method is not allowed.")
            return self._xml_list(unquote(bucket), objects)
        self._check_name(name)
        verb = (self.command, "uploads" in self.query, "uploadId" in self.query)
        match verb:
            case ("GET" | "HEAD", False, False):
                self._only("generation", "userProject")
                return self._media(self._found(objects, name))
            case ("PUT", False, False):
                self._only("userProject")
                return self._xml_put(unquote(bucket), objects, name, body)
            case ("DELETE", False, False):
                self._only("generation", "userProject")
                self._found(objects, name)
                self._check_generation(objects, name, self.headers.get("x-goog-if-generation-match"))
                del objects[name]
                return 204, {}
            case ("POST", True, False):
                return self._xml_begin(unquote(bucket), name, body)
            case ("PUT" | "POST" | "DELETE" | "GET", False, True):
                return self._xml_upload(unquote(bucket), objects, name, body)
        raise Refusal(405, "The specified method is not allowed.")

    def _xml_put(self, bucket, objects, name, body):
        self._check_digest(body)
        self._check_generation(objects, name, self.headers.get("x-goog-if-generation-match"))
        source = self.headers.get("x-goog-copy-source")
        if source:
            from_bucket, _, from_name = unquote(source).lstrip("/").partition("/")
            copied = self._found(self._bucket(from_bucket), from_name)
            made = self.fake.put(bucket, name, copied.data, copied.content_type)
            text = f"<CopyObjectResult><ETag>{made.e_tag}</ETag></CopyObjectResult>"
            return 200, {"x-goog-generation": made.generation}, text.encode()
        kind = self.headers.get("Content-Type", "application/octet-stream")
        made = self.fake.put(bucket, name, body, kind)
        return 200, {"ETag": made.e_tag, "x-goog-generation": made.generation, "x-goog-metageneration": 1}

    def _xml_begin(self, bucket, name, body):
        self._only("uploads")
        # Multipart uploads know no preconditions, and begin without a body.
        if any(header.lower().startswith("x-goog-if-") for header in self.headers) or body:
            raise Refusal(400, "Preconditions and a body are not supported when a multipart upload begins.")
        number = f"upload-{next(self.fake.upload_ids)}"
        kind = self.headers.get("Content-Type", "application/octet-stream")
        self.fake.uploads[number] = Upload(bucket, name, kind)
        text = (f"<InitiateMultipartUploadResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Bucket>{bucket}</Bucket>"
                f"<Key>{escape(name)}</Key><UploadId>{number}</UploadId></InitiateMultipartUploadResult>")
        return 200, {"Content-Type": "application/xml"}, text.encode()

    def _xml_upload(self, bucket, objects, name, body):
        self._only("uploadId", "partNumber")
        upload = self.fake.uploads.get(self.query["uploadId"])
        if upload is None or (upload.bucket, upload.name) != (bucket, name):
            raise Refusal(404, "The requested upload was not found.", "NoSuchUpload")
        if self.command == "PUT":
            number = int(self.query.get("partNumber", 0))
            if not 1 <= number <= PARTS_MAX:
                raise Refusal(400, "Part number must be an integer between 1 and 10000, inclusive.")
            self._check_digest(body)
            upload.parts[number] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        if self.command == "DELETE":
            del self.fake.uploads[self.query["uploadId"]]
            return 204, {}
        if self.command == "GET":
            parts = "".join(f"<Part><PartNumber>{n}</PartNumber><Size>{len(d)}</Size></Part>" for n, d in sorted(upload.parts.items()))
            return 200, {"Content-Type": "application/xml"}, f"<ListPartsResult>{parts}</ListPartsResult>".encode()
        data = self._assemble(upload, body)
        del self.fake.uploads[self.query["uploadId"]]
        made = self.fake.put(bucket, name, data, upload.content_type)
        text = (f"<CompleteMultipartUploadResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Location>x</Location>"
                f"<Bucket>{bucket}</Bucket><Key>{escape(name)}</Key><ETag>{made.e_tag}</ETag></CompleteMultipartUploadResult>")
        return 200, {"Content-Type": "application/xml", "x-goog-generation": made.generation}, text.encode()

    def _assemble(self, upload: Upload, body: bytes) -> bytes:
        try:
            root = ElementTree.fromstring(body)
        except ElementTree.ParseError:
            raise Refusal(400, "The XML you provided was not well-formed.", "MalformedSecurityHeader") from None
        listed = []
        for part in root.iter():
            if part.tag.rpartition("}")[2] == "Part":
                fields = {child.tag.rpartition("}")[2]: (child.text or "") for child in part}
                listed.append((int(fields["PartNumber"]), fields["ETag"].strip('"')))
        if not listed:
            raise Refusal(400, "You must specify at least one part", "MalformedXML")
        if [number for number, _ in listed] != sorted({number for number, _ in listed}):
            raise Refusal(400, "The list of parts was not in ascending order.", "InvalidPartOrder")
        for place, (number, e_tag) in enumerate(listed):
            data = upload.parts.get(number)
            if data is None or hashlib.md5(data).hexdigest() != e_tag:
                raise Refusal(400, "One or more of the specified parts could not be found.", "InvalidPart")
            if len(data) < PART_BYTES_MIN and place + 1 < len(listed):
                raise Refusal(400, "Your proposed upload is smaller than the minimum allowed object size.", "EntityTooSmall")
        return b"".join(upload.parts[number] for number, _ in listed)

    def _xml_list(self, bucket, objects):
        self._only("list-type", "prefix", "delimiter", "continuation-token", "start-after", "max-keys")
        if self.query.get("list-type") != "2":
            raise Refusal(400, "Only list-type 2 is known here.")
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        after = self.query.get("start-after", "")
        if token := self.query.get("continuation-token"):
            try:
                after = base64.urlsafe_b64decode(token.encode()).decode()
            except ValueError:
                raise Refusal(400, "Invalid continuation token.") from None
        limit = min(int(self.query.get("max-keys", self.fake.page)), self.fake.page)
        entries, last = _listing(objects, prefix, delimiter, after, limit)
        text = [f"<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{bucket}</Name>"
                f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
                f"<IsTruncated>{'true' if last else 'false'}</IsTruncated>"]
        if last:
            text.append(f"<NextContinuationToken>{base64.urlsafe_b64encode(last.encode()).decode()}</NextContinuationToken>")
        for entry, found in entries:
            if found is None:
                text.append(f"<CommonPrefixes><Prefix>{escape(entry)}</Prefix></CommonPrefixes>")
            else:
                when = found.updated.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
                text.append(f"<Contents><Key>{escape(entry)}</Key><Generation>{found.generation}</Generation>"
                            f"<MetaGeneration>1</MetaGeneration><LastModified>{when}</LastModified>"
                            f"<ETag>{escape(found.e_tag)}</ETag><Size>{len(found.data)}</Size></Contents>")
        text.append("</ListBucketResult>")
        return 200, {"Content-Type": "application/xml"}, "".join(text).encode()

    # --- the JSON API

    def _json(self, path: str, body: bytes):
        match = re.fullmatch(r"/(upload/|download/)?storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", path)
        if not match:
            raise Refusal(404, "Not Found")
        kind, bucket, name = match.group(1), unquote(match.group(2)), unquote(match.group(3) or "")
        objects = self._bucket(bucket)
        if kind == "upload/":
            return self._json_upload(bucket, objects, body)
        if not path.rstrip("/").endswith(f"/{match.group(2)}") and not name and self.command == "GET":
            return self._json_list(bucket, objects)
        if not name:
            about = {"kind": "storage#bucket", "name": bucket, "id": bucket, "location": "US", "storageClass": "STANDARD"}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        found = self._found(objects, name)
        if self.command == "DELETE":
            self._check_generation(objects, name, self.query.get("ifGenerationMatch"))
            del objects[name]
            return 204, {}
        if self.command != "GET":
            raise Refusal(405, "The specified method is not allowed.")
        if self.query.get("alt") == "media" or kind == "download/":
            return self._media(found)
        return 200, {"Content-Type": "application/json"}, json.dumps(self._about(bucket, name, found)).encode()

    def _about(self, bucket, name, found: Object) -> dict:
        when = found.updated.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        return {"kind": "storage#object", "id": f"{bucket}/{name}/{found.generation}", "name": name, "bucket": bucket,
                "generation": str(found.generation), "metageneration": "1", "contentType": found.content_type,
                "size": str(len(found.data)), "md5Hash": base64.b64encode(found.md5).decode(), "etag": found.e_tag.strip('"'),
                "timeCreated": when, "updated": when, "storageClass": "STANDARD"}

    def _json_list(self, bucket, objects):
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        after = base64.urlsafe_b64decode(self.query.get("pageToken", "")).decode()
        limit = min(int(self.query.get("maxResults", self.fake.page)), self.fake.page)
        entries, last = _listing(objects, prefix, delimiter, after, limit)
        answer = {"kind": "storage#objects",
                  "items": [self._about(bucket, name, found) for name, found in entries if found],
                  "prefixes": [name for name, found in entries if not found]}
        if last:
            answer["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    def _json_upload(self, bucket, objects, body):
        kind = self.query.get("uploadType")
        if kind == "media" and self.command == "POST":
            name = self.query.get("name", "")
            self._check_name(name)
            self._check_generation(objects, name, self.query.get("ifGenerationMatch"))
            made = self.fake.put(bucket, name, body, self.headers.get("Content-Type", "application/octet-stream"))
            return 200, {"Content-Type": "application/json"}, json.dumps(self._about(bucket, name, made)).encode()
        if kind == "resumable" and self.command == "POST":
            about = json.loads(body or b"{}")
            name = self.query.get("name") or about.get("name", "")
            self._check_name(name)
            # Held against the object when the upload ends.
            precondition = self.query.get("ifGenerationMatch")
            self._check_generation(objects, name, precondition)
            number = f"resumable-{next(self.fake.upload_ids)}"
            media = self.headers.get("X-Upload-Content-Type", "application/octet-stream")
            self.fake.uploads[number] = Upload(bucket, name, media, precondition=precondition)
            location = f"{self.fake.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}"
            return 200, {"Location": location}
        if kind == "resumable" and self.command in ("PUT", "DELETE"):
            return self._json_resume(bucket, objects, body)
        raise Refusal(400, f"Invalid upload request: {kind}")

    def _json_resume(self, bucket, objects, body):
        number = self.query.get("upload_id", "")
        upload = self.fake.uploads.get(number)
        if upload is None:
            raise Refusal(404, "No such upload.")
        if self.command == "DELETE":
            del self.fake.uploads[number]
            return 499, {}
        spec = self.headers.get("Content-Range")
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", spec or f"bytes 0-{max(len(body) - 1, 0)}/{len(body)}")
        if not match:
            raise Refusal(400, f"Invalid Content-Range: {spec}")
        first, last, total = match.groups()
        if first is not None and body:
            if int(last) - int(first) + 1 != len(body) or int(first) > len(upload.received):
                raise Refusal(400, "The Content-Range does not fit the body, or leaves a gap.")
            if total == "*" and len(body) % CHUNK_BYTES:
                raise Refusal(400, "A chunk must be a multiple of 256 KiB.")
            upload.received[int(first):] = body
        if total == "*" or len(upload.received) < int(total):
            headers = {"Range": f"bytes=0-{len(upload.received) - 1}"} if upload.received else {}
            return 308, headers
        self._check_generation(objects, upload.name, upload.precondition)
        del self.fake.uploads[number]
        made = self.fake.put(bucket, upload.name, bytes(upload.received), upload.content_type)
        return 200, {"Content-Type": "application/json"}, json.dumps(self._about(bucket, upload.name, made)).encode()
