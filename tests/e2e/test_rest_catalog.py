"""The `rest` catalog: exactly once over answers that are lost, late or wrong, beside other engines that write to the same
table; and each thing that can be wrong with a catalog told with its cause and its fix.
"""

import os
import random
import threading
import time

import lake
import otlp
import pyarrow
import pytest
from harness import environment, free_ports, wait_until
from pyiceberg.catalog import load_catalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import ListType, LongType, NestedField, StringType, TimestamptzType
from rest_catalog import GoogleMetadata, RestCatalog, needs_bearer, needs_signature, needs_token

SECRET = "correct-horse-battery-staple"


@pytest.fixture
def catalog(homes, request):
    server = RestCatalog(homes(request.node.name.split("[")[0] + "-catalog")).start()
    yield server
    server.stop()


def rest(catalog: RestCatalog, **more) -> dict:
    return {"type": "rest", "uri": catalog.uri, "warehouse": "main", **more}


def client(catalog: RestCatalog):
    return load_catalog("test", type="rest", uri=catalog.uri, warehouse="main")


def events(catalog: RestCatalog, name: str = "product.events"):
    return client(catalog).load_table(name)


def seqs(catalog: RestCatalog, name: str = "product.events") -> list[int]:
    rows = events(catalog, name).scan(selected_fields=("test_seq",)).to_arrow()
    return sorted(seq for seq in rows["test_seq"].to_pylist() if seq is not None)


def test_rows_reach_the_table_and_another_client_reads_them(esker, catalog):
    service = esker(catalog=rest(catalog)).start()
    assert service.post(otlp.numbered(range(100))).status == 200
    service.wait_settled()
    assert seqs(catalog) == list(range(100))
    status = service.run("status", "--format", "json")
    assert status.returncode == 0 and f"file://{catalog.location()}" in status.stdout, status.stdout + status.stderr
    assert service.stop() == 0
    table = events(catalog)
    assert table.metadata.format_version == 2
    # Nothing was made where the files catalog would have.
    assert not service.warehouse.exists()
    service.start()
    assert service.post(otlp.numbered(range(100, 110))).status == 200
    assert service.stop() == 0
    assert seqs(catalog) == list(range(110))


@pytest.mark.timeout(300)
def test_every_event_is_stored_once_over_lost_answers_and_kills(esker, catalog, record_property):
    seed = int(os.environ.get("E2E_SEED", time.time_ns() % 1_000_000))
    print(f"E2E_SEED={seed}")
    chance, faults = random.Random(seed), {}

    def fault(handler, commit):
        kind = chance.choice(["none", "none", "500 after", "504 before", "reset after", "reset before", "late", "429"])
        faults[kind] = faults.get(kind, 0) + 1
        match kind:
            case "none":
                return False
            case "500 after":
                commit()
                handler.answer(500, {"error": {"message": "?", "type": "CommitStateUnknownException", "code": 500}})
            case "504 before":
                handler.answer(504, {"error": {"message": "?", "type": "CommitStateUnknownException", "code": 504}})
            case "reset after":
                commit()
                handler.hang_up()
            case "reset before":
                handler.hang_up()
            case "late":
                threading.Timer(chance.uniform(0.02, 0.6), commit).start()
                handler.answer(502, None)
            case "429":
                handler.answer(429, {"error": {"message": "slow down", "type": "Throttled", "code": 429}})
        return True

    service = esker(catalog=rest(catalog), flush={"max_age": "150ms"}, ports=tuple(free_ports(3))).start()
    catalog.fault = fault
    sent = 0
    # A slow machine commits less often.
    for round_number in range(600):
        if round_number > 40 and sum(count for kind, count in faults.items() if kind != "none") > 15:
            break
        body = otlp.numbered(range(sent, sent + 10))
        sent += 10
        assert service.post(body).status == 200
        time.sleep(chance.uniform(0.0, 0.3))
        if round_number % 8 == 7:
            service.kill()
            service.start()
    catalog.fault = None
    # Late commits have come by then.
    time.sleep(1)
    service.wait_settled()
    assert service.stop() == 0
    assert seqs(catalog) == list(range(sent)), f"seed {seed}"
    assert sum(count for kind, count in faults.items() if kind != "none") > 15, faults
    record_property("faults", f"{faults}, seed {seed}")


