"""`kill -9` at any moment under load: every acknowledged event is in the table exactly once, and nothing is there twice.

Several clients send numbered events over HTTP. A client that gets no answer, or one that asks for it, sends the identical
body again, as an OTLP SDK does, until it is acknowledged. Now and then a client hangs up without reading the answer and
sends the body again. Meanwhile the service is killed and started, sometimes before it was ready. Flushes are frequent, so that
kills hit commits too.
"""

import http.client
import os
import random
import threading
import time

import lake
import otlp
import pytest
from harness import free_ports

ROUNDS = 40
CLIENTS = 4
EVENTS_A_REQUEST = 20
# A client that waits longer than this for one acknowledgement has found a hang.
PATIENCE_SECONDS = 120


class Client(threading.Thread):
    """Sends numbered requests one after another until `stop`, each until it is acknowledged."""

    def __init__(self, number: int, port: int, seed: int, stop: threading.Event):
        super().__init__(daemon=True)
        self.number, self.port, self.stop = number, port, stop
        self.random = random.Random(seed)
        self.acknowledged: list[int] = []
        self.repeats = 0
        self.fault: str | None = None

    def run(self):
        try:
            request = 0
            while not self.stop.is_set():
                first = self.number * 100_000_000 + request * EVENTS_A_REQUEST
                seqs = list(range(first, first + EVENTS_A_REQUEST))
                self.deliver(otlp.numbered(seqs))
                self.acknowledged += seqs
                request += 1
        except Exception as error:  # noqa: BLE001 - the test's thread reports it
            self.fault = repr(error)

    def deliver(self, body: bytes):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            status = self.attempt(body)
            if status == 200:
                return
            if status not in (None, 502, 503, 504):
                raise AssertionError(f"status {status}: an SDK would drop this batch")
            self.repeats += 1
            time.sleep(0.02)
        raise TimeoutError("no acknowledgement")

    def attempt(self, body: bytes) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/v1/logs", body, {"content-type": otlp.PROTOBUF})
            if self.random.random() < 0.03:
                return None  # hangs up; the service may well have taken it
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


@pytest.mark.timeout(480)
def test_every_acknowledged_event_survives_and_none_is_stored_twice(esker, record_property):
    seed = int(os.environ.get("E2E_SEED", time.time_ns() % 1_000_000))
    print(f"E2E_SEED={seed}")
    chance = random.Random(seed)
    service = esker(ports=tuple(free_ports(3)), flush={"max_age": "150ms"})
    stop = threading.Event()
    port = service.ports[1]
    clients = [Client(number, port, chance.random(), stop) for number in range(CLIENTS)]

    service.start()
    for client in clients:
        client.start()
    for round_number in range(ROUNDS):
        time.sleep(chance.uniform(0.05, 1.2))
        service.kill()
        if round_number % 4 == 3:
            # Killed again while it recovers.
            service.spawn()
            time.sleep(chance.uniform(0.0, 0.15))
            service.kill()
        service.start()

    time.sleep(1)
    stop.set()
    for client in clients:
        client.join(PATIENCE_SECONDS + 10)
        assert not client.is_alive() and client.fault is None, client.fault
    assert service.stop() == 0

    acknowledged = {seq for client in clients for seq in client.acknowledged}
    rows = lake.query(service.table, "SELECT test_seq, test_text, count(*) FROM events GROUP BY ALL")
    stored = {seq for seq, _, _ in rows}
    twice = [seq for seq, _, times in rows if times != 1]
    assert not acknowledged - stored, f"{len(acknowledged - stored)} acknowledged events are lost (seed {seed})"
    assert not twice, f"{len(twice)} events are stored more than once (seed {seed})"
    assert not stored - acknowledged, f"events that nobody sent to the end are stored (seed {seed})"
    assert all(text == f"s{seq}" for seq, text, _ in rows)

    repeats = sum(client.repeats for client in clients)
    assert repeats > ROUNDS, "the kills must have hit requests"
    snapshots = len(lake.pyiceberg_table(service.table).history())
    assert snapshots > ROUNDS // 2, "the kills must have had commits to hit"
    text = f"{ROUNDS} kills, {len(acknowledged)} events, {repeats} repeated requests, {snapshots} snapshots, seed {seed}"
    record_property("kill -9", text)


def test_a_retry_after_the_restart_is_recognised(esker):
    """The client got no answer, the request was durable, and also committed and released before the retry."""
    service = esker(ports=tuple(free_ports(3)), flush={"max_age": "200ms"}).start()
    body = otlp.numbered(range(10))
    assert service.post(body).status == 200
    service.wait_settled()
    service.kill()
    service.start()
    assert service.post(body).status == 200
    assert service.stop() == 0
    assert lake.count(service.table) == 10


def test_what_was_not_committed_is_replayed(esker):
    service = esker(flush={"max_age": "1h"}).start()
    assert service.post(otlp.numbered(range(100))).status == 200
    service.kill()
    service.start()
    (count,) = (count for name, count in service.counts().items() if name == "test.job.finished")
    assert (count["received"], count["in_flight"]) == (100, 100)
    service.kill()
    service.start()
    assert service.stop() == 0
    assert lake.query(service.table, "SELECT count(*), count(DISTINCT test_seq) FROM events") == [(100, 100)]
