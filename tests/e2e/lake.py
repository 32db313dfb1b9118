"""The table as query engines that nobody here wrote read it. Each gives rows as dictionaries, and types by column.

Owns: starting the engines, offline. Does not own: what they must find.
Timestamps come as integers, microseconds since the Unix epoch, so that no engine's idea of a local time gets in.
"""

import atexit
import re
import tempfile
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

import duckdb
import polars
import pyarrow
from piped import ClickHouse
from pyiceberg.table import StaticTable

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def newest_metadata(table: Path) -> Path:
    """The metadata that the hint names, which is how readers without a catalog find it."""
    hint = (table / "metadata" / "version-hint.text").read_text()
    return table / "metadata" / f"v{hint}.metadata.json"


def micros(item):
    if isinstance(item, datetime):
        return (item - EPOCH) // timedelta(microseconds=1)
    return item


def arrow_rows(table: pyarrow.Table) -> list[dict]:
    return [{name: micros(item) for name, item in row.items()} for row in table.to_pylist()]


# --- DuckDB


@cache
def duck() -> duckdb.DuckDBPyConnection:
    """One connection for the run, with the extensions that the packages carry; it never asks the network."""
    offline = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    connection = duckdb.connect(config=offline)
    for name in ("avro", "iceberg"):
        package = __import__(f"duckdb_extension_{name}")
        (path,) = Path(package.__file__).parent.glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension")
        connection.execute(f"LOAD '{path}'")
    return connection


def duck_on(lake) -> duckdb.DuckDBPyConnection:
    """DuckDB, with what it needs to know to read a warehouse in a bucket."""
    if lake.kind == "local":
        return duck()
    connection = duck().cursor()
    package = __import__("duckdb_extension_httpfs")
    (path,) = Path(package.__file__).parent.glob(f"extensions/v{duckdb.__version__}/httpfs.duckdb_extension")
    connection.execute(f"LOAD '{path}'")
    connection.execute(f"CREATE OR REPLACE SECRET lake ({lake.duckdb_secret})")
    return connection


def query(table: Path, sql: str) -> list[tuple]:
    """Runs SQL in DuckDB, in which `events` is the table in this folder."""
    return duck().execute(sql.replace("events", f"iceberg_scan('{table}')", 1)).fetchall()


def count(table: Path, where: str = "true") -> int:
    return query(table, f"SELECT count(*) FROM events WHERE {where}")[0][0]


def duckdb_rows(table: Path) -> tuple[list[dict], dict[str, str]]:
    described = duck().execute(f"DESCRIBE SELECT * FROM iceberg_scan('{table}')").fetchall()
    types = {row[0]: row[1] for row in described}
    columns = ", ".join(
        f'epoch_us("{name}") AS "{name}"' if "TIMESTAMP" in kind else f'"{name}"' for name, kind in types.items()
    )
    cursor = duck().execute(f"SELECT {columns} FROM iceberg_scan('{table}')")
    return [dict(zip(types, row)) for row in cursor.fetchall()], types


# --- PyIceberg


def pyiceberg_table(table: Path) -> StaticTable:
    return StaticTable.from_metadata(str(newest_metadata(table)))


def pyiceberg_rows(table: Path) -> tuple[list[dict], dict[str, str]]:
    loaded = pyiceberg_table(table)
    types = {field.name: str(field.field_type) for field in loaded.schema().fields}
    return arrow_rows(loaded.scan().to_arrow()), types


# --- Polars


def polars_rows(table: Path) -> tuple[list[dict], dict[str, str]]:
    frame = polars.scan_iceberg(str(newest_metadata(table))).collect()
    types = {name: str(kind) for name, kind in frame.schema.items()}
    return arrow_rows(frame.to_arrow()), types


# --- Spark


