"""Events from structlog through the OpenTelemetry SDK: run `python send.py --count 10` beside a running Esker.

The SDK reads where to send from the standard variables: OTEL_EXPORTER_OTLP_ENDPOINT (default http://localhost:4318) and
OTEL_EXPORTER_OTLP_PROTOCOL (`http/protobuf` or `grpc`).
"""

import argparse
import os
import time

import structlog
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

SEVERITIES = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}


def exporter():
    """OTLP over gRPC or HTTP, as OTEL_EXPORTER_OTLP_PROTOCOL says."""
    if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    return OTLPLogExporter()


def event_processor(provider: LoggerProvider):
    """A structlog processor that makes each structlog event an OpenTelemetry event."""
    logger = provider.get_logger("python-structlog-example", "1.0.0")

    def processor(_logger, level: str, event: dict) -> dict:
        attributes = {key.replace("__", "."): item for key, item in event.items() if key != "event"}
        logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                severity_number=SEVERITIES.get(level, SeverityNumber.UNSPECIFIED),
                severity_text=level,
                event_name=event["event"],
                attributes=attributes,
            )
        )
        return event

    return processor


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=10)
    arguments.add_argument("--event", default="code_references.scan.created")
    arguments.add_argument("--number", default="code_references.count", help="the attribute that numbers the events")
    options = arguments.parse_args()

    provider = LoggerProvider(resource=Resource.create({"service.name": "python-structlog-example"}))
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter()))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            event_processor(provider),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(),
    )

    structlog.contextvars.bind_contextvars(organisation__id=7)
    log = structlog.get_logger()
    for number in range(options.count):
        log.info(options.event, **{"feature.count": 1, options.number: number})

    provider.shutdown()


if __name__ == "__main__":
    main()
