"""OTLP log requests, built with OpenTelemetry's own protobuf classes, and as OTLP/JSON.

Owns: payloads. Does not own: sending them (`harness`) or what must become of them (the tests).
"""

import json
import time

from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

__all__ = ["ExportLogsServiceResponse", "Status"]

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


def value(item) -> AnyValue:
    if item is None:
        return AnyValue()
    if isinstance(item, AnyValue):
        return item
    if isinstance(item, bool):
        return AnyValue(bool_value=item)
    if isinstance(item, int):
        return AnyValue(int_value=item)
    if isinstance(item, float):
        return AnyValue(double_value=item)
    if isinstance(item, str):
        return AnyValue(string_value=item)
    if isinstance(item, bytes):
        return AnyValue(bytes_value=item)
    if isinstance(item, list):
        return AnyValue(array_value=ArrayValue(values=[value(part) for part in item]))
    if isinstance(item, dict):
        return AnyValue(kvlist_value=KeyValueList(values=pairs(item)))
    raise TypeError(type(item))


def pairs(items: dict) -> list[KeyValue]:
    return [KeyValue(key=key, value=value(item)) for key, item in items.items()]


def record(name: str = "test.job.finished", attributes: dict | None = None, nanos: int | None = None, **fields) -> LogRecord:
    """A log record. `nanos` defaults to now."""
    when = time.time_ns() if nanos is None else nanos
    fields = {"time_unix_nano": when, "observed_time_unix_nano": when, "severity_number": 9, **fields}
    return LogRecord(event_name=name, attributes=pairs(attributes or {}), **fields)


def export(*records: LogRecord, service: str | None = "e2e", version: str = "1.2.3", scope: str = "e2e.scope"):
    """A request with one resource and one scope."""
    resource = Resource(attributes=pairs({"service.name": service, "service.version": version} if service else {}))
    scope_logs = ScopeLogs(log_records=records)
    scope_logs.scope.name = scope
    return ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope_logs])])


def encoded(*records: LogRecord, **envelope) -> bytes:
    return export(*records, **envelope).SerializeToString()


def numbered(seqs, name: str = "test.job.finished", text: str = "s{}") -> bytes:
    """A request with one event for each number."""
    return encoded(*(record(name, {"test.seq": seq, "test.text": text.format(seq)}) for seq in seqs))


def json_value(item) -> dict:
    """An AnyValue as OTLP/JSON spells it: 64-bit integers as strings."""
    if isinstance(item, bool):
        return {"boolValue": item}
    if isinstance(item, int):
        return {"intValue": str(item)}
    if isinstance(item, float):
        return {"doubleValue": item}
    return {"stringValue": item}


def json_record(name: str = "test.job.finished", attributes: dict | None = None, **fields) -> dict:
    return {
        "timeUnixNano": str(time.time_ns()),
        "severityNumber": 9,
        "eventName": name,
        "attributes": [{"key": key, "value": json_value(item)} for key, item in (attributes or {}).items()],
        **fields,
    }


def json_export(*records: dict) -> bytes:
    scope_logs = {"scope": {"name": "e2e.scope"}, "logRecords": list(records)}
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "e2e"}}]}
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [scope_logs]}]}).encode()
