"""Real SDKs send through the binary: the programs under examples/ run as a reader would run them, unchanged."""

import os
import shutil
import subprocess
import sys

import lake
import pytest
from harness import REPO, Esker

EXAMPLES = REPO / "examples"
COUNT = 700  # more than one batch of 512


@pytest.fixture(scope="module")
def flagsmith(homes):
    """A service with the repository's own registry, for all senders."""
    service = Esker(homes("senders"), REPO / "schemas").start()
    yield service
    service.kill()


def run(program: list[str], service: Esker, protocol: str, *arguments: str):
    port = service.ready["grpc" if protocol == "grpc" else "http"]
    plain = {key: item for key, item in os.environ.items() if not key.startswith("OTEL_")}
    variables = {
        **plain,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        # gRPC's own loop-back must not go through a proxy of the machine.
        "NO_PROXY": "127.0.0.1,localhost",
    }
    done = subprocess.run([*program, *arguments], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]


def python(name: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / name / "send.py")]


def node() -> list[str]:
    if not (EXAMPLES / "node" / "node_modules").exists():
        pytest.fail("examples/node/node_modules is missing; run `npm ci` in examples/node")
    return [shutil.which("node"), str(EXAMPLES / "node" / "send.mjs")]


def numbers(service: Esker, column: str, where: str) -> list[int]:
    return sorted(row[0] for row in lake.query(service.table, f"SELECT {column} FROM events WHERE {where}"))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_python_structlog(esker, protocol):
    service = esker(schemas=REPO / "schemas").start()
    run(python("python-structlog"), service, protocol, "--count", str(COUNT))
    service.wait_settled()
    where = "service_name = 'python-structlog-example'"
    assert numbers(service, "code_references_count", where) == list(range(COUNT))
    facts = "event_name, category, organisation_id, severity, scope_name"
    rows = lake.query(service.table, f"SELECT DISTINCT {facts} FROM events WHERE {where}")
    assert rows == [("code_references.scan.created", "product", 7, "info", "python-structlog-example")]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_flagsmith_common(flagsmith, protocol):
    """The published processor, unmodified, with the identity that the dashboard puts into W3C baggage."""
    marker = f"device-{protocol.replace('/', '-')}"
    entries = [
        f"amplitude.device_id={marker}",
        "amplitude.session_id=1710864000000",
        f"amplitude.user_id=user-{marker}",
        "someone.elses=entry",
    ]
    before = set(pseudonyms(flagsmith)) if (flagsmith.table / "metadata").exists() else set()
    run(python("flagsmith"), flagsmith, protocol, "--count", str(COUNT), *(f"--baggage={entry}" for entry in entries))
    flagsmith.wait_settled()
    (device,) = set(pseudonyms(flagsmith)) - before
    assert device.startswith("e1_") and marker not in device
    where = f"amplitude_device_id = '{device}'"
    assert numbers(flagsmith, "feature_states_count", where) == list(range(COUNT))
    facts = "event_name, category, organisation_id, environment_id, service_name, scope_name, severity"
    rows = lake.query(flagsmith.table, f"SELECT DISTINCT {facts} FROM events WHERE {where}")
    name = "workflows.change_request.committed"
    assert rows == [(name, "product", 1, 7, "flagsmith-api", "common.core.otel", "info")]
    stored = flagsmith.data.rglob("*")
    assert not any(marker.encode() in path.read_bytes() for path in stored if path.is_file())


def pseudonyms(service: Esker) -> list[str]:
    where = "event_name = 'workflows.change_request.committed' AND amplitude_device_id IS NOT NULL"
    return [row[0] for row in lake.query(service.table, f"SELECT DISTINCT amplitude_device_id FROM events WHERE {where}")]


@pytest.mark.parametrize("item", ["not-a-number", "999"])
def test_baggage_cannot_pass_for_the_server_s_own_value(esker, item):
    """Baggage overwrites the server's attributes in the producer, as text: no text is stored as the server's number."""
    service = esker(schemas=REPO / "schemas").start()
    run(python("flagsmith"), service, "http/protobuf", "--count", "3", f"--baggage=organisation.id={item}")
    service.wait_settled()
    rows = lake.query(service.table, "SELECT DISTINCT organisation_id, environment_id FROM events")
    assert rows == [(None, 7)]
    assert service.admin("/status").json()["counts"]["attributes"]["untrusted"] == 3


@pytest.mark.parametrize("protocol", ["http/json", "http/protobuf", "grpc"])
def test_node(esker, protocol):
    service = esker(schemas=REPO / "schemas").start()
    run(node(), service, protocol, "--count", str(COUNT))
    service.wait_settled()
    assert numbers(service, "code_references_count", "service_name = 'node-example'") == list(range(COUNT))
    rows = lake.query(service.table, "SELECT DISTINCT event_name, organisation_id, severity, scope_name FROM events")
    assert rows == [("code_references.scan.created", 7, "info", "node-example")]
