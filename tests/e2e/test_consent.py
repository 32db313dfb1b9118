"""Consent, withdrawal, quarantine and replay, as DuckDB finds them in the tables afterwards."""

import json
import time

import lake
import otlp
import pytest
from harness import registry_with_withdrawals, wait_until


@pytest.fixture
def registry(tmp_path):
    return registry_with_withdrawals(tmp_path / "schemas")


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
    send(service, otlp.record("privacy.consent.withdrawn", {"user.id": "bob"}))
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
    send(service, otlp.record("privacy.consent.given", {"user.id": "bob"}))
    send(service, order(8, user__id="bob", consent__granted=["analytics"]))
    assert service.stop() == 0
    stored = orders(service)
    assert {seq for seq, row in stored.items() if not row[2]} == {3, 5, 6}
    assert all(stored[seq][0] == "denied" for seq in (3, 5, 6))
    assert stored[8][0] == "granted"
    rows = lake.query(service.table.parent / "events_withdrawals", "SELECT event_name, lifts, subject FROM events ORDER BY event_time")
    # Under each key of the ring, so that it is found again whichever key made a row.
    assert [row[:2] for row in rows] == [("privacy.consent.withdrawn", False)] + 2 * [("privacy.consent.given", True)]
    assert len({row[2] for row in rows}) == 2 and all(row[2].startswith("e1_") for row in rows)


# As docs/consent.md has it.
WHO_IS_WITHDRAWN = """
WITH said AS (
  SELECT subject, lifts, event_time AS received, least(coalesce(made_time, event_time), event_time) AS made FROM events
), withdrawals AS (SELECT subject, max(made) AS made, max(received) AS received FROM said WHERE NOT lifts GROUP BY subject),
lifts AS (SELECT subject, made, min(received) AS received FROM said WHERE lifts GROUP BY subject, made
  QUALIFY made = max(made) OVER (PARTITION BY subject))
SELECT w.subject FROM withdrawals w LEFT JOIN lifts l USING (subject)
WHERE l.subject IS NULL OR l.made <= w.made OR l.received < w.received
"""


def test_the_order_of_withdrawals_and_lifts_is_the_same_after_a_restart(esker, registry):
    service = esker(schemas=registry, flush={"max_age": "1h"}).start()
    now = time.time_ns()
    minutes = 60 * 10**9

    def said(user: str, lifts: bool, made: int):
        send(service, otlp.record("privacy.consent.given" if lifts else "privacy.consent.withdrawn", {"user.id": user}, nanos=now + made * minutes))

    # Whether each is withdrawn afterwards.
    expected = {"kept": False, "withdrew": True, "returned": False, "late-lift": True, "late-lift-of-old": False, "late-withdrawal": True, "future-lift": True, "broken-clock": True, "sent-again": True}
    said("withdrew", False, -30)
    said("returned", False, -30), said("returned", True, -20)
    said("late-lift", False, -30), said("late-lift", True, -40)
    said("late-lift-of-old", False, -30), said("late-lift-of-old", True, -10)
    said("late-withdrawal", True, -20), said("late-withdrawal", False, -30)
    said("future-lift", True, 600), said("future-lift", False, 0)
    said("broken-clock", False, 60 * 24 * 30)
    said("sent-again", False, -30), said("sent-again", True, -20), said("sent-again", False, -25)
    # The same lift, in another request: it is no newer than it was.
    send(service, otlp.record("privacy.consent.given", {"user.id": "sent-again"}, nanos=now - 20 * minutes), order(50))
    users = list(expected)

    def stopped(first: int) -> dict[str, bool]:
        send(service, *(order(first + place, user__id=user, consent__granted=["analytics"]) for place, user in enumerate(users)))
        assert service.stop() == 0
        stored = orders(service)
        return {user: stored[first + place][1] == "withdrawal" for place, user in enumerate(users)}

    # From the log alone, which nothing was committed from yet.
    service.kill()
    service.start()
    assert stopped(100) == expected
    # From the table alone.
    service.start()
    assert stopped(200) == expected
    table = service.table.parent / "events_withdrawals"
    assert len(lake.query(table, WHO_IS_WITHDRAWN)) == sum(expected.values())
    ((ahead,),) = lake.query(table, "SELECT count(*) FROM events WHERE made_time > event_time")
    assert ahead == 1, "the lift from the future; the withdrawal out of bounds has the time of its receipt"
    assert lake.query(service.table, "SELECT count(*) FROM events WHERE consent_basis = 'withdrawal' AND user_id IS NOT NULL") == [(0,)]


