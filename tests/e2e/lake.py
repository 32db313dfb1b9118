"""The table as query engines that nobody here wrote read it. Each gives rows as dictionaries, and types by column.

Owns: starting the engines, offline. Does not own: what they must find.
Timestamps come as integers, microseconds since the Unix epoch, so that no engine's idea of a local time gets in.
"""

from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

import duckdb
import polars
import pyarrow
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
