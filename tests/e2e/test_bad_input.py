"""Hostile requests: each gets a clear refusal or a counted reason, the service goes on, and no payload value shows up in a
log line, an answer, a metric or a file.

Every payload carries `MARK` wherever the case allows it; it is looked for in all those places.
"""

import gzip
import json
import random
import socket
import zlib

import grpc
import lake
import otlp
import pytest
import zstandard
from harness import Answer, Esker, balanced, by_labels, labels, request
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

MARK = "zq7-MARK-x9"
MEMORY_LIMIT = 300 << 20


@pytest.fixture(scope="module")
def hostile(homes):
    """The service that all cases share; in the end nothing of them may be on its disk."""
    service = Esker(homes("hostile"), log={"filter": "trace"}).start()
    yield service
    peak = service.peak_memory_bytes()
    assert service.stop() == 0
    assert peak < MEMORY_LIMIT
    assert_nowhere_on_disk(service)


@pytest.fixture(scope="module")
def lenient(homes):
    """A service that keeps events whose contract is broken, without the attributes at fault."""
    service = Esker(homes("lenient"), log={"filter": "trace"}, quarantine={"broken_contract": "store"}).start()
    yield service
    assert service.stop() == 0
    assert MARK not in service.log()
    assert_nowhere_on_disk(service)


@pytest.fixture(autouse=True)
def nothing_leaks(hostile):
    """After each case: it runs, it takes events, and the mark is nowhere."""
    yield
    assert hostile.running, hostile.log()[-2000:]
    assert hostile.post(otlp.encoded(otlp.record())).status == 200
    for text in (hostile.log(), *(hostile.admin(path).body.decode() for path in ("/metrics", "/status", "/drift", "/"))):
        assert MARK not in text


def assert_nowhere_on_disk(service: Esker):
    for path in (path for path in service.home.rglob("*") if path.is_file()):
        assert MARK.encode() not in path.read_bytes(), path
    for row in lake.duckdb_rows(service.table)[0]:
        assert MARK not in str(row)


def reasons(samples: dict[str, float]) -> dict[str, float]:
    """The samples that say why something was not stored."""
    stored = {"kept", "pseudonymised", "envelope"}
    counted = {}
    for name, count in samples.items():
        metric = name.split("{", 1)[0]
        if metric == "esker_events_unstored_total":
            counted[name] = count
        if metric == "esker_attributes_total" and labels(name)["outcome"] not in stored:
            counted[name] = count
    return counted


def refused(answer: Answer, *statuses: int):
    """The answer is one of these errors, with a message that holds no payload."""
    assert answer.status in statuses, (answer.status, answer.body[:300])
    assert MARK.encode() not in answer.body
    if answer.headers["content-type"] == otlp.JSON:
        message = answer.json()["message"]
    else:
        message = otlp.Status.FromString(answer.body).message
    assert len(message) > 10


def refused_or_counted(service: Esker, body: bytes, kind: str = otlp.PROTOBUF) -> Answer:
    """Sends it; it must be refused as malformed, or leave a reason in the counts."""
    before = reasons(service.metrics())
    answer = service.post(body, kind)
    assert MARK.encode() not in answer.body
    if answer.status == 200:
        assert reasons(service.metrics()) != before, "taken without a word"
    else:
        refused(answer, 400)
    return answer


def outcome(service: Esker, name: str, *records) -> float:
    """How often this attribute outcome was counted for these records, which must be taken."""
    before = by_labels(service.metrics(), "esker_attributes_total", outcome=name)
    answer = service.post(otlp.encoded(*records))
    assert answer.status == 200, answer.body
    assert MARK.encode() not in answer.body
    return by_labels(service.metrics(), "esker_attributes_total", outcome=name) - before


def marked(name: str = "test.order.placed", **more):
    """A record with the mark in its body, in an undeclared, a personal, a sensitive and a pseudonymous attribute."""
    attributes = {f"key.{MARK}": MARK, "user.email": MARK, "auth.token": MARK, "user.id": MARK, **more.pop("attributes", {})}
    return otlp.record(name, attributes, body=otlp.value(MARK), severity_text=MARK, **more)


