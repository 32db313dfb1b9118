"""Engines that run what `esker sql` prints, statement by statement and unedited.

Owns: dividing a script at its own ends, starting the engines, and the form of answers: rows as dictionaries with lower case
names, times as microseconds since the Unix epoch, decimals as floats. Does not own: what must be answered.
Sessions are in Tokyo's time zone where an engine has one: an answer must not depend on where somebody sits.
"""

import json
import os
import re
import subprocess
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import lake
import piped
import pyarrow.parquet
from harness import free_ports, request, wait_until

ZONE = "Asia/Tokyo"


def statements(script: str) -> list[tuple[str | None, str]]:
    """Each statement without its `;`, and the name of the query that it is."""
    found, lines, name = [], [], None
    for line in script.splitlines():
        if line.startswith("--"):
            title = re.match(r"-- \[(\w+)\] (?!is left out)", line)
            name = title.group(1) if title else name
        elif line.endswith(";"):
            found.append((name, "\n".join([*lines, line[:-1]])))
            lines, name = [], None
        elif line or lines:
            lines.append(line)
    assert not lines, "a statement has no end"
    return found


def left_out(script: str) -> dict[str, str]:
    """Queries that are not there, with the reason."""
    joined = re.sub(r"\n-- (?!\[)", " ", script)
    return dict(re.findall(r"-- \[(\w+)\] is left out: (.*)", joined))


def plain(item):
    if isinstance(item, Decimal):
        return int(item) if item == item.to_integral_value() and item.as_tuple().exponent == 0 else float(item)
    return lake.micros(item) if isinstance(item, datetime) else item


def lowered(found: list[dict]) -> list[dict]:
    return [{name.lower(): item for name, item in row.items()} for row in found]


def rows(names: list[str], found) -> list[dict]:
    return [{name.lower(): plain(item) for name, item in zip(names, row)} for row in found]


class DuckDb:
    """With the packages' extensions where its `INSTALL` finds them, so that it asks no network."""

    def __init__(self, home: Path):
        offline = {"autoinstall_known_extensions": "false", "extension_directory": str(home / "duckdb")}
        self.connection = duckdb.connect(config=offline)
        for name in ("avro", "iceberg"):
            package = __import__(f"duckdb_extension_{name}")
            (path,) = Path(package.__file__).parent.glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension")
            self.connection.execute(f"INSTALL '{path}'")
        self.connection.execute(f"SET TimeZone = '{ZONE}'")

    def run(self, sql: str) -> list[dict]:
        cursor = self.connection.execute(sql)
        if cursor.description is None:
            return []
        table = cursor.to_arrow_table()
        return rows(table.column_names, [row.values() for row in table.to_pylist()])

    def quoted(self, name: str) -> str:
        return f'"{name}"'

    def types(self, view: str) -> dict[str, str]:
        return {row["column_name"]: row["column_type"] for row in self.run(f"DESCRIBE {view}")}


class Spark:
    """A session of its own in the run's JVM, so that it loads the catalog that the script describes."""

    def __init__(self, warehouse: Path):
        self.session = lake.spark(warehouse).newSession()
        self.session.conf.set("spark.sql.session.timeZone", ZONE)
        # What the run's own session was given at its start must not be what makes the script work.
        for key in ("type", "warehouse"):
            self.session.conf.set(f"spark.sql.catalog.lake.{key}", "not from the script")

    def run(self, sql: str) -> list[dict]:
        frame = self.session.sql(sql)
        kinds = dict(frame.dtypes)
        exact = [f"unix_micros(`{name}`) AS `{name}`" if kind == "timestamp" else f"`{name}`" for name, kind in kinds.items()]
        return rows(list(kinds), frame.selectExpr(*exact).collect()) if kinds else []

    def quoted(self, name: str) -> str:
        return f"`{name}`"

    def types(self, view: str) -> dict[str, str]:
        return dict(self.session.table(view).dtypes)


class ClickHouse(piped.ClickHouse):
    """chDB."""

    def __init__(self, home: Path, warehouse: Path):
        super().__init__(home, warehouse, ZONE)

    def run(self, sql: str) -> list[dict]:
        return lowered(self.ask(sql))

    def quoted(self, name: str) -> str:
        return f"`{name}`"

    def types(self, view: str) -> dict[str, str]:
        return {row["name"]: row["type"] for row in self.run(f"DESCRIBE {view}")}


