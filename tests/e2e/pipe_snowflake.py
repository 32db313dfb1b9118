"""fakesnow behind a pipe: a statement as JSON on each line of standard input, its answer as JSON on each line of standard output.

It runs in an environment of its own (requirements-snowflake.txt). The tables are Parquet files in a folder, by name.
"""

import json
import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import fakesnow
import pyarrow
import pyarrow.parquet
import snowflake.connector

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# As docs/sql.md has them.
TYPES = {"string": "VARCHAR", "int64": "NUMBER(19,0)", "double": "FLOAT", "bool": "BOOLEAN"}


def told(item):
    if isinstance(item, datetime) and item.tzinfo is None:
        # Snowflake gives a date for DATEADD of a date; fakesnow a time of midnight without zone.
        assert item.time().isoformat() == "00:00:00", "only dates come without a zone"
        return {"day": item.date().isoformat()}
    if isinstance(item, datetime):
        return (item - EPOCH) // timedelta(microseconds=1)
    if isinstance(item, date):
        return {"day": item.isoformat()}
    if isinstance(item, Decimal):
        return int(item) if item == item.to_integral_value() and item.as_tuple().exponent >= 0 else float(item)
    return item


def load(cursor, name: str, table: pyarrow.Table):
    kind = lambda field: TYPES.get(str(field.type).removeprefix("large_"), "TIMESTAMP_LTZ(6)")  # noqa: E731
    columns = ", ".join(f'"{field.name.upper()}" {kind(field)}' for field in table.schema)
    cursor.execute(f'CREATE TABLE esker."{name.upper()}" ({columns})')
    for row in table.to_pylist():
        items = [item.isoformat() if isinstance(item, datetime) else item for item in row.values()]
        cursor.execute(f'INSERT INTO esker."{name.upper()}" SELECT {", ".join(["%s"] * len(items))}', items)


def answer(cursor, sql: str) -> dict:
    try:
        found = cursor.execute(sql).fetchall()
    except Exception as problem:  # noqa: BLE001: whatever it is, the test shows it
        return {"error": str(problem)}
    names = [column.name for column in cursor.description]
    return {"names": names, "rows": [[told(item) for item in row] for row in found]}


with fakesnow.patch():
    connection = snowflake.connector.connect(database="lake", schema="esker")
    cursor = connection.cursor()
    for file in sorted(Path(sys.argv[1]).glob("*.parquet")):
        load(cursor, file.stem, pyarrow.parquet.read_table(file))
    for line in sys.stdin:
        print(json.dumps(answer(cursor, json.loads(line))), flush=True)
