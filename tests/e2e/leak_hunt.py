"""Random OTLP full of marked secrets, and the search for them in all that a service left behind.

Owns: what is marked and how it may be written down again. Does not own: the service's life (`harness`), what follows from a find
(`test_leak_hunt`).

Every mark begins with `HEAD`, ends with `TAIL`, and has a random middle. `HEAD` has capitals and a hyphen, so that no mark looks like a
name that somebody wrote down in code: such names of undeclared keys are shown by design. What the policy keeps is marked with
`KEPT` instead, so that a search that finds nothing at all is known to be broken.
"""

import base64
import json
import random
import string
from dataclasses import dataclass
from pathlib import Path

import duckdb
import lake
import pyarrow.parquet
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from otlp import pairs, value
from strictyaml.ruamel.main import YAML

HEAD, TAIL, KEPT = "Zq7Mark-", "-kraM7Qz", "Kp3Stay-"
# Digits that no clock, count or length of a test brings forth by itself.
NUMBER_HEAD = 8461973


@dataclass(frozen=True)
class Use:
    """An attribute as an event of the registry declares it."""

    key: str
    kind: str
    level: str
    members: tuple = ()


def registry(folder: Path) -> dict[str, list[Use]]:
    """By event name. Read here without the program under test, so that it is not its own judge."""
    files = [YAML(typ="safe", pure=True).load(path) for path in sorted(folder.glob("*.yaml")) if path.name != "manifest.yaml"]
    attributes, groups = {}, {}
    for file in files:
        for one in file.get("attributes", []):
            kind, members = one["type"], ()
            if isinstance(kind, dict):
                kind, members = "enum", tuple(member["value"] for member in kind["members"])
            attributes[one["key"]] = Use(one["key"], kind, one["annotations"]["esker"]["privacy"], members)
        for group in file.get("attribute_groups", []):
            groups[group["id"]] = [one["ref"] for one in group["attributes"]]

    def uses(event: dict) -> list[Use]:
        found = {}
        for one in event["attributes"]:
            for key in groups[one["ref_group"]] if "ref_group" in one else [one["ref"]]:
                declared = attributes[key]
                level = one.get("annotations", {}).get("esker", {}).get("privacy", declared.level)
                found[key] = Use(key, declared.kind, level, declared.members)
        return list(found.values())

    return {event["name"]: uses(event) for file in files for event in file.get("events", [])}


