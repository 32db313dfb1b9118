"""The privacy contract over time and over tables, as DuckDB reads the result: rotation, a destroyed tenant, routes, tables' own policies,
what a record says of itself.
"""

import json
import random
import re
import threading
import time
from datetime import datetime, timezone

import lake
import otlp
import pytest
from harness import REPO, Esker, by_labels, free_ports

KILLS = 8
BATCH = 12
PATIENCE_SECONDS = 90


def configured(service: Esker, *tables: dict, routes: list[str]) -> Esker:
    """Adds tables and routes to a service that does not run yet."""
    text = service.config.read_text()
    for table in tables:
        policy = table.pop("policy", None)
        text += "\n[[tables]]\n" + "".join(f"{key} = {json.dumps(str(item))}\n" for key, item in table.items())
        if policy:
            text += "policy = {" + ", ".join(f'{level} = "{treatment}"' for level, treatment in policy.items()) + "}\n"
    for route in routes:
        text += f"\n[[routes]]\n{route}\n"
    service.config.write_text(text)
    return service


def keys(service: Esker) -> list[str]:
    done = service.run("keys", "list", "--format", "json")
    assert done.returncode == 0, done.stderr
    return [key["id"] for key in json.loads(done.stdout)["keys"]]


def key_of(pseudonym: str) -> str:
    return re.fullmatch(r"e1_([a-z2-7]{8})_[A-Za-z0-9_-]{43}", pseudonym).group(1)


# --- Rotation


def test_rotation_splits_pseudonyms_by_key_and_leaves_joins_and_event_ids_whole(esker):
    service = esker(schemas=REPO / "schemas").start()

    def tool(user: str, browser: str) -> otlp.LogRecord:
        attributes = {"status": "success", "user.id": user, "amplitude.user_id": browser}
        return otlp.record("mcp.tool.called", attributes, nanos=time.time_ns())

    first = [tool("alice", "alice"), tool("bob", "alice")]
    assert service.post(otlp.encoded(*first)).status == 200
    assert service.stop() == 0
    [old] = keys(service)
    assert service.run("keys", "rotate").returncode == 0
    new, kept = keys(service)
    assert kept == old

    service.start()
    # Another request, in which the old records stand at their old places: no retry, so they are stored once more.
    assert service.post(otlp.encoded(*first, tool("alice", "carol"))).status == 200
    assert service.stop() == 0

    rows = lake.query(service.table, "SELECT event_id, user_id, amplitude_user_id FROM events ORDER BY received_time")
    before = [row for row in rows if key_of(row[1]) == old]
    after = [row for row in rows if key_of(row[1]) == new]
    assert (len(before), len(after)) == (2, 3)
    # Within a key equal values are equal in every column, and across keys none is.
    assert len({(user, browser) for _, user, browser in before}) == 2 and before[0][1] == before[0][2] == before[1][2]
    assert {name for row in before for name in row[1:]}.isdisjoint(name for row in after for name in row[1:])
    joined = f"""
        SELECT count(*) FROM iceberg_scan('{service.table}') AS one, iceberg_scan('{service.table}') AS other
        WHERE one.user_id = other.amplitude_user_id AND split_part(one.user_id, '_', 2) = '%s'
    """
    # Old: alice's one row meets two browsers of hers. New: her two rows meet two each.
    assert lake.duck().execute(joined % old).fetchone() == (2,)
    assert lake.duck().execute(joined % new).fetchone() == (4,)
    assert {row[0] for row in before} == {row[0] for row in after} & {row[0] for row in before}
    assert len({row[0] for row in rows}) == 3, "the same record at the same place has the same id under every key"


# --- Tenants


def test_a_destroyed_tenant_gets_no_pseudonyms_any_more_and_others_keep_theirs(esker):
    service = esker(schemas=REPO / "schemas", privacy={"tenant_attribute": "organisation.id"}).start()

    def send(*organisations):
        records = []
        for organisation in organisations:
            attributes = {"organisation.id": organisation, "status": "success", "user.id": "alice", "tool.name": "get_flag"}
            records.append(otlp.record("mcp.tool.called", attributes))
        assert service.post(otlp.encoded(*records)).status == 200

    send(41, 42, None)
    assert service.stop() == 0
    rows = "SELECT organisation_id, user_id, tool_name FROM events ORDER BY received_time, organisation_id NULLS LAST"
    first = lake.query(service.table, rows)
    assert [row[0] for row in first] == [41, 42, None]
    assert len({row[1] for row in first}) == 3, "one person is another one in each organisation"
    secrets = (service.data / "esker.key").read_text()

    done = service.run("keys", "destroy", "--tenant", "42", "--yes")
    assert done.returncode == 0, done.stderr
    assert (service.data / "esker.key").read_text() != secrets
    assert service.run("keys", "rotate").returncode == 0, "what is destroyed stays so under a new key"
    service.start()
    send(41, 42, None)
    service.wait_settled()
    assert by_labels(service.metrics(), "esker_attributes_total", outcome="key_destroyed") == 1
    assert service.stop() == 0

    stored = lake.query(service.table, rows)
    assert stored[:3] == first, "what was stored stays as it is"
    later = dict(row[:2] for row in stored[3:])
    assert later.keys() == {41, 42, None} and later[42] is None and stored[4][2] == "get_flag"
    assert later[41] and later[None] and later[41] != later[None]


