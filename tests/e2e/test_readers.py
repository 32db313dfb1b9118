"""One table that the running binary wrote, read by five engines that nobody here wrote, against one oracle."""

import json
import os
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import lake
import oracle
import otlp
import pyarrow.parquet
import pytest
from harness import SCHEMAS, Esker, grown_registry

# A JVM among other work takes its time to start.
pytestmark = pytest.mark.timeout(600)

READERS = {
    "duckdb": (
        lake.duckdb_rows,
        {
            "string": "VARCHAR",
            "long": "BIGINT",
            "double": "DOUBLE",
            "boolean": "BOOLEAN",
            "timestamptz": "TIMESTAMP WITH TIME ZONE",
        },
    ),
    "pyiceberg": (lake.pyiceberg_rows, {kind: kind for kind in ("string", "long", "double", "boolean", "timestamptz")}),
    "polars": (
        lake.polars_rows,
        {
            "string": "String",
            "long": "Int64",
            "double": "Float64",
            "boolean": "Boolean",
            "timestamptz": "Datetime(time_unit='us', time_zone='UTC')",
        },
    ),
    "spark": (
        lake.spark_rows,
        {"string": "string", "long": "bigint", "double": "double", "boolean": "boolean", "timestamptz": "timestamp"},
    ),
    "clickhouse": (
        lake.clickhouse_rows,
        {
            "string": "String",
            "long": "Int64",
            "double": "Float64",
            "boolean": "Bool",
            "timestamptz": "DateTime64(6, 'UTC')",
        },
    ),
}

# The times of the events in a span, as somebody in a time zone asks for it.
TIMES = {
    "duckdb": lake.duckdb_times,
    "pyiceberg": lake.pyiceberg_times,
    "polars": lake.polars_times,
    "spark": lake.spark_times,
    "clickhouse": lake.clickhouse_times,
}
# Nine hours ahead of UTC, and three and a half behind: in both a UTC day is part of two days.
ZONES = ("Asia/Tokyo", "America/St_Johns")


@dataclass
class Lake:
    """The finished table."""

    path: Path
    expected: dict[int, dict]
    names: dict[str, object]
    first_run: int
    started: int
    ended: int


def send(service: Esker, events: list[oracle.Sent]):
    """In requests of 50, so that a commit holds several."""
    records = [event.log_record() for event in events]
    for start in range(0, len(records), 50):
        answer = service.post(otlp.encoded(*records[start : start + 50]))
        assert answer.status == 200, answer.body
        response = otlp.ExportLogsServiceResponse.FromString(answer.body)
        assert response.partial_success.rejected_log_records == 0


@pytest.fixture(scope="module")
def written(homes) -> Lake:
    home = homes("readers")
    started = lake.micros(datetime.now(timezone.utc))
    service = Esker(home, SCHEMAS).start()
    first = oracle.first_run()
    send(service, first)
    assert service.stop() == 0

    service = Esker(home, grown_registry(home / "grown")).start()
    second = oracle.second_run()
    send(service, second)
    assert service.stop() == 0

    expected = oracle.expected_rows(first + second)
    rows, _ = lake.duckdb_rows(service.table)
    assert len(rows) == len(expected)
    names = oracle.pseudonym_names(rows, expected)
    return Lake(service.table, expected, names, len(first), started, lake.micros(datetime.now(timezone.utc)))


@pytest.mark.parametrize("engine", READERS)
def test_every_engine_reads_every_row_exactly(written, engine):
    rows, _ = READERS[engine][0](written.path)
    found = {row["test_seq"]: oracle.comparable(row, written.names) for row in rows}
    assert len(rows) == len(written.expected)
    for seq, expected in written.expected.items():
        assert found[seq] == expected


@pytest.mark.parametrize("engine", READERS)
def test_every_engine_sees_the_declared_types(written, engine):
    read, spelling = READERS[engine]
    _, types = read(written.path)
    declared = {**oracle.ENVELOPE, **oracle.ATTRIBUTES, **oracle.LATER_ATTRIBUTES}
    assert {name: types.get(name) for name in declared} == {name: spelling[kind] for name, kind in declared.items()}


def test_all_engines_agree_on_what_the_service_chose(written):
    """Event ids, pseudonyms, policy version: no oracle knows them, so the engines must tell the same."""
    chosen = []
    for read, _ in READERS.values():
        rows, _ = read(written.path)
        chosen.append({row["event_id"]: (row["received_time"], row["policy_version"], row["user_id"]) for row in rows})
    assert len(chosen[0]) == len(written.expected), "event ids are unique"
    assert all(other == chosen[0] for other in chosen[1:])
    assert all(written.started <= received <= written.ended for received, _, _ in chosen[0].values())
    assert len({policy for _, policy, _ in chosen[0].values()}) == 2, "each registry has its own policy version"


