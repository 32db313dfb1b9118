"""A hunt for leaks: random requests with a marked secret in every field that exists, over the real `schemas/`, and then a search of all
that the service wrote and answered. A mark may be found only where the policy keeps it, and there it must be found.

`E2E_SEED` repeats a run, whose seed is printed.
"""

import copy
import os
import random
import shutil
import socket
import time

import grpc
import lake
import leak_hunt
import otlp
import pytest
from harness import REPO, free_ports, registry_with_withdrawals, request
from leak_hunt import KEPT, Maker, finds
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

SCHEMAS = REPO / "schemas"
ROUNDS = 4
REQUESTS_A_ROUND = 25

SETUPS = {
    "as it comes": {},
    "everything set aside, sealed": {"quarantine": {"undeclared_events": "quarantine"}},
    "everything set aside, and tenants": {
        "quarantine": {"undeclared_events": "quarantine"},
        "privacy": {"tenant_attribute": "organisation.id"},
    },
    "nothing set aside, the personal as pseudonyms": {
        "quarantine": {"broken_contract": "store"},
        "privacy": {"policy": {"warehouse": {"personal": "pseudonymise"}}},
    },
}


class Hunt:
    """One service, what it answered, and a maker of secrets."""

    def __init__(self, service, seed: int):
        self.service, self.seed = service, seed
        self.maker = Maker(seed, leak_hunt.registry(service.schemas))
        self.chance = random.Random(seed + 1)
        self.answers: list[tuple[str, bytes]] = []
        self.taken = 0

    def note(self, what: str, content: bytes | str):
        self.answers.append((what, content.encode() if isinstance(content, str) else content))

    def post(self, body: bytes, kind: str, what: str, path: str = "/v1/logs", **headers):
        answer = self.service.post(body, kind, path, **headers)
        self.note(what, repr((answer.status, answer.headers)).encode() + answer.body)
        return answer

    def headers(self) -> dict[str, str]:
        mark = self.maker.mark
        return {
            "user_agent": mark(),
            "baggage": f"organisation.id={mark()},{mark()}={mark()}",
            "traceparent": f"00-{mark()}-{mark()}-01",
            "tracestate": f"vendor={mark()}",
            "authorization": f"Bearer {mark()}",
            "cookie": f"session={mark()}",
            "x_request_id": mark(),
            mark(): mark(),
        }

    def round(self):
        for _ in range(REQUESTS_A_ROUND):
            made = self.maker.request(time.time_ns())
            body = made.SerializeToString()
            if self.chance.random() < 0.35:
                answer = self.post(self.maker.as_json(made), otlp.JSON, "json", **self.headers())
            else:
                answer = self.post(body, otlp.PROTOBUF, "protobuf", **self.headers())
            assert answer.status == 200, (answer.status, answer.body[:300], f"seed {self.seed}")
            self.taken += 1
            self.malformed(body)
        self.over_grpc()
        self.over_raw_http()

    def malformed(self, body: bytes):
        mark = self.maker.mark()
        cut = self.chance.randrange(1, len(body))
        self.maker.leaks = False
        flipped = bytearray(self.maker.request(time.time_ns()).SerializeToString())
        self.maker.leaks = True
        flipped[self.chance.randrange(len(flipped))] ^= 1 << self.chance.randrange(8)
        attempts = [
            (body[:cut], otlp.PROTOBUF, {}),
            (bytes(flipped), otlp.PROTOBUF, {}),
            (mark.encode() + body, otlp.PROTOBUF, {}),
            (b'{"resourceLogs": [{"' + mark.encode() + b'": ', otlp.JSON, {}),
            (b'{"resourceLogs": "' + mark.encode() + b'"}', otlp.JSON, {}),
            (b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "' + mark.encode() + b'"}]}]}]}', otlp.JSON, {}),
            (body, f"application/{mark}", {}),
            (body, otlp.PROTOBUF, {"content_encoding": mark}),
            (mark.encode() + body, otlp.PROTOBUF, {"content_encoding": "gzip"}),
            (mark.encode() + body, otlp.PROTOBUF, {"content_encoding": "zstd"}),
        ]
        for sent, kind, headers in self.chance.sample(attempts, 2):
            self.post(sent, kind, "malformed", **headers)
        self.post(body, otlp.PROTOBUF, "another path", f"/v1/logs/{mark}?{mark}={mark}")
        self.post(body, otlp.PROTOBUF, "another path", f"/{mark}")

    def over_grpc(self):
        mark = self.maker.mark
        metadata = (("x-user", mark()), ("baggage", f"a={mark()}"), ("x-bytes-bin", mark().encode()), ("authorization", mark()))
        with grpc.insecure_channel(self.service.ready["grpc"]) as channel:
            LogsServiceStub(channel).Export(self.maker.request(time.time_ns()), metadata=metadata, timeout=30)
            self.taken += 1
            for path, body in [
                (f"/{mark()}/Export", b""),
                ("/opentelemetry.proto.collector.logs.v1.LogsService/" + mark(), b""),
                ("/opentelemetry.proto.collector.logs.v1.LogsService/Export", mark().encode()),
            ]:
                try:
                    channel.unary_unary(path, lambda x: x, lambda x: x)(body, metadata=metadata, timeout=30)
                except grpc.RpcError as error:
                    self.note(f"grpc {path[:20]}", f"{error.code()} {error.details()} {error.trailing_metadata()}")

    def over_raw_http(self):
        """What is no HTTP, on every port."""
        for port in (self.service.ready[name] for name in ("grpc", "http", "admin")):
            mark = self.maker.mark().encode()
            for sent in (mark + b" /" + mark + b" HTTP/1.1\r\n\r\n", b"GET /" + mark + b" HTTP/9.9\r\n\r\n", mark * 10 + b"\r\n\r\n"):
                host, number = port.rsplit(":", 1)
                with socket.create_connection((host, int(number)), timeout=30) as raw:
                    try:
                        raw.sendall(sent)
                        raw.shutdown(socket.SHUT_WR)
                        self.note("no http", raw.recv(65536))
                    except OSError:
                        pass  # it hung up before it had read all

    def ask(self):
        """Everything that tells of the service, to the operator and to a program."""
        for path in ("/", "/metrics", "/status", "/drift", "/healthz", "/readyz", f"/{self.maker.mark()}"):
            answer = request(self.service.ready["admin"], "GET", path, headers={"x-who": self.maker.mark()})
            self.note(path[:8], answer.body + repr(answer.headers).encode())
        for command in (["status"], ["status", "--format", "json"], ["quarantine", "list"], ["learn"], ["catalogue"], ["check"]):
            done = self.service.run(*command)
            self.note(" ".join(command), done.stdout + done.stderr)

    def replay(self):
        """What was sealed, opened and sent once more: most of it breaks its contract again."""
        service = self.service
        done = service.run(
            *("quarantine", "replay", "--private-key", str(service.home / "open.key"), "--all"),
            *("--endpoint", f"http://{service.ready['http']}", "--format", "json"),
            seconds=120,
        )
        self.note("quarantine replay", done.stdout + done.stderr)
        assert done.stdout, (done.returncode, done.stderr[:500])

    def search(self):
        found = []
        for what, content in self.answers:
            found += [f"answer ({what}): {find}" for find in finds(content)]
        for path, content in leak_hunt.everything(self.service.home).items():
            found += [f"{path.relative_to(self.service.home)}: {find}" for find in finds(content)]
        found += [f"quarantine: {find}" for find in finds(repr(self.quarantine()).encode())]
        shown = "\n".join(found[:20])
        assert not found, f"{len(found)} finds of {self.maker.marks} marks (seed {self.seed}):\n{shown}"
        assert "panicked" not in self.service.log()

    def quarantine(self) -> list:
        table = self.service.warehouse / "product" / "events_quarantine"
        return lake.duckdb_rows(table)[0] if table.exists() else []