def test_another_engine_changes_the_table_while_events_come(esker, catalog):
    service = esker(catalog=rest(catalog)).start()
    stop, sent, trouble = threading.Event(), [0], []

    def send():
        try:
            while not stop.is_set():
                assert service.post(otlp.numbered([sent[0]])).status == 200
                sent[0] += 1
                time.sleep(0.02)
        except Exception as error:  # noqa: BLE001 - the test's thread reports it
            trouble.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        wait_until(lambda: sent[0] > 20, "events")
        for number in range(5):
            until_taken(lambda: events(catalog), lambda table: table.transaction().set_properties(owner=f"team-{number}"))

            def add_columns(transaction, number=number):
                with transaction.update_schema() as update:
                    update.add_column(f"score_{number}", LongType())
                    update.add_column(f"labels_{number}", ListType(1, StringType(), element_required=False))
                return transaction

            until_taken(lambda: events(catalog), lambda table: add_columns(table.transaction()))

            def append(table, number=number):
                row = table.scan(limit=1).to_arrow().slice(0, 1)
                assert row.num_rows == 1
                at = row.schema.get_field_index("test_seq")
                row = row.set_column(at, row.schema.field(at), pyarrow.array([10_000 + number], pyarrow.int64()))
                transaction = table.transaction()
                transaction.append(row)
                return transaction

            wait_until(lambda: events(catalog).scan(limit=1).to_arrow().num_rows == 1, "a first row")
            until_taken(lambda: events(catalog), append)
        table = events(catalog)
        table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "audit").commit()
        tagged = table.current_snapshot().snapshot_id
    finally:
        stop.set()
        sender.join()
    assert not trouble, trouble
    service.wait_settled()
    assert service.stop() == 0
    assert seqs(catalog) == list(range(sent[0])) + [10_000 + number for number in range(5)]
    table = events(catalog)
    assert table.properties["owner"] == "team-4"
    assert table.metadata.refs["audit"].snapshot_id == tagged
    assert {"score_4", "labels_4"} <= {field.name for field in table.schema().fields}


def until_taken(load, change, attempts: int = 50):
    """Commits a change, against a writer that is often quicker."""
    from pyiceberg.exceptions import CommitFailedException

    for _ in range(attempts):
        try:
            change(load()).commit_transaction()
            return
        except CommitFailedException:
            time.sleep(random.uniform(0, 0.2))
    raise AssertionError("never taken")


def test_a_dropped_column_comes_back_and_another_partitioning_is_waited_out(esker, catalog):
    service = esker(catalog=rest(catalog)).start()
    assert service.post(otlp.numbered(range(5))).status == 200
    service.wait_settled()
    with events(catalog).update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("test_text")
    assert service.post(otlp.numbered(range(5, 10))).status == 200
    service.wait_settled()
    rows = events(catalog).scan().to_arrow().to_pylist()
    assert {row["test_seq"]: row["test_text"] for row in rows} == {
        **dict.fromkeys(range(5)), **{seq: f"s{seq}" for seq in range(5, 10)}
    }, "what the dropped column held is gone with it; the new one holds what came since"
    with events(catalog).update_spec() as update:
        update.add_field("event_name", IdentityTransform())
    assert service.post(otlp.numbered(range(10, 20))).status == 200
    wait_until(lambda: "not partitioned by day(event_time) alone; undo that" in service.log(), "the log tells it")
    assert service.running
    assert seqs(catalog) == list(range(10))
    with events(catalog).update_spec() as update:
        update.remove_field("event_name")
    service.wait_settled()
    assert service.stop() == 0
    assert seqs(catalog) == list(range(20))