# --- Not OTLP at all


def test_every_truncation_of_a_request_is_refused(hostile):
    whole = otlp.encoded(marked())
    for length in range(1, len(whole)):
        refused(hostile.post(whole[:length]), 400)


def test_random_bytes(hostile):
    chance = random.Random(7)
    for _ in range(200):
        answer = hostile.post(chance.randbytes(chance.randrange(1, 2000)) + MARK.encode())
        if answer.status != 200:
            refused(answer, 400)


def test_a_request_with_flipped_bits(hostile):
    chance = random.Random(8)
    whole = otlp.encoded(marked(), marked("test.job.finished"))
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        answer = hostile.post(bytes(damaged))
        assert answer.status in (200, 400)
        # A flipped bit may change the mark itself; what is left of it must not be told either.
        assert b"MARK" not in answer.body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        MARK.encode(),
        b'{"resourceLogs": 5}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": 5}]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "' + MARK.encode() + b'"}]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "' + MARK.encode() + b'"}]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"severityNumber": "' + MARK.encode() + b'"}]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": [{"key": 7}]}]}]}]}',
        b'{"resourceLogs": [' + b"[" * 100_000,
        b'{"' + MARK.encode() + b'": ',
        b'{"resourceLogs": []} ' + MARK.encode(),
        b"\xff\xfe{}",
    ],
    ids=range(14),
)
def test_malformed_json(hostile, body):
    refused(hostile.post(body, otlp.JSON), 400)


@pytest.mark.parametrize("number", ["-5", -5, "1e400", 1e300, "0x10", "18446744073709551616", 1.5, True, None, ""])
def test_json_times_that_are_none(hostile, number):
    """Refused, or (null, empty) taken as absent: never another time than the one that was sent."""
    answer = hostile.post(otlp.json_export(otlp.json_record("no.such", timeUnixNano=number)), otlp.JSON)
    if number in (None, ""):
        assert answer.status in (200, 400)
    else:
        refused(answer, 400)


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", MARK, 1e30, 0.5, [], {}])
def test_json_integers_that_are_none(hostile, number):
    attribute = {"key": "test.seq", "value": {"intValue": number}}
    refused_or_counted(hostile, otlp.json_export(otlp.json_record(attributes=None) | {"attributes": [attribute]}), otlp.JSON)


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", f"application/{MARK}", "", "application/json-seq"])
def test_other_content_types(hostile, kind):
    answer = hostile.post(otlp.encoded(marked()), kind)
    assert answer.status == 415 and answer.body
    assert MARK.encode() not in answer.body


def test_other_methods(hostile):
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        assert request(hostile.ready["http"], method, "/v1/logs").status == 405


