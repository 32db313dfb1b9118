"""Engines that run what `esker sql` prints, statement by statement and unedited.

Owns: dividing a script at its own ends, starting the engines, and the form of answers: rows as dictionaries with lower case
names, times as microseconds since the Unix epoch, decimals as floats. Does not own: what must be answered.
Sessions are in Tokyo's time zone: an answer must not depend on where somebody sits.
"""

import json
import re
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import lake

ZONE = "Asia/Tokyo"
HERE = Path(__file__).parent


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


class ClickHouse:
    """chDB in a process of its own: it is a whole server in a library, and will not share a process with others' allocators."""

    def __init__(self, home: Path, warehouse: Path):
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(HERE / "sql_clickhouse.py"), str(home), ZONE]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=warehouse
        )

    def run(self, sql: str) -> list[dict]:
        self.process.stdin.write(json.dumps(sql) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise AssertionError(f"{answer['error']}\n{sql}")
        return rows(answer["names"], [map(revived, row) for row in answer["rows"]])

    def quoted(self, name: str) -> str:
        return f"`{name}`"

    def types(self, view: str) -> dict[str, str]:
        return {row["name"]: row["type"] for row in self.run(f"DESCRIBE {view}")}

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def revived(item):
    """JSON has no dates."""
    if isinstance(item, dict):
        return datetime.fromisoformat(item["day"]).date()
    return item
