"""OTLP as the specification has it: encodings, compressions, ids, names, and what is answered."""

import gzip
import json

import grpc
import lake
import otlp
import pytest
import zstandard
from harness import by_labels
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

PLAIN = {"identity": lambda body: body, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}


def stored(service, where: str, columns: str = "test_seq, test_text") -> list[tuple]:
    service.wait_settled()
    return lake.query(service.table, f"SELECT {columns} FROM events WHERE {where} ORDER BY ALL")


@pytest.mark.parametrize("compression", PLAIN)
@pytest.mark.parametrize("kind", [otlp.PROTOBUF, otlp.JSON])
def test_http_in_both_encodings_and_every_compression(shared, kind, compression):
    text = f"{kind}+{compression}"
    if kind == otlp.JSON:
        body = otlp.json_export(otlp.json_record(attributes={"test.seq": 1, "test.text": text}))
    else:
        body = otlp.encoded(otlp.record(attributes={"test.seq": 1, "test.text": text}))
    headers = {} if compression == "identity" else {"content_encoding": compression}
    answer = shared.post(PLAIN[compression](body), kind, **headers)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    if kind == otlp.JSON:
        assert answer.json() in ({}, {"partialSuccess": {}})
    else:
        otlp.ExportLogsServiceResponse.FromString(answer.body)
    assert stored(shared, f"test_text = '{text}'") == [(1, text)]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_grpc(shared, compression):
    text = f"grpc-{compression.name}"
    with grpc.insecure_channel(shared.ready["grpc"]) as channel:
        request = otlp.export(otlp.record(attributes={"test.seq": 2, "test.text": text}))
        response = LogsServiceStub(channel).Export(request, timeout=30, compression=compression)
    assert response.partial_success.rejected_log_records == 0
    assert stored(shared, f"test_text = '{text}'") == [(2, text)]


def test_json_as_the_specification_defines_it(shared):
    """Hex ids, 64-bit integers as text or number, unknown fields ignored, enums as numbers."""
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    attributes = [
        {"key": "test.seq", "value": {"intValue": 9007199254740993}},
        {"key": "test.tier", "value": {"intValue": "2"}},
        {"key": "test.ratio", "value": {"doubleValue": 1}},
        {"key": "test.text", "value": {"stringValue": "spec", "neverHeardOf": 1}},
        {"key": "test.tags", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
        {"key": "test.anything", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"boolValue": True}}]}}},
    ]
    record = otlp.json_record(
        "test.order.placed", severityNumber=13, traceId=trace, spanId=span.upper(), unknown={"deep": [1]}
    )
    record["timeUnixNano"] = int(record["timeUnixNano"])
    answer = shared.post(otlp.json_export({**record, "attributes": attributes}), otlp.JSON)
    assert answer.status == 200, answer.body
    columns = "test_seq, test_tier, test_ratio, test_tags, test_anything, severity, trace_id, span_id"
    (row,) = stored(shared, "test_text = 'spec'", columns)
    assert row[:3] == (9007199254740993, 2, 1.0)
    assert (json.loads(row[3]), json.loads(row[4])) == (["a"], {"k": True})
    assert row[5:] == ("warn", trace, span)


def test_names_are_found_in_their_order_of_precedence(shared):
    records = [
        otlp.record("test.job.finished", {"otel.event.name": "no.such", "test.text": "field"}),
        otlp.record("", {"otel.event.name": "test.job.finished", "event.name": "no.such", "test.text": "otel"}),
        otlp.record("", {"event.name": "test.job.finished", "test.text": "attribute"}),
        otlp.record("", {"test.text": "none"}, body=otlp.value("test.job.finished")),
    ]
    assert shared.post(otlp.encoded(*records)).status == 200
    found = stored(shared, "test_text IN ('field', 'otel', 'attribute', 'none')", "test_text")
    assert found == [("attribute",), ("field",), ("otel",)]


def test_a_producer_without_names_can_be_given_a_rule(esker):
    service = esker(receive={"names": [{"scope": "old.scope", "body": True}]}).start()
    record = otlp.record("", {"test.text": "ruled"}, body=otlp.value("test.job.finished"))
    assert service.post(otlp.encoded(record, scope="old.scope")).status == 200
    assert service.post(otlp.encoded(record, scope="new.scope")).status == 200
    assert stored(service, "true", "scope_name") == [("old.scope",)]