@pytest.mark.parametrize("encoding", ["br", "deflate", MARK, "gzip, gzip"])
def test_other_compressions(hostile, encoding):
    answer = hostile.post(otlp.encoded(marked()), content_encoding=encoding)
    assert answer.status in (400, 415)
    assert MARK.encode() not in answer.body


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_bodies_that_are_not_compressed_as_they_say(hostile, encoding):
    compress = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[encoding]
    whole = compress(otlp.encoded(*(marked() for _ in range(50))))
    for body in (otlp.encoded(marked()), whole[: len(whole) // 2], whole[:3], MARK.encode() + whole):
        refused(hostile.post(body, content_encoding=encoding), 400)


# --- Too much


def gzip_bomb(size: int) -> bytes:
    compressor = zlib.compressobj(1, wbits=31)
    chunk = bytes(1 << 20)
    return b"".join(compressor.compress(chunk) for _ in range(size >> 20)) + compressor.flush()


def zstd_bomb(size: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    chunk = bytes(1 << 20)
    return b"".join(compressor.compress(chunk) for _ in range(size >> 20)) + compressor.flush()


@pytest.mark.parametrize(("encoding", "bomb"), [("gzip", gzip_bomb), ("zstd", zstd_bomb)])
def test_bombs_are_refused_without_being_unpacked(hostile, encoding, bomb):
    body = bomb(1 << 30)
    for _ in range(3):
        refused(hostile.post(body, content_encoding=encoding), 413)
    assert hostile.peak_memory_bytes() < MEMORY_LIMIT


def test_a_zstd_frame_that_asks_for_a_huge_window(hostile):
    parameters = zstandard.ZstdCompressionParameters(window_log=30)
    body = zstandard.ZstdCompressor(compression_params=parameters).compress(otlp.encoded(marked()))
    answer = hostile.post(body, content_encoding="zstd")
    assert answer.status in (200, 400, 413)
    assert hostile.peak_memory_bytes() < MEMORY_LIMIT


def test_bodies_over_the_limit(hostile):
    body = otlp.encoded(otlp.record(attributes={"x": MARK * 1_700_000}))
    assert len(body) > 16 << 20
    refused(hostile.post(body), 413)
    refused(hostile.post(body, otlp.JSON), 413)


def test_a_body_that_lies_about_its_length(hostile):
    """Announces far more than the limit, or more than it sends: the connection ends, the service does not."""
    host, port = hostile.ready["http"].rsplit(":", 1)
    for announced in (1 << 40, 5000):
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            head = f"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {otlp.PROTOBUF}\r\ncontent-length: {announced}\r\n\r\n"
            raw.sendall(head.encode() + MARK.encode())


def test_http_that_is_none(hostile):
    host, port = hostile.ready["http"].rsplit(":", 1)
    for line in (MARK.encode() + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00" + bytes(500), b"A" * 100_000):
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            try:
                raw.sendall(line)
                raw.shutdown(socket.SHUT_WR)
                assert MARK.encode() not in raw.recv(65536)
            except OSError:
                pass  # it hung up before it had read all: an answer, too


def test_strings_of_ten_megabytes(hostile):
    for key in ("test.text", "user.id", "user.email", f"undeclared.{MARK}"):
        text = (MARK * (10_000_000 // len(MARK) + 1))[:10_000_000]
        refused_or_counted(hostile, otlp.encoded(otlp.record("test.order.placed", {key: text})))


def test_a_name_of_ten_megabytes(hostile):
    refused_or_counted(hostile, otlp.encoded(otlp.record(MARK * 900_000)))


def test_ten_thousand_attributes_on_one_record(hostile):
    refused_or_counted(hostile, otlp.encoded(otlp.record(attributes={f"{MARK}.{n}": n for n in range(10_000)})))


def test_a_hundred_thousand_records_in_one_request(hostile):
    records = [otlp.record(f"{MARK}.{n}", nanos=1) for n in range(100_000)]
    before = hostile.counts().get("(undeclared)", {}).get("received", 0)
    answer = hostile.post(otlp.encoded(*records))
    assert answer.status in (200, 413), answer.body[:200]
    if answer.status == 200:
        assert hostile.counts()["(undeclared)"]["received"] == before + 100_000


# --- Too deep


def nested_value(depth: int) -> bytes:
    """An AnyValue of lists in lists, encoded by hand: the library's own limit is lower."""

    def field(number: int, body: bytes) -> bytes:
        length, size = b"", len(body)
        while size >= 0x80:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + body

    inner = field(1, MARK.encode())
    for _ in range(depth):
        inner = field(5, field(1, inner))  # array_value { values: inner }
    attribute = field(6, field(1, b"test.anything") + field(2, inner))
    record = field(12, b"test.order.placed") + attribute
    return field(1, field(2, field(2, record)))


@pytest.mark.parametrize("depth", [40, 1000, 100_000])
def test_deep_nesting_in_protobuf(hostile, depth):
    refused_or_counted(hostile, nested_value(depth))


@pytest.mark.parametrize("depth", [40, 1000, 100_000])
def test_deep_nesting_in_json(hostile, depth):
    inner = '{"arrayValue":{"values":[' * depth + '{"stringValue":"' + MARK + '"}' + "]}}" * depth
    record = '{"eventName":"test.order.placed","attributes":[{"key":"test.anything","value":' + inner + "}]}"
    body = '{"resourceLogs":[{"scopeLogs":[{"logRecords":[' + record + "]}]}]}"
    refused_or_counted(hostile, body.encode(), otlp.JSON)


@pytest.mark.parametrize("depth", [100, 100_000])
@pytest.mark.parametrize("key", ["test.anything", "test.tags", "test.text"])
def test_deep_nesting_inside_a_text(hostile, key, depth):
    """What looks like JSON text is read as such for arrays; it may be as hostile as the rest. Text is text, if short."""
    answer = hostile.post(otlp.encoded(otlp.record("test.order.placed", {key: "[" * depth + "]" * depth})))
    assert answer.status == 200


# --- Names, keys and values that are off


@pytest.mark.parametrize("name", [f"user {MARK} logged in", MARK, f"test.order.placed {MARK}", f"a\n{MARK}", f"\u202e{MARK}"])
def test_names_with_values_in_them_are_counted_under_no_name_of_theirs(hostile, name):
    before = hostile.counts().get("(undeclared)", {}).get("dropped", 0)
    assert hostile.post(otlp.encoded(otlp.record(name))).status == 200
    assert hostile.counts()["(undeclared)"]["dropped"] == before + 1


def test_empty_names(hostile):
    before = hostile.counts().get("(unnamed)", {}).get("dropped", 0)
    assert hostile.post(otlp.encoded(marked(""))).status == 200
    assert hostile.counts()["(unnamed)"]["dropped"] == before + 1


def corrupted(record, place: bytes) -> bytes:
    """A request in which these bytes, of ASCII text, are no UTF-8 any more."""
    body = otlp.encoded(record)
    assert place in body
    return body.replace(place, b"\xff" + place[1:])


@pytest.mark.parametrize("place", ["NAME", "KEY", "PERSONAL", "TEXT", "BODY", "SERVICE"])
def test_text_that_is_not_utf8(hostile, place):
    attributes = {"KEY": MARK, "user.email": "PERSONAL", "test.text": "TEXT", "user.id": MARK}
    record = otlp.record("NAME" if place == "NAME" else "test.order.placed", attributes, body=otlp.value("BODY"))
    if place == "SERVICE":
        body = otlp.encoded(record, service="SERVICE").replace(b"SERVICE", b"\xff\xfeRVICE")
    else:
        body = corrupted(record, place.encode())
    refused_or_counted(hostile, body)


@pytest.mark.parametrize(
    ("length", "identifier"), [(16, bytes(16)), (16, b""), (16, b"short"), (16, bytes(range(17))), (16, MARK.encode())]
)
def test_trace_ids_that_are_none_are_absent(hostile, length, identifier):
    seq = 50_000 + len(identifier) * 2 + (identifier == bytes(16))
    span = bytes(8) if identifier == bytes(length) else identifier[:7]
    record = otlp.record("test.order.placed", {"test.seq": seq}, trace_id=identifier, span_id=span)
    answer = hostile.post(otlp.encoded(record))
    if answer.status != 200:
        return refused(answer, 400)
    hostile.wait_settled()
    rows = lake.query(hostile.table, f"SELECT trace_id, span_id FROM events WHERE test_seq = {seq}")
    assert rows == [(None, None)]


def test_duplicate_keys_are_counted_and_one_value_is_stored(hostile):
    record = otlp.record("test.order.placed", {"test.seq": 60_000})
    record.attributes.extend(otlp.pairs({"test.flag": True}) * 3)
    record.attributes.extend(otlp.pairs({"user.email": MARK}) * 2)
    assert outcome(hostile, "duplicate", record) == 3
    hostile.wait_settled()
    assert lake.query(hostile.table, "SELECT test_flag FROM events WHERE test_seq = 60000") == [(True,)]


@pytest.mark.parametrize("nanos", [1, 2**62, 2**63, 2**64 - 1, 946_684_800 * 10**9])
def test_times_out_of_range_are_rejected_and_told(hostile, nanos):
    answer = hostile.post(otlp.encoded(marked(nanos=nanos)))
    assert answer.status == 200
    part = otlp.ExportLogsServiceResponse.FromString(answer.body).partial_success
    assert part.rejected_log_records == 1 and part.error_message
    assert MARK not in part.error_message


WRONG_TYPES = pytest.mark.parametrize(
    ("key", "item"),
    [
        ("test.seq", MARK),
        ("test.seq", 1.5),
        ("test.seq", True),
        ("test.seq", "9223372036854775808"),
        ("test.flag", MARK),
        ("test.flag", 7),
        ("test.ratio", MARK),
        ("test.tags", MARK),
        ("test.numbers", [MARK]),
        ("test.numbers", "[1, "),
        ("test.text", [MARK]),
        ("test.text", {"k": MARK}),
        ("test.seq", MARK.encode()),
    ],
)


@WRONG_TYPES
def test_values_of_another_type_are_dropped_and_counted(lenient, key, item):
    assert outcome(lenient, "type_mismatch", otlp.record("test.order.placed", {key: item})) == 1


@WRONG_TYPES
def test_events_with_a_value_of_another_type_are_set_aside(hostile, key, item):
    """By default the event breaks its contract: nothing of it is in the table of events."""
    before = len(quarantined(hostile))
    assert hostile.post(otlp.encoded(otlp.record("test.order.placed", {key: item}))).status == 200
    hostile.wait_settled()
    rows = quarantined(hostile)
    assert len(rows) == before + 1
    assert rows[-1] == ("test.order.placed", "type_mismatch", key, None)


def quarantined(service: Esker) -> list[tuple]:
    table = service.table.parent / "events_quarantine"
    return lake.query(table, "SELECT event_name, reason, detail, sealed FROM events ORDER BY event_time")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_doubles_that_are_no_numbers_are_dropped_and_counted(hostile, number):
    assert outcome(hostile, "not_finite", otlp.record("test.order.placed", {"test.ratio": number})) == 1


@pytest.mark.parametrize(("key", "item"), [("test.plan", MARK), ("test.tier", 9)])
def test_values_outside_an_enum_are_dropped_and_counted(lenient, key, item):
    assert outcome(lenient, "not_a_member", otlp.record("test.order.placed", {key: item})) == 1


@pytest.mark.parametrize(("key", "name"), [("user.email", "dropped_personal"), ("auth.token", "dropped_sensitive"), (f"x.{MARK}", "undeclared")])
def test_what_may_not_be_kept_is_counted(hostile, key, name):
    assert outcome(hostile, name, otlp.record("test.order.placed", {key: MARK})) == 1


def test_marks_in_the_envelope(hostile):
    """Service, version, scope, severity text, body: read for the envelope or not at all, and never told."""
    body = otlp.encoded(marked(), service=f"{MARK} {MARK}", version=f"{MARK}\n", scope=f"{MARK} \u0000")
    answer = hostile.post(body)
    assert answer.status in (200, 400) and MARK.encode() not in answer.body


# --- gRPC


def test_grpc_refuses_what_is_no_request(hostile):
    with grpc.insecure_channel(hostile.ready["grpc"]) as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
        whole = otlp.encoded(marked())
        for body in (whole[:-3], b"\xff\xff" + MARK.encode(), nested_value(100_000)):
            with pytest.raises(grpc.RpcError) as caught:
                call(body, timeout=30)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() and MARK not in caught.value.details()


def test_grpc_bombs_and_oversized_messages(hostile):
    with grpc.insecure_channel(hostile.ready["grpc"], options=[("grpc.max_send_message_length", -1)]) as channel:
        stub = LogsServiceStub(channel)
        huge = otlp.export(otlp.record(attributes={"x": MARK * 3_000_000}))
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Export(huge, timeout=30, compression=compression)
            # Never a code that makes an SDK send it again.
            assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)
            assert MARK not in caught.value.details()
    assert hostile.peak_memory_bytes() < MEMORY_LIMIT


# --- The counts, at the end


def test_after_all_this_the_counts_still_balance(hostile):
    hostile.wait_settled()
    for name, count in hostile.counts().items():
        assert balanced(count), name
    declared = {"test.order.placed", "test.job.finished", "test.login.failed", "(undeclared)", "(unnamed)"}
    assert set(hostile.counts()) <= declared
    assert all(MARK not in json.dumps(labels(name)) for name in hostile.metrics())
