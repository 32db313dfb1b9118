"""chDB behind a pipe: a statement as JSON on each line of standard input, its answer as JSON on each line of standard output."""

import json
import sys
from datetime import date, datetime, timedelta, timezone

import pyarrow
from chdb import session

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def told(item):
    if isinstance(item, datetime):
        return (item - EPOCH) // timedelta(microseconds=1)
    if isinstance(item, date):
        return {"day": item.isoformat()}
    return item


def answer(sql: str) -> dict:
    try:
        raw = clickhouse.query(sql, "Arrow").bytes()
    except Exception as problem:  # noqa: BLE001: whatever it is, the test shows it
        return {"error": str(problem)}
    if not raw:
        return {"names": [], "rows": []}
    table = pyarrow.ipc.open_file(pyarrow.BufferReader(raw)).read_all()
    return {"names": table.column_names, "rows": [[told(item) for item in row.values()] for row in table.to_pylist()]}


clickhouse = session.Session(sys.argv[1])
clickhouse.query(f"SET session_timezone = '{sys.argv[2]}', output_format_arrow_string_as_string = 1")
clickhouse.query("SET output_format_arrow_date_as_uint16 = 0")
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
