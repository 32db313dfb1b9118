"""Starting, flushing, stopping, counting."""

import json
import signal
import socket
import threading
import time

import lake
import otlp
import pytest
from harness import balanced, by_labels, request, wait_until


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)
def test_a_polite_stop_commits_everything_that_was_acknowledged(esker, signum):
    service = esker(flush={"max_age": "1h"}).start()
    for start in range(0, 500, 50):
        assert service.post(otlp.numbered(range(start, start + 50))).status == 200
    assert service.stop(signum) == 0
    assert lake.query(service.table, "SELECT count(*), count(DISTINCT test_seq) FROM events") == [(500, 500)]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)
def test_a_stop_right_after_the_ready_line_is_clean(esker, signum):
    """Whoever supervises it may change its mind at once; the ready line promises that a signal is heard."""
    service = esker()
    for _ in range(10):
        assert service.start().stop(signum) == 0


def test_requests_in_flight_are_answered_before_the_stop(esker):
    """A request whose body arrives slowly is drained; each acknowledgement is kept."""
    service = esker(flush={"max_age": "1h"}).start()
    body = otlp.numbered(range(1000, 1050))
    host, port = service.ready["http"].rsplit(":", 1)
    head = f"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {otlp.PROTOBUF}\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(head.encode() + body[:100])
        time.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        slow.sendall(body[100:])
        status = slow.recv(4096).split(b"\r\n")[0]
    assert service.wait() == 0
    assert status in (b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Service Unavailable", b"")
    assert lake.count(service.table) == (50 if status.endswith(b"OK") else 0)


def test_a_stop_under_load_loses_no_acknowledged_event(esker):
    service = esker(flush={"max_age": "200ms"}).start()
    acknowledged, stop = [], threading.Event()

    def send(first: int):
        for start in range(first, first + 1_000_000, 10):
            if stop.is_set():
                return
            try:
                if service.post(otlp.numbered(range(start, start + 10))).status == 200:
                    acknowledged.extend(range(start, start + 10))
            except OSError:
                return

    senders = [threading.Thread(target=send, args=(number * 1_000_000,), daemon=True) for number in range(3)]
    for sender in senders:
        sender.start()
    time.sleep(1)
    assert service.stop() == 0
    stop.set()
    for sender in senders:
        sender.join(60)
    rows = lake.query(service.table, "SELECT test_seq, count(*) FROM events GROUP BY ALL")
    assert acknowledged and set(acknowledged) <= {seq for seq, _ in rows}
    assert all(times == 1 for _, times in rows)


def test_ten_events_are_soon_readable(esker, record_property):
    """The time is told, not judged: the deadline only ends a hang."""
    service = esker(flush={"max_age": "1s"}).start()
    sent = time.monotonic()
    assert service.post(otlp.numbered(range(10))).status == 200
    answered = time.monotonic() - sent
    wait_until(lambda: (service.table / "metadata" / "version-hint.text").exists() and lake.count(service.table) == 10, "10 rows in DuckDB")
    record_property("freshness", f"answered after {answered * 1000:.0f} ms, readable in DuckDB after {time.monotonic() - sent:.1f} s")


def test_a_full_batch_is_committed_before_its_age(esker):
    service = esker(flush={"max_age": "1h", "max_bytes": "1MiB"}).start()
    for start in range(0, 4000, 100):
        body = otlp.encoded(*(otlp.record(attributes={"test.seq": seq, "test.text": str(seq) * 100}) for seq in range(start, start + 100)))
        assert service.post(body).status == 200
    wait_until(lambda: service.counts()["test.job.finished"]["committed"] > 0, "a commit by size")


def test_every_event_is_accounted_for_by_name(esker):
    """received = committed + quarantined + dropped + rejected + in flight, while it runs and after it ended."""
    service = esker(flush={"max_age": "300ms"}).start()
    repeated = otlp.numbered(range(10))
    bodies = [
        repeated,
        repeated,
        otlp.encoded(otlp.record("test.order.placed"), otlp.record("test.order.placed", nanos=2**62)),
        otlp.encoded(otlp.record("no.such.event"), otlp.record("")),
    ]
    for body in bodies:
        assert service.post(body).status == 200
        assert all(balanced(count) for count in service.counts().values())
    service.wait_settled()

    def parts(counts: dict) -> dict:
        names = ("received", "committed", "quarantined", "dropped", "rejected", "in_flight")
        return {event: tuple(count[name] for name in names) for event, count in counts.items()}

    expected = {
        "test.job.finished": (20, 10, 0, 10, 0, 0),
        "test.order.placed": (2, 1, 0, 0, 1, 0),
        "(undeclared)": (1, 0, 0, 1, 0, 0),
        "(unnamed)": (1, 0, 0, 1, 0, 0),
    }
    assert parts(service.counts()) == expected
    samples = service.metrics()
    for event, wanted in expected.items():
        outcomes = ("received", "committed", "quarantined", "dropped", "rejected")
        shown = tuple(by_labels(samples, "esker_events_total", event=event, outcome=outcome) for outcome in outcomes)
        assert (*shown, by_labels(samples, "esker_events_in_flight", event=event)) == wanted
    running = service.run("status", "--format", "json")
    assert parts(json.loads(running.stdout)["counts"]["events"]) == expected
    assert service.stop() == 0
    ended = service.run("status", "--format", "json")
    assert parts(json.loads(ended.stdout)["counts"]["events"]) == expected


def test_the_equation_holds_at_every_moment_under_load(esker):
    service = esker(flush={"max_age": "100ms"}).start()
    stop = threading.Event()

    def send(first: int):
        seq = first
        while not stop.is_set():
            service.post(otlp.encoded(*(otlp.record(attributes={"test.seq": seq + n}) for n in range(20)), otlp.record("no.such")))
            seq += 20

    senders = [threading.Thread(target=send, args=(number * 1_000_000,), daemon=True) for number in range(3)]
    for sender in senders:
        sender.start()
    for _ in range(40):
        assert all(balanced(count) for count in service.counts().values())
        time.sleep(0.05)
    stop.set()
    for sender in senders:
        sender.join(60)
    service.wait_settled()
    committed = service.counts()["test.job.finished"]["committed"]
    assert service.stop() == 0
    assert lake.count(service.table) == committed > 0


def test_health_and_readiness_are_not_constants(esker):
    service = esker().start()
    assert service.admin("/healthz").status == 200
    assert service.admin("/readyz").status == 200
    page = service.admin("/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    assert service.stop() == 0
    with pytest.raises(OSError):
        request(service.ready["admin"], "GET", "/healthz")


def test_every_log_line_is_structured(esker):
    service = esker().start()
    service.post(otlp.numbered([1]))
    assert service.stop() == 0
    lines = service.log().splitlines()
    assert lines and all(isinstance(json.loads(line), dict) for line in lines)