def test_a_partial_success_says_how_many_and_why(shared):
    future = otlp.record(nanos=2**62, attributes={"test.text": "future"})
    good = otlp.record(attributes={"test.seq": 5, "test.text": "good half"})
    answer = shared.post(otlp.encoded(future, good, future))
    assert answer.status == 200
    part = otlp.ExportLogsServiceResponse.FromString(answer.body).partial_success
    assert part.rejected_log_records == 2
    assert "time_out_of_range" in part.error_message
    record = otlp.json_record(timeUnixNano=str(2**62))
    told = shared.post(otlp.json_export(record), otlp.JSON).json()["partialSuccess"]
    assert int(told["rejectedLogRecords"]) == 1 and told["errorMessage"]
    assert stored(shared, "test_text IN ('future', 'good half')") == [(5, "good half")]


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/metrics", "/", "/v1/logs/more"])
def test_other_paths_are_clearly_not_served(shared, path):
    answer = shared.post(b"", path=path)
    assert answer.status == 404
    assert otlp.Status.FromString(answer.body).message


def test_other_services_are_clearly_not_served_over_grpc(shared):
    with grpc.insecure_channel(shared.ready["grpc"]) as channel:
        for service in ("trace.v1.TraceService", "metrics.v1.MetricsService"):
            call = channel.unary_unary(f"/opentelemetry.proto.collector.{service}/Export")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=30)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_errors_are_told_in_the_requests_own_encoding(shared):
    answer = shared.post(b"\xff\xff\xff", otlp.PROTOBUF)
    assert (answer.status, answer.headers["content-type"]) == (400, otlp.PROTOBUF)
    assert otlp.Status.FromString(answer.body).message
    answer = shared.post(b"{", otlp.JSON)
    assert (answer.status, answer.headers["content-type"]) == (400, otlp.JSON)
    assert answer.json()["message"]


def test_an_empty_request_is_a_success(shared):
    assert shared.post(b"").status == 200
    assert shared.post(b"{}", otlp.JSON).status == 200


def test_a_durable_request_that_is_sent_again_is_stored_once(shared):
    body = otlp.encoded(otlp.record(attributes={"test.seq": 77, "test.text": "again"}))
    before = shared.counts().get("test.job.finished", {}).get("dropped_by", {}).get("duplicate_request", 0)
    for _ in range(3):
        assert shared.post(body).status == 200
    shared.wait_settled()
    assert shared.post(body).status == 200, "also once it is committed"
    assert stored(shared, "test_text = 'again'") == [(77, "again")]
    assert shared.counts()["test.job.finished"]["dropped_by"]["duplicate_request"] == before + 3


def test_the_same_event_twice_in_one_request_is_two_events(shared):
    record = otlp.record(attributes={"test.seq": 78, "test.text": "twin"})
    assert shared.post(otlp.encoded(record, record)).status == 200
    rows = stored(shared, "test_text = 'twin'", "event_id, test_seq")
    assert len({event_id for event_id, _ in rows}) == 2


def test_a_producers_own_event_id_is_kept(shared):
    uid = "01JD7Z5D9X8K3M2N1P0Q9R8S7T"
    record = otlp.record(attributes={"log.record.uid": uid, "test.text": "uid"})
    assert shared.post(otlp.encoded(record)).status == 200
    assert stored(shared, "test_text = 'uid'", "event_id") == [(uid,)]


def test_requests_are_counted_by_protocol_and_outcome(shared):
    before = shared.metrics()
    shared.post(otlp.encoded(otlp.record()))
    shared.post(b"\xff", otlp.PROTOBUF)
    after = shared.metrics()
    for outcome in ("accepted", "malformed"):
        wanted = {"protocol": "http/protobuf", "outcome": outcome}
        grown = by_labels(after, "esker_requests_total", **wanted) - by_labels(before, "esker_requests_total", **wanted)
        assert grown == 1, outcome