def test_a_catalog_that_is_down_stops_a_start_and_later_only_delays(esker, catalog):
    service = esker(catalog=rest(catalog))
    catalog.stop()
    code, said = service.refused_start()
    assert code == 1 and "catalog.uri" in said and catalog.uri in said and "cannot be reached" in said, said
    catalog.start()
    service.start()
    assert service.post(otlp.numbered(range(10))).status == 200
    service.wait_settled()
    catalog.stop()
    assert service.post(otlp.numbered(range(10, 30))).status == 200
    wait_until(lambda: "the flush failed and will be repeated" in service.log(), "a failed flush")
    assert service.post(otlp.numbered(range(30, 40))).status == 200
    assert "catalog.uri" in str(service.admin("/status").json()), "the status page names the trouble"
    catalog.start()
    service.wait_settled()
    assert service.stop() == 0
    assert seqs(catalog) == list(range(40))


def test_a_dropped_table_stops_the_service_and_loses_nothing(esker, catalog):
    service = esker(catalog=rest(catalog)).start()
    assert service.post(otlp.numbered(range(10))).status == 200
    service.wait_settled()
    kept = dict(catalog.tables)
    client(catalog).drop_table("product.events")
    assert service.post(otlp.numbered(range(10, 20))).status == 200
    assert service.wait() != 0
    assert "product.events in the catalog" in service.log() and "is gone" in service.log()
    code, said = service.refused_start()
    assert code == 1 and "this data directory has committed" in said and "main" in said, said
    # Somebody restores it.
    catalog.tables.update(kept)
    service.start()
    service.wait_settled()
    assert service.stop() == 0
    assert seqs(catalog) == list(range(20))


ENVELOPE = [
    NestedField(1, "event_name", StringType(), required=True),
    NestedField(2, "event_time", TimestamptzType(), required=True),
]


@pytest.mark.parametrize("what", ["columns", "partition", "version 1", "version 3"])
def test_a_table_that_somebody_else_made_is_refused(esker, catalog, what):
    other = client(catalog)
    other.create_namespace("product")
    schema = Schema(*(ENVELOPE[:1] if what == "columns" else ENVELOPE))
    partition = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "event_name"))
    other.create_table("product.events", schema, partition_spec=partition)
    version = int(what[-1]) if what.startswith("version") else 2
    if version != 2:
        # PyIceberg writes neither.
        more = {"next-row-id": 0} if version == 3 else {}
        catalog.write(("product", "events"), catalog.metadata() | {"format-version": version} | more)
    service = esker(catalog=rest(catalog))
    code, said = service.refused_start()
    reason = {"columns": "has no column", "partition": "has no column"}.get(what, f"its format version is v{version}")
    assert code == 1 and "was not made for Esker" in said and reason in said and "table.name" in said, said


def test_tokens_are_refreshed_and_no_secret_is_shown(esker, catalog):
    needs_token(catalog, "esker", SECRET, seconds=2)
    keys = {"auth": "oauth2", "client_id": "esker", "client_secret": "env:CATALOG_SECRET", "scope": "catalog"}
    service = esker(catalog=rest(catalog, **keys), log={"filter": "trace"}, flush={"max_age": "200ms"})
    code, said = service.refused_start()
    assert code == 1 and "catalog.client_secret" in said and "CATALOG_SECRET" in said, said
    code, said = service.refused_start(env=environment(CATALOG_SECRET="wrong-" + SECRET[::-1]))
    assert code == 1 and "invalid_client" in said and SECRET[::-1] not in said, said
    service.start(env=environment(CATALOG_SECRET=SECRET))
    for number in range(8):
        assert service.post(otlp.numbered([number])).status == 200
        time.sleep(0.6)
    # All tokens end at once, as when the catalog's key is changed.
    catalog.tokens.clear()
    assert service.post(otlp.numbered([8])).status == 200
    service.wait_settled()
    assert service.stop() == 0
    assert len([path for _, path in catalog.requests if path == "/v1/oauth/tokens"]) >= 4
    catalog.check = lambda handler: None
    assert seqs(catalog) == list(range(9))
    shown = service.log()
    assert SECRET not in shown and not any(token in shown for token in catalog.tokens)


