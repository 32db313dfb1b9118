"""Retention: rows leave their table when their time has passed, their bytes leave the disk, and nothing else does. DuckDB and PyIceberg say what is
there, and the file system what is left.
"""

import json
import random
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import lake
import otlp
import pytest
from harness import Esker, by_labels, environment, wait_until

DAY_NANOS = 86_400 * 10**9
AT_ONCE = {"interval": "0s", "snapshots_min_age": "0s", "snapshots_min_count": 1}


def day(ago: int) -> str:
    return (datetime.now(timezone.utc) - timedelta(days=ago)).date().isoformat()


def events(name: str, *ages: int, first: int = 0) -> bytes:
    """One event for each age in days, numbered."""
    now = time.time_ns()
    records = [
        otlp.record(name, {"test.seq": seq, "test.text": f"age-{age}"}, nanos=now - age * DAY_NANOS)
        for seq, age in enumerate(ages, first)
    ]
    return otlp.encoded(*records)


def two_tables(esker, **sections) -> tuple[Esker, Path]:
    """Events of the product stay 30 days, those of logins 90."""
    service = esker(table={"retention": "30d"}, maintain=AT_ONCE, **sections)
    service.config.write_text(
        service.config.read_text()
        + '\n[[tables]]\nname = "audit.logins"\nretention = "90d"\n\n[[routes]]\ncategory = "security"\ntable = "audit.logins"\n'
    )
    return service, service.warehouse / "audit" / "logins"


def days_on_disk(table: Path) -> set[str]:
    return {path.parent.name.removeprefix("event_time_day=") for path in (table / "data").rglob("*.parquet")}


def numbers(table: Path) -> list[int]:
    return [seq for (seq,) in lake.query(table, "SELECT test_seq FROM events ORDER BY 1")]


def maintain(service: Esker, *arguments: str) -> dict[str, dict]:
    done = service.run("maintain", "--format", "json", *arguments)
    assert done.returncode == 0, done.stderr
    return {table["name"]: table for table in json.loads(done.stdout)["tables"]}


def nothing_is_left_over(table: Path):
    """Each data file on the disk is one that PyIceberg reads, and the totals are true."""
    loaded = lake.pyiceberg_table(table)
    live = {Path(task.file.file_path.removeprefix("file://")).resolve() for task in loaded.scan().plan_files()}
    assert {path.resolve() for path in (table / "data").rglob("*.parquet")} == live
    summary = loaded.current_snapshot().summary
    assert int(summary["total-records"]) == loaded.scan().to_arrow().num_rows == lake.count(table)
    assert int(summary["total-data-files"]) == len(live)
    assert int(summary["total-files-size"]) == sum(path.stat().st_size for path in live)


def test_each_table_keeps_its_own_days_and_the_bytes_of_others_are_gone(esker):
    service, logins = two_tables(esker)
    service.start()
    assert service.post(events("test.order.placed", 40, 31, 29, 1, 0)).status == 200
    assert service.post(events("test.login.failed", 100, 40, 0)).status == 200
    service.wait_settled()
    assert len(numbers(service.table)) == 5

    status = {table["name"]: table["days"] for table in json.loads(service.run("status", "--format", "json").stdout)["tables"]}
    assert status["product.events"] == {"oldest": day(40), "first_kept": day(30), "overdue": True}
    assert status["audit.logins"] == {"oldest": day(100), "first_kept": day(90), "overdue": True}
    assert f"oldest day {day(40)}, kept from {day(30)} on" in service.run("status").stdout

    planned = maintain(service, "--dry-run")
    assert planned["product.events"]["days_removed"] == [day(40), day(31)]
    assert planned["product.events"]["rows_removed"] == 2
    assert len(numbers(service.table)) == 5, "a dry run changes nothing"

    done = maintain(service)
    assert done["product.events"]["rows_removed"] == 2 and done["audit.logins"]["rows_removed"] == 1
    assert not done["product.events_withdrawals"]["exists"] and done["product.events_withdrawals"]["retention_days"] is None
    assert numbers(service.table) == [2, 3, 4]
    assert numbers(logins) == [1, 2]
    assert days_on_disk(service.table) == {day(29), day(1), day(0)}
    assert days_on_disk(logins) == {day(40), day(0)}
    for table in (service.table, logins):
        nothing_is_left_over(table)
    summary = lake.pyiceberg_table(service.table).current_snapshot().summary
    assert summary.operation.value == "delete" and summary["esker.retention.before"] == day(30)

    # The service goes on as if nothing had happened: a retry is known, and each event is there once, also over a kill.
    later = events("test.order.placed", 0, 0, first=5)
    assert service.post(later).status == 200
    assert service.post(later).status == 200
    service.kill()
    service.start()
    assert service.post(events("test.order.placed", 2, first=7)).status == 200
    assert service.stop() == 0
    assert numbers(service.table) == [2, 3, 4, 5, 6, 7]
    again = maintain(service)
    assert again["product.events"]["rows_removed"] == 0
    assert numbers(service.table) == [2, 3, 4, 5, 6, 7]
    nothing_is_left_over(service.table)