@pytest.fixture
def registry(tmp_path):
    """The repository's `schemas/`; subjects that withdraw consent leave rows of their own."""
    return registry_with_withdrawals(tmp_path / "schemas", SCHEMAS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("setup", SETUPS, ids=lambda name: name.replace(" ", "-"))
def test_no_secret_is_written_down_anywhere(esker, setup, registry, record_property):
    seed = int(os.environ.get("E2E_SEED", time.time_ns() % 1_000_000))
    print(f"E2E_SEED={seed}")
    sections = {"log": {"filter": "trace"}, "flush": {"max_age": "300ms"}, **copy.deepcopy(SETUPS[setup])}
    service = esker(schemas=registry, ports=tuple(free_ports(3)), **sections)
    is_sealed = "sealed" in setup
    if is_sealed:
        made = service.run("quarantine", "keygen", "--out", str(service.home / "open.key"))
        assert made.returncode == 0, made.stderr
        service.sections["quarantine"]["recipient"] = made.stdout.split()[-1]
        service.write_config()
    hunt = Hunt(service, seed)

    service.start()
    for number in range(ROUNDS):
        hunt.round()
        hunt.ask()
        if number % 2 == 0:
            # The log is searched as it is, with what no flush has taken out of it yet.
            service.kill()
            hunt.search()
            service.start()
        else:
            service.wait_settled()
            assert service.stop() == 0
            hunt.search()
            service.start()
    hunt.ask()
    service.wait_settled()
    if is_sealed:
        hunt.replay()
        service.wait_settled()
    assert service.stop() == 0
    hunt.search()

    withdrawn = lake.duckdb_rows(service.table.parent / "events_withdrawals")[0]
    assert withdrawn and all(row["subject"].startswith("e1_") for row in withdrawn)
    rows = lake.duckdb_rows(service.table)[0]
    assert len(rows) > ROUNDS * REQUESTS_A_ROUND
    kept = sum(KEPT in str(cell) for row in rows for cell in row.values())
    assert kept > ROUNDS * REQUESTS_A_ROUND, "what the policy keeps is there, so the search can find"
    masked = sum("[email]" in str(cell) or "[secret]" in str(cell) for row in rows for cell in row.values())
    assert masked > 10, "what leaked into kept text was there to be masked"
    aside = len(hunt.quarantine())
    assert (aside > 10) == ("nothing set aside" not in setup)
    if is_sealed:
        sealed = [row for row in hunt.quarantine() if row["sealed"]]
        assert sealed, "payloads are kept, and nothing of them can be read"
    text = f"{setup}: {hunt.maker.marks} marks, {hunt.taken} requests, {len(rows)} rows with {kept} kept, {aside} set aside, seed {seed}"
    record_property("leak hunt", text)


def test_the_search_finds_what_is_there(esker):
    """The control: a mark that the policy keeps is found in the log, and in the table's files, compressed as they are."""
    service = esker(schemas=SCHEMAS, flush={"max_age": "1h"}).start()
    mark = Maker(1, {}).mark()
    attributes = {"status": "success", "tool.name": mark, "user.id": mark}
    assert service.post(otlp.encoded(otlp.record("mcp.tool.called", attributes))).status == 200
    service.kill()
    assert any(finds(content) for path, content in leak_hunt.everything(service.data).items() if "wal" in str(path))
    service.start()
    assert service.stop() == 0
    in_tables = {path.suffix for path, content in leak_hunt.everything(service.warehouse).items() if finds(content)}
    assert ".parquet" in in_tables
    rows = lake.query(service.table, "SELECT tool_name, user_id FROM events")
    assert rows[0][0] == mark and rows[0][1].startswith("e1_")


@pytest.mark.parametrize("spell", [
    lambda text: text.encode(),
    lambda text: text.upper().encode(),
    lambda text: text.encode().hex().encode(),
    lambda text: leak_hunt.base64.b64encode(b"x" + text.encode()),
    lambda text: leak_hunt.base64.urlsafe_b64encode(b"xy" + text.encode()),
    lambda text: leak_hunt.json.dumps({"a": text}).encode(),
    lambda text: "".join(f"\\u{ord(character):04X}" for character in text).encode(),
    lambda text: "".join(f"%{ord(character):02X}" for character in text).encode(),
    lambda text: repr(list(text.encode())).encode(),
], ids=range(9))
def test_the_search_knows_a_spelling(spell):
    assert finds(b"before " + spell(Maker(1, {}).mark()) + b" after")
    assert not finds(b"nothing of that kind, not even Zq7 or kraM")