class Snowflake(piped.Piped):
    """fakesnow, in which DuckDB plays Snowflake. It has no Iceberg tables, so it is given the rows, under the table's name and with
    the types that Snowflake reads them as."""

    def __init__(self, python: Path, tables: Path):
        super().__init__("pipe_snowflake.py", tables, python=python)

    def run(self, sql: str) -> list[dict]:
        # fakesnow puts a view's comment into a statement of its own without doubling its quotes.
        return lowered(self.ask(re.sub(r"^COMMENT = '.*'$", lambda comment: comment[0].replace("''", ""), sql, flags=re.M)))

    def quoted(self, name: str) -> str:
        return f'"{name.upper()}"'


class BigQuery:
    """bqemulator, in which DuckDB plays BigQuery, through BigQuery's REST interface. It is given the rows, as fakesnow is."""

    TYPES = {"string": "STRING", "int64": "INT64", "double": "FLOAT64", "bool": "BOOL"}
    # It wants DuckDB's spatial extension at its start, and would ask the network for it: here it is a package.
    SPATIAL = """
import pathlib, duckdb, duckdb_extension_spatial as package
(path,) = pathlib.Path(package.__file__).parent.glob(f"extensions/v{duckdb.__version__}/spatial.duckdb_extension")
duckdb.connect().execute(f"INSTALL '{path}'")
"""

    def __init__(self, python: Path, tables: Path):
        (port, grpc) = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        environment = {**os.environ, "HOME": str(tables)}
        subprocess.run([python, "-c", self.SPATIAL], env=environment, check=True)
        command = [python.parent / "bqemulator", "start", "--rest-port", port, "--grpc-port", grpc, "--project", "shop"]
        self.log = open(tables / "bqemulator.log", "wb")
        self.process = subprocess.Popen([str(part) for part in command], env=environment, stdout=self.log, stderr=self.log)
        wait_until(self.answers, "bqemulator answers", 120)
        self.call("POST", "datasets", {"datasetReference": {"projectId": "shop", "datasetId": "esker"}})
        for file in sorted(tables.glob("*.parquet")):
            self.load(file.stem, pyarrow.parquet.read_table(file))

    def answers(self) -> bool:
        try:
            return request(self.address, "GET", "/bigquery/v2/projects/shop/datasets").status == 200
        except OSError:
            assert self.process.poll() is None, "bqemulator ended"
            return False

    def call(self, method: str, path: str, body: dict) -> dict:
        headers = {"content-type": "application/json"}
        answer = request(self.address, method, f"/bigquery/v2/projects/shop/{path}", json.dumps(body).encode(), headers)
        assert answer.status == 200, answer.body.decode()
        return answer.json()

    def load(self, name: str, table: pyarrow.Table):
        kind = lambda field: self.TYPES.get(str(field.type).removeprefix("large_"), "TIMESTAMP")  # noqa: E731
        fields = [{"name": field.name, "type": kind(field), "mode": "NULLABLE"} for field in table.schema]
        reference = {"projectId": "shop", "datasetId": "esker", "tableId": name}
        self.call("POST", "datasets/esker/tables", {"tableReference": reference, "schema": {"fields": fields}})
        told = lambda item: item.isoformat() if isinstance(item, datetime) else item  # noqa: E731
        sent = [{"json": {key: told(item) for key, item in row.items()}} for row in table.to_pylist()]
        answer = self.call("POST", f"datasets/esker/tables/{name}/insertAll", {"rows": sent})
        assert not answer.get("insertErrors"), answer

    def run(self, sql: str) -> list[dict]:
        body = {"query": sql, "useLegacySql": False, "timeoutMs": 60_000, "formatOptions": {"useInt64Timestamp": True}}
        answer = self.call("POST", "queries", body)
        assert answer["jobComplete"], answer
        fields = answer.get("schema", {}).get("fields", [])
        return [
            {field["name"]: self.value(field["type"], cell["v"]) for field, cell in zip(fields, row["f"])}
            for row in answer.get("rows", [])
        ]

    @staticmethod
    def value(kind: str, text: str | None):
        if text is None:
            return None
        if kind in ("INTEGER", "INT64"):
            return int(text)
        if kind in ("FLOAT", "FLOAT64", "NUMERIC", "BIGNUMERIC"):
            return float(text)
        if kind in ("BOOLEAN", "BOOL"):
            return str(text).lower() == "true"
        if kind == "DATETIME":
            # BigQuery's DATE_TRUNC of a date is a date; the emulator's a time of midnight.
            day, clock = text.split("T")
            assert clock == "00:00:00", text
            return date.fromisoformat(day)
        if kind == "DATE":
            return date.fromisoformat(text)
        return int(text) if kind == "TIMESTAMP" else text

    def quoted(self, name: str) -> str:
        return f"`{name}`"

    def close(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
