"""Events as Flagsmith sends them: its own published processor from `flagsmith-common`, unmodified.

Run `python send.py --count 10` beside a running Esker. OTEL_EXPORTER_OTLP_ENDPOINT (default http://localhost:4318) and
OTEL_EXPORTER_OTLP_PROTOCOL (`http/protobuf` or `grpc`) say where to, as they do for Flagsmith.
"""

import argparse
import os

import structlog
from common.core.logging import setup_logging
from common.core.otel import build_otel_log_provider, make_structlog_otel_processor, resolve_otlp_export_endpoints
from opentelemetry import baggage, context


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=10)
    arguments.add_argument("--baggage", action="append", default=[], metavar="KEY=VALUE")
    options = arguments.parse_args()

    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    _, endpoint = resolve_otlp_export_endpoints(base, protocol)
    provider = build_otel_log_provider(endpoint=endpoint, service_name="flagsmith-api", protocol=protocol)
    setup_logging(application_loggers=["workflows"], otel_processors=[make_structlog_otel_processor(provider)])

    # In Flagsmith a middleware takes these from the request's `baggage` header.
    for entry in options.baggage:
        key, _, item = entry.partition("=")
        context.attach(baggage.set_baggage(key, item))

    log = structlog.get_logger("workflows")
    for number in range(options.count):
        log.info(
            "change_request.committed",
            organisation__id=1,
            environment__id=7,
            feature_states__count=number,
        )

    provider.shutdown()


if __name__ == "__main__":
    main()
