"""Memory at the defaults, whatever the load: many clients at once, each with a request that is as costly as its bytes can be.

The peak is the process's own high-water mark, the flush at the end included.
"""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import otlp
import pytest
from harness import REPO, Esker

MEMORY_LIMIT = 300 << 20


def columns(service: Esker) -> dict[str, str]:
    """Every attribute key of the registry that is stored, with an event that declares it."""
    catalogue = json.loads(service.run("catalogue", "--format", "json").stdout)
    found = {}
    for event in catalogue["events"]:
        for attribute in event["attributes"]:
            if attribute["treatments"]["warehouse"] != "drop":
                found.setdefault(attribute["key"], event["name"])
    return found


def wide(client: int, keys: dict[str, str]) -> bytes:
    """38,000 nearly empty records that touch every column of the table, at its beginning and at its end: about 1.2 MiB that
    become millions of cells."""
    every = [otlp.record(name, {key: str(client + 1)}) for key, name in keys.items()]
    empty = [otlp.record("billing.seat.added", observed_time_unix_nano=0)] * 38_000
    return otlp.encoded(*every, *empty, *every)


def tiny(client: int) -> bytes:
    """As many records as a request may have."""
    records = [otlp.record("test.job.finished", {"test.seq": client})] * 60_000
    return otlp.encoded(*records)


def ordinary(client: int) -> bytes:
    """A Collector's batch."""
    attributes = {"test.text": "t" * 40, "user.id": f"u{client}", "test.seq": client, "undeclared": "x" * 30}
    return otlp.encoded(*[otlp.record("test.job.finished", attributes)] * 8192)


def flood(service: Esker, bodies: list[bytes], rounds: int):
    def send(body: bytes) -> set[int]:
        return {service.post(body).status for _ in range(rounds)}

    with ThreadPoolExecutor(len(bodies)) as clients:
        statuses = set().union(*clients.map(send, bodies))
    # Either it is taken, or the client is told to come again.
    assert 200 in statuses and statuses <= {200, 503}, statuses


@pytest.mark.parametrize("load", ["wide", "tiny", "ordinary"])
def test_many_clients_at_once_stay_within_the_memory_limit(esker, load, record_property):
    service = esker(flush={"max_age": "30s"}, **({"schemas": REPO / "schemas"} if load == "wide" else {})).start()
    if load == "wide":
        keys = columns(service)
        assert len(keys) >= 80
        flood(service, [wide(client, keys) for client in range(24)], 1)
    elif load == "tiny":
        flood(service, [tiny(client) for client in range(12)], 2)
    else:
        flood(service, [ordinary(client) for client in range(24)], 6)
    peak = service.peak_memory_bytes()
    service.process.terminate()
    while service.running:
        # Nothing is left to read between the end of the process and its exit code.
        with contextlib.suppress(OSError, AttributeError):
            peak = max(peak, service.peak_memory_bytes())
    assert service.wait() == 0
    record_property("peak resident memory", f"{load}: {peak >> 20} MiB")
    assert peak < MEMORY_LIMIT