def test_a_tenant_keeps_its_pseudonyms_when_another_is_destroyed(esker):
    service = esker(schemas=REPO / "schemas", privacy={"tenant_attribute": "organisation.id"})
    for destroyed in (None, "42", "43"):
        if destroyed:
            assert service.run("keys", "destroy", "--tenant", destroyed, "--yes").returncode == 0
        service.start()
        records = [
            otlp.record("mcp.tool.called", {"organisation.id": organisation, "status": "success", "user.id": "alice"})
            for organisation in (41, 42, 43)
        ]
        assert service.post(otlp.encoded(*records)).status == 200
        assert service.stop() == 0
    counted = "SELECT organisation_id, count(*), count(user_id), count(DISTINCT user_id) FROM events GROUP BY 1 ORDER BY 1"
    assert lake.query(service.table, counted) == [(41, 3, 3, 1), (42, 3, 1, 1), (43, 3, 2, 1)]


# --- Routes


@pytest.mark.timeout(400)
def test_one_request_feeds_tables_in_several_warehouses_each_exactly_once_over_kills(esker, record_property):
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    service = esker(ports=tuple(free_ports(3)), flush={"max_age": "150ms"})
    secure, eu = service.home / "secure", service.home / "eu"
    configured(
        service,
        {"name": "audit.logins", "warehouse": f"file://{secure}", "retention": "30d"},
        {"name": "product.events_eu", "warehouse": f"file://{eu}"},
        routes=[
            'category = "operational"\ndrop = true',
            'category = "security"\ntable = "audit.logins"',
            'resource = {key = "deployment.region", value = "eu"}\ntable = "product.events_eu"',
        ],
    )
    expected: dict[str, set[int]] = {"primary": set(), "secure": set(), "eu": set()}
    stop, faults = threading.Event(), []

    def request_of(first: int) -> bytes:
        """One request with events for every table, and for none."""
        export = None
        for place, region in enumerate(("eu", "us")):
            start = first + place * BATCH
            records = [
                otlp.record(("test.order.placed", "test.login.failed", "test.job.finished")[seq % 3], {"test.seq": seq})
                for seq in range(start, start + BATCH)
            ]
            part = otlp.export(*records)
            part.resource_logs[0].resource.attributes.extend(otlp.pairs({"deployment.region": region}))
            export = part if export is None else export
            if part is not export:
                export.resource_logs.extend(part.resource_logs)
        return export.SerializeToString()

    def client():
        first = 0
        try:
            while not stop.is_set():
                body, deadline = request_of(first), time.monotonic() + PATIENCE_SECONDS
                while True:
                    try:
                        if service.post(body).status == 200:
                            break
                    except OSError:
                        pass
                    except Exception as error:  # noqa: BLE001 - http.client's many ways to say that nobody is there
                        if "http.client" not in type(error).__module__:
                            raise
                    assert time.monotonic() < deadline, "no acknowledgement"
                    time.sleep(0.02)
                for seq in range(first, first + 2 * BATCH):
                    kind = ("order", "login", "job")[seq % 3]
                    if kind == "login":
                        expected["secure"].add(seq)
                    elif kind == "order":
                        expected["eu" if seq < first + BATCH else "primary"].add(seq)
                first += 2 * BATCH
        except Exception as error:  # noqa: BLE001 - the test's thread reports it
            faults.append(repr(error))

    service.start()
    # A restarted service listens where it did before.
    sender = threading.Thread(target=client, daemon=True)
    sender.start()
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.3, 1.2))
        service.kill()
        service.start()
    time.sleep(1)
    stop.set()
    sender.join(PATIENCE_SECONDS + 10)
    assert not sender.is_alive() and not faults, faults
    service.wait_settled()
    assert service.stop() == 0

    tables = {"primary": service.table, "secure": secure / "audit" / "logins", "eu": eu / "product" / "events_eu"}
    for name, table in tables.items():
        rows = lake.query(table, "SELECT test_seq, count(*) FROM events GROUP BY ALL")
        assert {seq for seq, _ in rows} == expected[name], f"{name} (seed {seed})"
        assert all(times == 1 for _, times in rows), f"{name} has events twice (seed {seed})"
    assert not list(service.warehouse.glob("audit*")) and not list(secure.glob("product*")), "each warehouse has its own"
    record_property("routing", f"{KILLS} kills, {({name: len(seqs) for name, seqs in expected.items()})}, seed {seed}")