class Maker:
    """Makes requests. Everything follows from the seed."""

    def __init__(self, seed: int, events: dict[str, list[Use]]):
        self.chance = random.Random(seed)
        self.events = events
        # Off where bits are flipped afterwards: what is no private key any more is not masked as one.
        self.leaks = True
        self.marks = self.kept = 0

    def mark(self) -> str:
        self.marks += 1
        return HEAD + self.letters(10) + TAIL

    def keep(self) -> str:
        self.kept += 1
        return KEPT + self.letters(10)

    def letters(self, count: int) -> str:
        return "".join(self.chance.choices(string.ascii_lowercase, k=count))

    def number(self) -> int:
        self.marks += 1
        return NUMBER_HEAD * 10**8 + self.chance.randrange(10**8)

    # --- Values

    def secret(self, depth: int = 0):
        """A value of any kind with a mark in it."""
        mark = self.mark()
        makers = [
            lambda: mark,
            lambda: f'"{mark}"',
            lambda: f"hello {mark}, and goodbye",
            lambda: json.dumps([mark, 1]),
            lambda: json.dumps({"user": {mark: mark, "e\u00e9": [None, {"x": mark}]}}),
            lambda: f'Traceback (most recent call last):\n  File "{mark}.py", line 7, in <module>\nValueError: {mark}\n',
            lambda: mark.encode(),
            lambda: b"\xff\x00" + mark.encode() + b"\xfe",
            lambda: self.number(),
            lambda: float(self.number()),
            lambda: [mark, 7, None, True],
            lambda: {mark: mark, "inner": {"list": [mark]}},
            lambda: f"https://example.org/{mark}?q={mark}#{mark}",
            lambda: "".join(f"%{byte:02x}" for byte in mark.encode()),
            lambda: mark.upper().swapcase() + mark,
            lambda: mark * 40,
        ]
        item = self.chance.choice(makers)()
        if depth < 3 and self.chance.random() < 0.2:
            return self.chance.choice([[item, self.secret(depth + 1)], {"a": item, mark: self.secret(depth + 1)}])
        return item

    def secret_text(self) -> str:
        """A value that can be read as text, so that it breaks no contract."""
        while not isinstance(item := self.secret(), str):
            continue
        return item

    def leak(self) -> str:
        """Kept text into which something leaked that the scan knows; the mark is within what it masks."""
        mark = self.mark()
        return self.chance.choice([
            f"from {mark}@example.org today",
            f"https://app:{mark}@db.example.org/x",
            f"GET /x?page=2&access_token={mark}&sort=a",
            json.dumps({"user": 7, "password": mark}),
            f"Authorization: Bearer {mark}{mark}",
            json.dumps({"deep": json.dumps({"mail": f"{mark}@example.org"})}),
            f"-----BEGIN PRIVATE KEY-----\n{mark}\n-----END PRIVATE KEY-----",
        ])

    def right(self, use: Use):
        """A value that keeps the contract; where the policy keeps text, a `KEPT` mark."""
        if use.kind in ("int", "double"):
            return self.chance.randrange(1, 5000)
        if use.kind == "boolean":
            return True
        if use.kind == "enum":
            return self.chance.choice(use.members)
        if use.kind == "int[]":
            return "[1, 2]"
        if use.kind == "string" and use.level in ("public", "internal"):
            return self.leak() if self.leaks and self.chance.random() < 0.3 else self.keep()
        return None

    def wrong(self, use: Use):
        """A value that may not be stored as it is: for its level, or for its type."""
        if use.level in ("pseudonymous", "personal", "sensitive"):
            return self.secret()
        if use.kind in ("int", "double", "boolean", "int[]"):
            return self.chance.choice([self.mark(), f'["{self.mark()}"]', {self.mark(): 1}, self.mark().encode()])
        if use.kind == "enum":
            return self.mark()
        return self.chance.choice([{self.mark(): self.mark()}, [self.mark()], self.mark().encode()])

    # --- Records and requests

    def attributes(self, event: str, breaks: bool) -> list:
        uses = self.events.get(event, [])
        found = []
        for use in uses:
            hidden = use.level in ("pseudonymous", "personal", "sensitive")
            if not hidden and (not breaks or self.chance.random() < 0.6):
                item = self.right(use)
                if item is not None:
                    found.append((use.key, item))
            elif not breaks and use.level == "pseudonymous":
                found.append((use.key, self.secret_text()))
            elif self.chance.random() < 0.8:
                found.append((use.key, self.wrong(use)))
        for _ in range(self.chance.randrange(4)):
            key = self.chance.choice([self.mark(), f"user.{self.mark()}", f"a {self.mark()}", "note", "enduser.id", "email"])
            found.append((key, self.secret()))
        more = {
            "event.privacy_level": ["internal", "pseudonymous", "personal", f"{self.mark()}"],
            "event.category": ["security", self.mark()],
            "event.name": [self.mark()],
            "log.record.uid": [f"id of {self.mark()}"],
            "consent.granted": [self.mark(), [self.mark()]],
            f"consent.categories.{self.mark()}": [True, self.mark()],
            "context.consent": [{"categoryPreferences": {self.mark(): False}}],
        }
        for key, items in more.items():
            if self.chance.random() < 0.06:
                found.append((key, self.chance.choice(items)))
        self.chance.shuffle(found)
        return [pair for key, item in found for pair in pairs({key: item})]

    def name(self) -> str:
        if self.chance.random() < 0.05:
            return self.chance.choice([name for name in self.events if "consent" in name] or [""])
        if self.chance.random() < 0.75:
            return self.chance.choice(list(self.events))
        mark = self.mark()
        return self.chance.choice([f"x.hello {mark}", mark, f"shop.{mark}.done", f"mcp.tool.called {mark}", f"x\n{mark}", ""])

    def record(self, nanos: int) -> LogRecord:
        name = self.name()
        fields = {"event_name": name, "time_unix_nano": nanos, "observed_time_unix_nano": nanos}
        if self.chance.random() < 0.1:
            fields["time_unix_nano"] = self.chance.choice([1, 2**63, 0])
        if self.chance.random() < 0.5:
            fields["severity_text"] = self.mark()
        else:
            fields["severity_number"] = 9
        if self.chance.random() < 0.3:
            # No valid length, so that nothing of it is an id.
            fields |= {"trace_id": self.mark().encode(), "span_id": self.mark().encode()[:17]}
        body = value(self.secret()) if self.chance.random() < 0.7 else None
        record = LogRecord(attributes=self.attributes(name, self.chance.random() < 0.25), body=body, **fields)
        if self.chance.random() < 0.3:
            record = LogRecord.FromString(record.SerializeToString() + self.unknown_field())
        return record

    def unknown_field(self) -> bytes:
        """Field 1000, bytes, as a later version of the protocol may have it."""
        mark = self.mark().encode()
        return bytes([0xC2, 0x3E, len(mark)]) + mark

    def service(self) -> str:
        return self.chance.choice(["flagsmith-api", f"{self.mark()}'s laptop", f"a@{self.mark()}"])

    def request(self, nanos: int) -> ExportLogsServiceRequest:
        resources = []
        for _ in range(self.chance.randrange(1, 3)):
            attributes = {
                "service.name": self.service(),
                "service.version": self.chance.choice(["1.2.3", f"v {self.mark()}"]),
                "host.name": self.mark(),
                "process.command_args": [self.mark(), {self.mark(): self.mark()}],
                self.mark(): self.secret(),
            }
            resource = Resource(attributes=pairs(attributes), dropped_attributes_count=1)
            resource = Resource.FromString(resource.SerializeToString() + self.unknown_field())
            scopes = []
            for _ in range(self.chance.randrange(1, 3)):
                scope = ScopeLogs(
                    log_records=[self.record(nanos) for _ in range(self.chance.randrange(1, 8))],
                    schema_url=f"https://example.org/{self.mark()}",
                )
                scope.scope.name = self.chance.choice(["common.core.otel", f"scope of {self.mark()}"])
                scope.scope.version = f"v {self.mark()}"
                scope.scope.attributes.extend(pairs({"a": self.secret(), self.mark(): 1}))
                scopes.append(scope)
            resources.append(ResourceLogs(resource=resource, scope_logs=scopes, schema_url=self.mark()))
        return ExportLogsServiceRequest(resource_logs=resources)

    def as_json(self, request: ExportLogsServiceRequest) -> bytes:
        """The same as OTLP/JSON, with members that no version knows."""
        tree = MessageToDict(request)
        for resource in tree["resourceLogs"]:
            resource[self.mark()] = self.mark()
            for scope in resource["scopeLogs"]:
                for record in scope["logRecords"]:
                    # OTLP/JSON has ids in hex, and these are none.
                    record.pop("traceId", None), record.pop("spanId", None)
                    record["note"] = {self.mark(): [self.mark()]}
        return json.dumps(tree, ensure_ascii=self.chance.random() < 0.5).encode()