def withdrawals(service) -> list[tuple]:
    return lake.query(service.table.parent / "events_withdrawals", "SELECT event_name, lifts, subject FROM events")


def test_a_withdrawal_that_breaks_its_contract_counts_and_a_lift_does_not(esker, registry):
    file = registry / "withdrawals.yaml"
    file.write_text(file.read_text().replace("requirement_level: required}]", "requirement_level: required}, {ref: test.seq}]"))
    service = esker(schemas=registry, flush={"max_age": "1h"}).start()
    send(service, order(1, user__id="bob", consent__granted=["analytics"]))
    send(service, otlp.record("privacy.consent.withdrawn", {"user.id": "bob", "test.seq": "seven"}))
    send(service, otlp.record("privacy.consent.given", {"user.id": "bob", "test.seq": "seven"}))
    send(service, order(2, user__id="bob", consent__granted=["analytics"]))
    service.kill()
    service.start()
    send(service, order(3, user__id="bob", consent__granted=["analytics"]), order(4, user__id="eve", consent__granted=["analytics"]))
    assert service.stop() == 0
    stored = orders(service)
    assert {seq: row[:3] for seq, row in stored.items()} == {
        1: ("granted", "record:consent.granted", True),
        2: ("denied", "withdrawal", False),
        3: ("denied", "withdrawal", False),
        4: ("granted", "record:consent.granted", True),
    }
    ((name, lifts, subject),) = withdrawals(service)
    assert (name, lifts) == ("privacy.consent.withdrawn", False)
    ((user,),) = lake.query(service.table, "SELECT user_id FROM events WHERE test_seq = 1")
    assert subject == user
    rows = lake.query(service.table.parent / "events_quarantine", "SELECT event_name, reason FROM events ORDER BY event_name")
    assert rows == [("privacy.consent.given", "type_mismatch"), ("privacy.consent.withdrawn", "type_mismatch")]


DROPPED = '\n[[routes]]\nevents = ["privacy.*"]\ndrop = true\n'
BARE = '\n[[tables]]\nname = "lake.bare"\n[tables.policy]\npseudonymous = "drop"\n[[routes]]\nevents = ["privacy.*"]\ntable = "lake.bare"\n'


@pytest.mark.parametrize("routes", [DROPPED, BARE], ids=["dropped", "without pseudonyms"])
def test_a_withdrawal_counts_wherever_a_route_sends_its_event(esker, registry, routes):
    service = esker(schemas=registry, flush={"max_age": "1h"})
    service.config.write_text(service.config.read_text() + routes)
    service.start()
    # The first request holds nothing else: its frame has a withdrawal and no event.
    send(service, otlp.record("privacy.consent.withdrawn", {"user.id": "bob"}))
    send(service, otlp.record("privacy.consent.given", {"user.id": "bob"}))
    send(service, order(1, user__id="bob", consent__granted=["analytics"]))
    service.kill()
    service.start()
    send(service, order(2, user__id="bob", consent__granted=["analytics"]), order(3, user__id="eve"))
    assert service.stop() == 0
    # From the table alone.
    service.start()
    send(service, order(4, user__id="bob", consent__granted=["analytics"]))
    assert service.stop() == 0
    stored = orders(service)
    assert {seq for seq, row in stored.items() if row[:3] == ("denied", "withdrawal", False)} == {1, 2, 4}, stored
    assert [row[:2] for row in withdrawals(service)] == [("privacy.consent.withdrawn", False)]


def test_a_withdrawal_alone_is_committed(esker, registry):
    service = esker(schemas=registry)
    service.config.write_text(service.config.read_text() + DROPPED)
    service.start()
    send(service, otlp.record("privacy.consent.withdrawn", {"user.id": "bob"}))
    wait_until(lambda: (service.table.parent / "events_withdrawals" / "data").is_dir() and withdrawals(service), "the withdrawal is in its table")
    assert service.counts()["privacy.consent.withdrawn"]["dropped_by"] == {"routed_nowhere": 1}
    assert service.stop() == 0
    assert len(withdrawals(service)) == 1


def test_withdrawals_in_the_log_outlast_their_events_in_the_registry(esker, registry):
    service = esker(schemas=registry, flush={"max_age": "1h"}).start()
    send(service, otlp.record("privacy.consent.withdrawn", {"user.id": "bob"}))
    service.kill()
    (registry / "withdrawals.yaml").write_text("file_format: definition/2\n")
    service.start()
    send(service, order(1, user__id="bob", consent__granted=["analytics"]))
    assert service.stop() == 0
    assert orders(service)[1][:3] == ("denied", "withdrawal", False)
    assert len(withdrawals(service)) == 1


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