def test_the_service_does_it_by_itself_and_late_events_leave_again(esker):
    service = esker(table={"retention": "30d"}, maintain=AT_ONCE | {"interval": "1s"})
    service.start()
    for first in (0, 2):
        assert service.post(events("test.order.placed", 45, 0, first=first)).status == 200
        service.wait_settled()
        wait_until(lambda expected=[1, 3][: first // 2 + 1]: numbers(service.table) == expected, "the old event left")
    totals = lambda name: by_labels(service.metrics(), name, table="product.events")  # noqa: E731
    wait_until(lambda: totals("esker_retention_rows_removed_total") == 2, "both removals are counted")
    assert totals("esker_retention_files_removed_total") == 2
    assert totals("esker_maintain_runs_total") >= 1 and totals("esker_maintain_failures_total") == 0
    assert totals("esker_maintain_last_run_seconds") > time.time() - 600
    assert totals("esker_maintain_snapshots_expired_total") >= 1
    wait_until(lambda: days_on_disk(service.table) == {day(0)}, "the bytes are gone")
    assert "rows past their retention left the table" in service.log()
    assert "leave again at the next run" in service.log(), "the start says that privacy.age_max is longer"
    assert service.stop() == 0
    assert numbers(service.table) == [1, 3]


def test_snapshots_stay_for_those_who_read_them(esker):
    service = esker(table={"retention": "30d"}, maintain={"interval": "0s"})
    service.start()
    assert service.post(events("test.order.placed", 45, 0)).status == 200
    assert service.stop() == 0
    before = lake.newest_metadata(service.table)
    done = maintain(service)["product.events"]
    assert (done["rows_removed"], done["snapshots_expired"], done["files_deleted"]) == (1, 0, 0)
    assert numbers(service.table) == [1]
    [(old,)] = lake.duck().execute(f"SELECT count(*) FROM iceberg_scan('{before}')").fetchall()
    assert old == 2, "a query that began before the run ends well"


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_anywhere_breaks_nothing_and_the_next_finishes(esker):
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    service, logins = two_tables(esker, flush={"max_age": "100ms"})
    service.start()
    expected = []
    for turn in range(12):
        assert service.post(events("test.order.placed", 45, 40, 0, first=turn * 3)).status == 200
        expected.append(turn * 3 + 2)
        command = [str(service.executable), "--config", str(service.config), "maintain"]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=service.home, env=environment())
        try:
            run.wait(chance.uniform(0.01, 0.25))
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
        # Whatever stands there now can be read whole.
        assert set(numbers(service.table)) <= set(range(turn * 3 + 3))
    assert service.stop() == 0
    maintain(service)
    assert numbers(service.table) == expected
    assert days_on_disk(service.table) >= {day(0)}
    summary = lake.pyiceberg_table(service.table).current_snapshot().summary
    assert int(summary["total-records"]) == len(expected)
    # What killed runs left is old enough after an hour; the store's clock is that of its files.
    hours_ago = time.time() - 4 * 24 * 3600
    for path in [*(service.table / "data").rglob("*.parquet"), *(service.table / "metadata").glob("*.avro")]:
        subprocess.run(["touch", "-d", f"@{hours_ago}", path], check=True)
    maintain(service)
    assert numbers(service.table) == expected
    nothing_is_left_over(service.table)
    assert not list(logins.rglob("*.parquet"))


def test_old_metadata_and_a_bad_configuration(esker):
    service = esker(maintain=AT_ONCE | {"metadata_min_count": 10, "metadata_min_age": "1h"})
    service.start()
    for seq in range(14):
        assert service.post(otlp.numbered([seq])).status == 200
        service.wait_settled()
    assert service.stop() == 0
    versions = lambda: sorted(int(path.name[1:].split(".")[0]) for path in (service.table / "metadata").glob("v*.json"))  # noqa: E731
    assert maintain(service)["product.events"]["metadata_files_deleted"] == 0, "they are young"
    newest = versions()[-1]
    for path in (service.table / "metadata").glob("v*.json"):
        subprocess.run(["touch", "-d", "@1700000000", path], check=True)
    assert maintain(service)["product.events"]["metadata_files_deleted"] > 0
    assert versions() == list(range(newest - 9, newest + 1))
    assert numbers(service.table) == list(range(14))
    service.start()
    assert service.post(otlp.numbered([14])).status == 200
    assert service.stop() == 0
    assert numbers(service.table) == list(range(15))

    service.sections["maintain"] = {"snapshots_min_count": 0}
    service.write_config()
    done = service.run("maintain")
    assert done.returncode == 2 and "maintain.snapshots_min_count" in done.stderr
