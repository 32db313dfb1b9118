// Events through the OpenTelemetry SDK for Node: run `node send.mjs --count 10` beside a running Esker.
//
// OTEL_EXPORTER_OTLP_PROTOCOL chooses `http/protobuf` (default), `http/json` or `grpc`; the SDK itself reads where to send
// from OTEL_EXPORTER_OTLP_ENDPOINT (default http://localhost:4318, for gRPC http://localhost:4317).

import { parseArgs } from "node:util";

import { SeverityNumber } from "@opentelemetry/api-logs";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchLogRecordProcessor, LoggerProvider } from "@opentelemetry/sdk-logs";

const PACKAGES = {
  "http/protobuf": "@opentelemetry/exporter-logs-otlp-proto",
  "http/json": "@opentelemetry/exporter-logs-otlp-http",
  grpc: "@opentelemetry/exporter-logs-otlp-grpc",
};

const { values: options } = parseArgs({
  options: {
    count: { type: "string", default: "10" },
    event: { type: "string", default: "code_references.scan.created" },
    number: { type: "string", default: "code_references.count" },
  },
});

const protocol = process.env.OTEL_EXPORTER_OTLP_PROTOCOL ?? "http/protobuf";
const { OTLPLogExporter } = await import(PACKAGES[protocol]);

const provider = new LoggerProvider({
  resource: resourceFromAttributes({ "service.name": "node-example" }),
  processors: [new BatchLogRecordProcessor({ exporter: new OTLPLogExporter() })],
});
const logger = provider.getLogger("node-example", "1.0.0");

for (let number = 0; number < Number(options.count); number += 1) {
  logger.emit({
    eventName: options.event,
    severityNumber: SeverityNumber.INFO,
    timestamp: Date.now(),
    attributes: { "organisation.id": 7, "feature.count": 1, [options.number]: number },
  });
}

await provider.shutdown();