# --- The search


def spellings(text: str) -> dict[str, bytes]:
    """The ways in which a text may have been written down, in lower case but for base64."""
    raw = text.encode()
    found = {
        "plain": raw.lower(),
        "hex": raw.hex().encode(),
        "utf-16": text.lower().encode("utf-16-le"),
        "percent": "".join(f"%{byte:02x}" for byte in raw).encode(),
        "percent of the hyphen": raw.lower().replace(b"-", b"%2d"),
        "json": "".join(f"\\u{byte:04x}" for byte in raw).encode(),
        "debug": ", ".join(map(str, raw)).encode(),
        "debug, hex": ", ".join(f"{byte:#04x}" for byte in raw).encode(),
    }
    for offset in range(3):
        # Of each character only those whose six bits are all of the text.
        code = base64.b64encode(bytes(offset) + raw + b"\0\0")
        first, last = -(-offset * 8 // 6), (offset + len(raw)) * 8 // 6
        found[f"base64 at {offset}"] = code[first:last]
        found[f"base64url at {offset}"] = code[first:last].translate(bytes.maketrans(b"+/", b"-_"))
    return found


FORBIDDEN = {f"{name} ({part})": code for part in (HEAD, TAIL) for name, code in spellings(part).items()}
FORBIDDEN["number"] = str(NUMBER_HEAD).encode()


def finds(content: bytes, needles: dict[str, bytes] | None = None) -> list[str]:
    """Which spellings of a mark are in it, with some of what stands around."""
    found, lower = [], content.lower()
    for name, needle in (FORBIDDEN if needles is None else needles).items():
        place = (content if name.startswith("base64") else lower).find(needle)
        if place >= 0:
            found.append(f"{name} at {place}: {content[max(0, place - 120) : place + 60]!r}")
    return found


def decoded(path: Path) -> bytes:
    """What a reader of the format sees of a file that is compressed; empty for others."""
    if path.suffix == ".parquet":
        file = pyarrow.parquet.ParquetFile(path)
        return repr((file.metadata.metadata, str(file.metadata.to_dict()), file.read().to_pylist())).encode()
    if path.suffix == ".avro":
        rows = lake.duck().execute(f"SELECT * FROM read_avro('{path}')").fetchall()
        return repr(rows).encode()
    return b""


def everything(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder, as its bytes and as what is in it."""
    contents = {}
    for path in folder.rglob("*"):
        if path.is_file():
            try:
                contents[path] = path.read_bytes() + b"\n" + decoded(path)
            except (FileNotFoundError, duckdb.IOException):
                continue  # a draft or a log's segment that is gone by now
    return contents