def test_a_bearer_token_in_a_file_is_followed(esker, catalog, tmp_path):
    needs_bearer(catalog, "first")
    token = tmp_path / "token"
    token.write_text("first\n")
    keys = {"auth": "bearer", "token": f"file:{token}"}
    service = esker(catalog=rest(catalog, **keys)).start()
    needs_bearer(catalog, "second")
    assert service.post(otlp.numbered(range(3))).status == 200
    wait_until(lambda: "catalog.auth" in service.log(), "a refused token")
    token.write_text("second\n")
    service.wait_settled()
    assert service.stop() == 0
    catalog.check = lambda handler: None
    assert seqs(catalog) == list(range(3))


@pytest.mark.parametrize("service_name", ["glue", "s3tables"])
def test_requests_are_signed_for_amazon(esker, catalog, service_name):
    needs_signature(catalog, "AKIDEXAMPLE", SECRET, "eu-west-1", service_name)
    keys = {"auth": "sigv4", "region": "eu-west-1", "service": service_name}
    service = esker(catalog=rest(catalog, **keys))
    wrong = environment(AWS_ACCESS_KEY_ID="AKIDEXAMPLE", AWS_SECRET_ACCESS_KEY="wrong")
    code, said = service.refused_start(env=wrong)
    assert code == 1 and "catalog.auth" in said and "SignatureDoesNotMatch" in said, said
    service.start(env=environment(AWS_ACCESS_KEY_ID="AKIDEXAMPLE", AWS_SECRET_ACCESS_KEY=SECRET))
    assert service.post(otlp.numbered(range(3))).status == 200
    service.wait_settled()
    assert service.stop() == 0
    assert SECRET not in service.log()
    catalog.check = lambda handler: None
    assert seqs(catalog) == list(range(3))


def test_requests_carry_googles_token(esker, catalog):
    needs_bearer(catalog, "ya29.machine", x_goog_user_project="acme")
    metadata = GoogleMetadata("ya29.machine")
    try:
        service = esker(catalog=rest(catalog, auth="google", project="acme"))
        service.start(env=environment(GCE_METADATA_HOST=metadata.host))
        assert service.post(otlp.numbered(range(3))).status == 200
        service.wait_settled()
        assert service.stop() == 0
    finally:
        metadata.stop()
    assert "ya29" not in service.log()
    catalog.check = lambda handler: None
    assert seqs(catalog) == list(range(3))


def test_a_table_lives_in_another_catalog(esker, catalog, homes):
    far = RestCatalog(homes("far-catalog")).start()
    try:
        service = esker(catalog=rest(catalog))
        service.config.write_text(
            service.config.read_text()
            + "\n[[tables]]\nname = \"product.europe\"\n[tables.catalog]\n"
            + f'type = "rest"\nuri = "{far.uri}"\nwarehouse = "main"\n'
            + '\n[[routes]]\nevents = ["test.job.finished"]\ntable = "product.europe"\n'
        )
        service.start()
        assert service.post(otlp.numbered(range(5))).status == 200
        assert service.post(otlp.numbered(range(5, 8), name="test.login.failed", text="x")).status == 200
        service.wait_settled()
        # Only rows for the other table: the primary gets positions without rows.
        for seq in range(8, 12):
            assert service.post(otlp.numbered([seq])).status == 200
            service.wait_settled()
        service.kill()
        service.start()
        assert service.stop() == 0
    finally:
        rows = seqs(far, "product.europe")
        far.stop()
    assert rows == [0, 1, 2, 3, 4, 8, 9, 10, 11]
    assert seqs(catalog) == [5, 6, 7]
    assert not far.location().exists() and not catalog.location("product", "europe").exists()


def test_duckdb_reads_what_the_catalog_points_at(esker, catalog):
    service = esker(catalog=rest(catalog)).start()
    assert service.post(otlp.numbered(range(50))).status == 200
    service.wait_settled()
    assert service.stop() == 0
    path = catalog.tables[("product", "events")]
    found = lake.duck().execute(f"SELECT count(*), sum(test_seq) FROM iceberg_scan('{path}')").fetchone()
    assert found == (50, sum(range(50)))