def test_what_is_personal_sensitive_or_undeclared_is_in_no_file(written):
    marks = [b"somebody@example.com", b"token-1", b"nobody knows", b"user-1"]
    for row in lake.duckdb_rows(written.path)[0]:
        for item in row.values():
            assert not isinstance(item, str) or not any(mark in item.encode() for mark in marks)
    home = written.path.parents[3]
    for path in (path for path in home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not any(mark in content for mark in marks), path


def test_a_new_attribute_keeps_the_old_columns_ids(written):
    table = lake.pyiceberg_table(written.path)
    schemas = [{field.name: field.field_id for field in table.schemas()[key].fields} for key in sorted(table.schemas())]
    assert len(schemas) >= 2
    assert not {"test_currency", "test_weight"} & schemas[0].keys()
    assert {"test_currency", "test_weight"} <= schemas[-1].keys()
    assert schemas[0].items() <= schemas[-1].items()


def test_columns_tell_their_source_key(written):
    docs = {field.name: field.doc or "" for field in lake.pyiceberg_table(written.path).schema().fields}
    for column, key in [("test_seq", "test.seq"), ("user_id", "user.id"), ("test_label", "test.label")]:
        assert key in docs[column]


def test_the_table_is_v2_partitioned_by_day_without_delete_files(written):
    table = lake.pyiceberg_table(written.path)
    assert table.format_version == 2
    (part,) = table.spec().fields
    assert (str(part.transform), table.schema().find_field(part.source_id).name) == ("day", "event_time")
    assert all(file["content"] == 0 for file in table.inspect.files().to_pylist())


def test_every_row_lies_in_the_partition_of_its_day(written):
    table = lake.pyiceberg_table(written.path)
    part = table.spec().fields[0].name
    days = set()
    for file in table.inspect.files().to_pylist():
        day = file["partition"][part]
        days.add(day)
        times = read_file(file).column("event_time").to_pylist()
        assert {moment.date() for moment in times} == {day}
    assert days == {day_of(row["event_time"]) for row in written.expected.values()}


def test_spark_sees_the_same_partitions_and_counts(written):
    sql = lake.spark(written.path.parent.parent).sql
    found = {row[0]: row[1] for row in sql("SELECT partition.*, record_count FROM lake.product.events.partitions").collect()}
    wanted = {}
    for row in written.expected.values():
        wanted[day_of(row["event_time"])] = wanted.get(day_of(row["event_time"]), 0) + 1
    assert found == wanted


@pytest.fixture
def only_one_day(written):
    """The table while the files of all other days are away: whoever opens one of them fails."""
    day = day_of(oracle.midnight(10))
    away = []
    for file in data_files(written):
        path = Path(file["file_path"].removeprefix("file://"))
        if file["partition"][lake.pyiceberg_table(written.path).spec().fields[0].name] != day:
            path.rename(path.with_suffix(".away"))
            away.append(path)
    assert away
    yield oracle.midnight(10)
    for path in away:
        path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("engine", TIMES)
def test_an_engine_opens_the_files_of_the_asked_day_only(written, only_one_day, engine):
    start, end = only_one_day, only_one_day + oracle.DAY
    wanted = sorted(row["event_time"] for row in written.expected.values() if start <= row["event_time"] < end)
    assert sorted(TIMES[engine](written.path, start, end, "UTC")) == wanted
    with pytest.raises(Exception, match=r"\.parquet"):
        TIMES[engine](written.path, start - 100 * oracle.DAY, end, "UTC")


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("engine", TIMES)
def test_a_day_is_the_same_wherever_one_sits(written, engine, zone):
    """Also with the process itself in that zone, for the engines that have no session."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        for day in {row["event_time"] // oracle.DAY * oracle.DAY for row in written.expected.values()}:
            wanted = [row["event_time"] for row in written.expected.values() if day <= row["event_time"] < day + oracle.DAY]
            assert sorted(TIMES[engine](written.path, day, day + oracle.DAY, zone)) == sorted(wanted)
    finally:
        os.environ.pop("TZ")
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def test_clickhouse_knows_which_columns_are_never_null(written):
    fields = lake.pyiceberg_table(written.path).schema().fields
    required = {field.name for field in fields if field.required}
    assert required == {"event_id", "event_name", "category", "event_time", "received_time", "policy_version"}
    assert lake.clickhouse_nullable(written.path) == {field.name for field in fields} - required


def test_a_day_is_planned_from_that_days_files_only(written):
    day = oracle.midnight(10)
    wanted = sum(day <= row["event_time"] < day + oracle.DAY for row in written.expected.values())
    start, end = (datetime.fromtimestamp(at / 1e6, timezone.utc).isoformat() for at in (day, day + oracle.DAY))

    scan = lake.pyiceberg_table(written.path).scan(row_filter=f"event_time >= '{start}' and event_time < '{end}'")
    tasks = list(scan.plan_files())
    assert 0 < len(tasks) < len(data_files(written))
    assert {task.file.partition[0] for task in tasks} == {(day // oracle.DAY)}
    assert len(scan.to_arrow()) == wanted


def test_files_are_sorted_by_name_and_time_and_compressed_with_zstd(written):
    for file in data_files(written):
        table = read_file(file)
        keys = list(zip(table.column("event_name").to_pylist(), table.column("event_time").to_pylist()))
        assert keys == sorted(keys)
        metadata = parquet(file).metadata
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                assert metadata.row_group(group).column(column).compression == "ZSTD"


def test_footers_hold_the_schema_and_the_tables_field_ids(written):
    table = lake.pyiceberg_table(written.path)
    ids = {field.name: field.field_id for field in table.schema().fields}
    for file in data_files(written):
        opened = parquet(file)
        in_footer = json.loads(opened.metadata.metadata[b"iceberg.schema"])
        assert {field["name"]: field["id"] for field in in_footer["fields"]}.items() <= ids.items()
        for field in opened.schema_arrow:
            assert int(field.metadata[b"PARQUET:field_id"]) == ids[field.name]


def test_pseudonyms_have_bloom_filters_and_no_bounds(written):
    table = lake.pyiceberg_table(written.path)
    ids = {field.name: field.field_id for field in table.schema().fields}
    for file in table.inspect.files().to_pylist():
        bounded = {key for key, _ in file["lower_bounds"]} | {key for key, _ in file["upper_bounds"]}
        assert ids["event_time"] in bounded and ids["event_name"] in bounded
        assert not bounded & {ids[name] for name in oracle.PSEUDONYMS}
        path = file["file_path"].removeprefix("file://")
        sql = f"SELECT path_in_schema, stats_min_value, bloom_filter_offset FROM parquet_metadata('{path}')"
        columns = {name: (least, bloom) for name, least, bloom in lake.duck().execute(sql).fetchall()}
        assert columns["event_id"][1] is not None
        for name in oracle.PSEUDONYMS:
            assert columns[name][0] is None
        if any(item is not None for item in read_file(file).column("user_id").to_pylist()):
            assert columns["user_id"][1] is not None


def test_the_metrics_of_each_file_are_true(written):
    table = lake.pyiceberg_table(written.path)
    ids = {field.name: field.field_id for field in table.schema().fields}
    for file in table.inspect.files().to_pylist():
        content = read_file(file)
        path = Path(file["file_path"].removeprefix("file://"))
        assert file["record_count"] == len(content)
        assert file["file_size_in_bytes"] == path.stat().st_size
        nulls = dict(file["null_value_counts"])
        for name in ("test_seq", "user_id", "test_text", "event_id"):
            assert nulls[ids[name]] == content.column(name).null_count
        bounds = file["readable_metrics"]["event_time"]
        times = content.column("event_time").to_pylist()
        assert (bounds["lower_bound"], bounds["upper_bound"]) == (min(times), max(times))


def test_old_snapshots_stay_readable(written):
    table = lake.pyiceberg_table(written.path)
    totals = []
    for entry in table.history():
        summary = table.snapshot_by_id(entry.snapshot_id).summary
        assert int(summary["total-records"]) == len(table.scan(snapshot_id=entry.snapshot_id).to_arrow())
        totals.append(int(summary["total-records"]))
    assert totals == sorted(totals) and totals[-1] == len(written.expected)
    assert written.first_run in totals
    at_first = table.history()[totals.index(written.first_run)].snapshot_id
    sql = f"SELECT count(*) FROM iceberg_scan('{written.path}', snapshot_from_id = {at_first})"
    assert lake.duck().execute(sql).fetchone() == (written.first_run,)


def test_each_version_is_plain_json_and_the_hint_is_bare(written):
    metadata = written.path / "metadata"
    hint = (metadata / "version-hint.text").read_text()
    assert hint == hint.strip() and hint.isdigit()
    assert json.loads((metadata / f"v{hint}.metadata.json").read_text())["format-version"] == 2
    assert not (metadata / f"v{int(hint) + 1}.metadata.json").exists()


def data_files(written: Lake) -> list[dict]:
    return lake.pyiceberg_table(written.path).inspect.files().to_pylist()


def parquet(file: dict) -> pyarrow.parquet.ParquetFile:
    return pyarrow.parquet.ParquetFile(file["file_path"].removeprefix("file://"))


def read_file(file: dict):
    return parquet(file).read()


def day_of(micros: int) -> date:
    return (lake.EPOCH + timedelta(microseconds=micros)).date()