def test_what_is_routed_nowhere_is_counted_and_in_no_file(esker):
    service = configured(esker(), routes=['events = ["test.job.*"]\ndrop = true']).start()
    body = otlp.encoded(otlp.record("test.job.finished", {"test.text": "Zq7Nowhere"}), otlp.record("test.login.failed", {"test.seq": 1}))
    assert service.post(body).status == 200
    service.wait_settled()
    assert service.counts()["test.job.finished"]["dropped"] == 1
    assert by_labels(service.metrics(), "esker_events_unstored_total", reason="routed_nowhere") == 1
    assert service.stop() == 0
    assert lake.query(service.table, "SELECT event_name, count(*) FROM events GROUP BY 1") == [("test.login.failed", 1)]
    assert not any(b"Zq7Nowhere" in path.read_bytes() for path in service.data.rglob("*") if path.is_file())


# --- Policies of tables


def test_each_table_has_its_own_policy(esker):
    service = esker()
    strict, loose = service.home / "strict", service.home / "loose"
    configured(
        service,
        {"name": "strict.events", "warehouse": f"file://{strict}", "policy": {"internal": "drop", "pseudonymous": "drop"}},
        {"name": "loose.events", "warehouse": f"file://{loose}", "policy": {"personal": "keep"}},
        routes=[
            'resource = {key = "deployment.region", value = "strict"}\ntable = "strict.events"',
            'resource = {key = "deployment.region", value = "loose"}\ntable = "loose.events"',
        ],
    )
    service.start()
    attributes = {
        "test.seq": 1,
        "test.text": "hello",
        "test.ratio": 0.5,
        "user.id": "user-7",
        "user.email": "see user@example.org",
        "auth.token": "t0k3n",
    }
    for region in ("none", "strict", "loose"):
        export = otlp.export(otlp.record("test.order.placed", attributes))
        export.resource_logs[0].resource.attributes.extend(otlp.pairs({"deployment.region": region}))
        assert service.post(export.SerializeToString()).status == 200
    assert service.stop() == 0

    columns = "SELECT test_seq, test_text, test_ratio, user_email, user_id FROM events"
    [plain] = lake.query(service.table, columns)
    [tight] = lake.query(strict / "strict" / "events", columns)
    [wide] = lake.query(loose / "loose" / "events", columns)
    assert plain[:4] == (1, "hello", 0.5, None) and key_of(plain[4])
    assert tight == (None, None, 0.5, None, None)
    assert wide == (1, "hello", 0.5, "see [email]", plain[4]), "one person is the same in both, and what leaks is masked in both"
    for folder in (service.data, strict, loose):
        assert not any(b"t0k3n" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


# --- What a record says of itself


def test_a_records_own_level_and_category_only_ever_restrict(esker):
    service = esker()
    audit = service.home / "audit"
    configured(
        service,
        {"name": "audit.events", "warehouse": f"file://{audit}"},
        routes=['category = "security"\ntable = "audit.events"'],
    )
    service.start()

    def record(seq: int, **said) -> otlp.LogRecord:
        stated = {f"event.{key}": item for key, item in said.items()}
        return otlp.record("test.order.placed", {"test.seq": seq, "test.text": f"s{seq}", "user.id": "u", "user.email": "e", **stated})

    records = [
        record(1),
        record(2, privacy_level="public"),
        record(3, privacy_level="pseudonymous"),
        record(4, privacy_level="personal"),
        record(5, privacy_level="sensitive"),
        record(6, privacy_level="top secret"),
        record(7, category="product"),
        record(8, category="security"),
        record(9, category="no such"),
    ]
    assert service.post(otlp.encoded(*records)).status == 200
    service.wait_settled()
    assert service.counts()["test.order.placed"]["dropped"] == 2
    assert service.stop() == 0

    columns = "SELECT test_seq, test_text, user_id IS NOT NULL, user_email, category FROM events ORDER BY test_seq NULLS LAST, 3 DESC"
    assert lake.query(service.table, columns) == [
        (1, "s1", True, None, "product"),
        (2, "s2", True, None, "product"),
        (7, "s7", True, None, "product"),
        (None, None, True, None, "product"),
        (None, None, False, None, "product"),
    ]
    assert lake.query(audit / "audit" / "events", columns) == [
        (8, "s8", True, None, "security"),
        (9, "s9", True, None, "security"),
    ]


def test_the_day_of_a_row_is_the_same_in_every_table(esker):
    """Tables share the partitioning, so that retention and reading by day work alike in each."""
    service = esker()
    other = service.home / "other"
    configured(
        service,
        {"name": "other.events", "warehouse": f"file://{other}"},
        routes=['category = "security"\ntable = "other.events"'],
    )
    service.start()
    day = int(datetime.now(timezone.utc).timestamp()) // 86_400 * 86_400 - 3 * 86_400
    records = [otlp.record(name, {"test.seq": 1}, nanos=day * 10**9 + 5) for name in ("test.order.placed", "test.login.failed")]
    assert service.post(otlp.encoded(*records)).status == 200
    assert service.stop() == 0
    folders = [
        {path.parent.name for path in table.rglob("*.parquet")} for table in (service.table, other / "other" / "events")
    ]
    assert folders[0] == folders[1] and len(folders[0]) == 1
