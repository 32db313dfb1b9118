"""Consent, withdrawal, quarantine and replay, as DuckDB finds them in the tables afterwards."""

import json
import shutil

import lake
import otlp
import pytest
from harness import SCHEMAS

WITHDRAWALS = """file_format: definition/2
events:
  - name: test.consent.withdrawn
    stability: stable
    requirement_level: recommended
    brief: A user withdrew consent.
    annotations: {esker: {category: product, purposes: [], withdrawal: {subject: user.id}}}
    attributes: [{ref: user.id, requirement_level: required}]
  - name: test.consent.given
    stability: stable
    requirement_level: recommended
    brief: A user gave consent again.
    annotations: {esker: {category: product, purposes: [], withdrawal: {subject: user.id, lifts: true}}}
    attributes: [{ref: user.id, requirement_level: required}]
"""


@pytest.fixture
def registry(tmp_path):
    """The tests' registry, with events that withdraw consent and give it again."""
    folder = tmp_path / "schemas"
    shutil.copytree(SCHEMAS, folder)
    (folder / "withdrawals.yaml").write_text(WITHDRAWALS)
    return folder


def order(seq: int, **attributes):
    return otlp.record("test.order.placed", {"test.seq": seq, **{key.replace("__", "."): item for key, item in attributes.items()}})


def send(service, *records):
    answer = service.post(otlp.encoded(*records))
    assert answer.status == 200, answer.body


def orders(service) -> dict[int, tuple]:
    rows = lake.query(service.table, "SELECT test_seq, consent, consent_basis, user_id IS NOT NULL, trace_id IS NOT NULL FROM events WHERE event_name = 'test.order.placed'")
    return {row[0]: row[1:] for row in rows}


def test_the_decision_and_its_basis_are_columns_and_identity_goes_with_consent(esker):
    service = esker().start()
    trace = bytes(range(1, 17))
    cases = [
        ({}, ("unknown", "none", True)),
        ({"consent.granted": ["analytics"]}, ("granted", "record:consent.granted", True)),
        ({"consent.denied": "[\"analytics\"]"}, ("denied", "record:consent.denied", False)),
        ({"consent.granted": ["analytics"], "consent.denied": ["analytics"]}, ("denied", "record:consent.denied", False)),
        ({"consent.categories.analytics": False}, ("denied", "record:consent.categories.", False)),
        ({"analytics_storage": "granted"}, ("granted", "record:analytics_storage", True)),
        ({"consent.status": "withdrawn"}, ("denied", "record:consent.status", False)),
        ({"context.consent.categoryPreferences": "{}"}, ("denied", "record:context.consent.categoryPreferences", False)),
    ]
    records = []
    for seq, (consent, _) in enumerate(cases):
        records.append(otlp.record("test.order.placed", {"test.seq": seq, "user.id": "u1", **consent}, trace_id=trace))
    send(service, *records)
    assert service.stop() == 0
    stored = orders(service)
    for seq, (_, (decision, basis, identified)) in enumerate(cases):
        found = stored[seq]
        assert (found[0], found[2], found[3]) == (decision, identified, identified), (seq, found)
        assert found[1].startswith(basis), (seq, found)


def test_an_event_without_consent_can_be_dropped(esker):
    service = esker(consent={"warehouse": {"product": {"denied": "drop", "unknown": "drop"}}}).start()
    send(service, order(1), order(2, consent__denied=["analytics"]), order(3, consent__granted=["analytics"]))
    service.wait_settled()
    counts = service.counts()["test.order.placed"]
    assert (counts["committed"], counts["dropped"], counts["dropped_by"]) == (1, 2, {"no_consent": 2})
    assert service.stop() == 0
    assert set(orders(service)) == {3}


def test_a_withdrawal_holds_after_a_kill_and_a_rotation_until_it_is_lifted(esker, registry):
    service = esker(schemas=registry, flush={"max_age": "1h"}).start()
    send(service, order(1, user__id="bob"), order(2, user__id="alice"))
    send(service, otlp.record("test.consent.withdrawn", {"user.id": "bob"}))
    send(service, order(3, user__id="bob", consent__granted=["analytics"]), order(4, user__id="alice"))
    # Nothing was committed yet: the withdrawal is in the log alone.
    service.kill()
    service.start()
    send(service, order(5, user__id="bob", consent__granted=["analytics"]))
    assert service.stop() == 0
    rotated = service.run("keys", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    # Now it is in the table alone, and was made under another key.
    service.start()
    send(service, order(6, user__id="bob"), order(7, user__id="alice"))
    send(service, otlp.record("test.consent.given", {"user.id": "bob"}))
    send(service, order(8, user__id="bob", consent__granted=["analytics"]))
    assert service.stop() == 0
    stored = orders(service)
    assert {seq for seq, row in stored.items() if not row[2]} == {3, 5, 6}
    assert all(stored[seq][0] == "denied" for seq in (3, 5, 6))
    assert stored[8][0] == "granted"
    rows = lake.query(service.table.parent / "events_withdrawals", "SELECT event_name, lifts, subject FROM events ORDER BY event_time")
    # Under each key of the ring, so that it is found again whichever key made a row.
    assert [row[:2] for row in rows] == [("test.consent.withdrawn", False)] + 2 * [("test.consent.given", True)]
    assert len({row[2] for row in rows}) == 2 and all(row[2].startswith("e1_") for row in rows)


def test_a_broken_event_is_sealed_listed_repaired_and_replayed(esker, tmp_path):
    bare = esker()
    keys = tmp_path / "open.key"
    made = bare.run("quarantine", "keygen", "--out", str(keys))
    assert made.returncode == 0, made.stderr
    public = next(word for word in made.stdout.split() if word.startswith("esker-seal-1:"))
    service = esker(quarantine={"recipient": public}).start()
    send(service, otlp.record("test.order.placed", {"test.seq": "seven", "user.id": "marked-user"}), order(1))
    service.wait_settled()
    counts = service.counts()["test.order.placed"]
    assert (counts["committed"], counts["quarantined"]) == (1, 1)
    table = service.table.parent / "events_quarantine"
    ((reason, detail, names, sealed),) = lake.query(table, "SELECT reason, detail, attribute_names, sealed FROM events")
    assert (reason, detail, json.loads(names)) == ("type_mismatch", "test.seq", ["test.seq", "user.id"])
    for file in (path for path in service.home.rglob("*") if path.is_file()):
        assert b"marked-user" not in file.read_bytes() and b"seven" not in file.read_bytes(), file
    listed = service.run("quarantine", "list", "--format", "json")
    assert listed.returncode == 0 and "type_mismatch" in listed.stdout and "marked-user" not in listed.stdout
    replayed = service.run("quarantine", "replay", "--private-key", str(keys), "--all", "--set", "test.seq=7", "--endpoint", f"http://{service.ready['http']}", "--format", "json")
    assert replayed.returncode == 0, replayed.stderr
    assert service.stop() == 0
    rows = lake.query(service.table, "SELECT test_seq, user_id FROM events ORDER BY test_seq")
    assert [row[0] for row in rows] == [1, 7]
    assert rows[1][1].startswith("e1_")