@cache
def spark(warehouse: Path):
    """Spark with the real Iceberg runtime, and the warehouse's folder as a Hadoop catalog. One JVM for the run."""
    import snowpark_connect_deps_iceberg
    from pyspark.sql import SparkSession

    jars = Path(snowpark_connect_deps_iceberg.__file__).parent / "jars"
    (jar,) = jars.glob("iceberg-spark-runtime-3.5_2.12-*.jar")
    options = {
        "spark.jars": str(jar),
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lake.type": "hadoop",
        "spark.sql.catalog.lake.warehouse": f"file://{warehouse}",
        # Where Spark makes a folder for each schema of its own catalog.
        "spark.sql.warehouse.dir": f"file://{warehouse.parent}/spark-warehouse",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[1]").appName("esker-e2e")
    for key, item in options.items():
        builder = builder.config(key, item)
    return builder.getOrCreate()


def spark_rows(table: Path) -> tuple[list[dict], dict[str, str]]:
    frame = spark(table.parent.parent).table("lake.product.events")
    types = dict(frame.dtypes)
    columns = [f"unix_micros(`{name}`) AS `{name}`" if kind == "timestamp" else f"`{name}`" for name, kind in types.items()]
    return [row.asDict() for row in frame.selectExpr(*columns).collect()], types


# --- ClickHouse


@cache
def clickhouse(warehouse: Path, zone: str = "UTC") -> ClickHouse:
    """chDB, which reads local tables below its working directory. One process a warehouse and zone for the run."""
    engine = ClickHouse(Path(tempfile.mkdtemp(prefix="esker-chdb-")), warehouse, zone)
    atexit.register(engine.close)
    return engine


def clickhouse_source(table: Path) -> str:
    return f"icebergLocal('{table}/')"


def clickhouse_rows(table: Path) -> tuple[list[dict], dict[str, str]]:
    """Types without `Nullable`, which `clickhouse_nullable` tells."""
    engine, source = clickhouse(table.parent.parent), clickhouse_source(table)
    types = {row["name"]: row["type"] for row in engine.ask(f"DESCRIBE {source}")}
    bare = {name: re.sub(r"^Nullable\((.*)\)$", r"\1", kind) for name, kind in types.items()}
    return engine.ask(f"SELECT * FROM {source}"), bare


def clickhouse_nullable(table: Path) -> set[str]:
    described = clickhouse(table.parent.parent).ask(f"DESCRIBE {clickhouse_source(table)}")
    return {row["name"] for row in described if row["type"].startswith("Nullable(")}


# --- A span of time, as each engine is asked for it, by somebody who sits in another time zone


def moment(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def duckdb_times(table: Path, start: int, end: int, zone: str) -> list[int]:
    duck().execute(f"SET TimeZone = '{zone}'")
    try:
        span = f"event_time >= TIMESTAMPTZ '{moment(start)}' AND event_time < TIMESTAMPTZ '{moment(end)}'"
        found = duck().execute(f"SELECT epoch_us(event_time) FROM iceberg_scan('{table}') WHERE {span}").fetchall()
    finally:
        duck().execute("RESET TimeZone")
    return [row[0] for row in found]


def pyiceberg_times(table: Path, start: int, end: int, zone: str) -> list[int]:
    span = f"event_time >= '{moment(start).isoformat()}' and event_time < '{moment(end).isoformat()}'"
    return [micros(item) for item in pyiceberg_table(table).scan(row_filter=span).to_arrow().column("event_time").to_pylist()]


def polars_times(table: Path, start: int, end: int, zone: str) -> list[int]:
    time = polars.col("event_time")
    frame = polars.scan_iceberg(str(newest_metadata(table))).filter(time.is_between(moment(start), moment(end), closed="left"))
    there = frame.select(time.dt.convert_time_zone(zone)).collect()
    assert str(there.schema["event_time"]) == f"Datetime(time_unit='us', time_zone='{zone}')"
    return [micros(item) for item in there["event_time"].to_list()]


def spark_times(table: Path, start: int, end: int, zone: str) -> list[int]:
    session = spark(table.parent.parent).newSession()
    session.conf.set("spark.sql.session.timeZone", zone)
    span = f"event_time >= TIMESTAMP '{moment(start)}' AND event_time < TIMESTAMP '{moment(end)}'"
    found = session.sql(f"SELECT unix_micros(event_time) FROM lake.product.events WHERE {span}").collect()
    return [row[0] for row in found]


def clickhouse_times(table: Path, start: int, end: int, zone: str) -> list[int]:
    literal = lambda at: f"fromUnixTimestamp64Micro({at}, 'UTC')"  # noqa: E731
    span = f"event_time >= {literal(start)} AND event_time < {literal(end)}"
    found = clickhouse(table.parent.parent, zone).ask(f"SELECT event_time FROM {clickhouse_source(table)} WHERE {span}")
    return [row["event_time"] for row in found]
