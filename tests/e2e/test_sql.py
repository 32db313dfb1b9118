"""`esker sql`: what it prints runs unedited in engines that nobody here wrote, and answers as the oracle does."""

import os
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import lake
import otlp
import pyarrow.parquet
import pytest
import sql_engines
import sql_oracle
import sqlglot
from harness import HERE, REPO, Esker
from sql_oracle import BOUGHT, CATEGORY, DATE, OWN_COLUMNS, VIEWED, VIEWS

# Starting a JVM and running some forty statements in it takes its time on a machine that does other things as well.
pytestmark = pytest.mark.timeout(600)

# These read the table itself, all of the script unedited; those after them are played by emulators, which are given its rows.
ENGINES = ("duckdb", "spark", "clickhouse")
EMULATED = ("snowflake", "bigquery")
STEPS = ("--event", VIEWED, "--then", BOUGHT)
TYPES = {
    "duckdb": {"order": "BIGINT", "price": "DOUBLE", "select": "BOOLEAN", "event_time": "TIMESTAMP WITH TIME ZONE"},
    "spark": {"order": "bigint", "price": "double", "select": "boolean", "event_time": "timestamp"},
    "clickhouse": {
        "order": "Nullable(Int64)",
        "price": "Nullable(Float64)",
        "select": "Nullable(Bool)",
        "event_time": "DateTime64(6, 'UTC')",
    },
}


@dataclass
class Shop:
    """The finished table, and what must be found in it."""

    service: Esker
    oracle: sql_oracle.Oracle


def send(service: Esker, events: list[sql_oracle.Event], rejected: int = 0):
    for name in ("shop", "mobile"):
        records = [event.log_record() for event in events if event.service == name]
        if records:
            answer = service.post(otlp.encoded(*records, service=name))
            assert answer.status == 200, answer.body


@pytest.fixture(scope="module")
def shop(homes) -> Shop:
    started = lake.micros(datetime.now(timezone.utc))
    service = Esker(homes("sql"), HERE / "schemas_sql").start()
    sent, broken = sql_oracle.events(), sql_oracle.broken()
    send(service, [event for event in sent if event.service == "mobile"])
    again = sql_oracle.copies(sent)
    send(service, [event for event in sent if event.service == "shop"])
    send(service, again)
    send(service, broken)
    assert service.stop() == 0
    ended = lake.micros(datetime.now(timezone.utc))
    return Shop(service, sql_oracle.Oracle(sent + again, broken, started, ended))


def script(shop: Shop, engine: str, *more: str) -> str:
    printed = shop.service.run("sql", "--engine", engine, *more)
    assert printed.returncode == 0, printed.stderr
    return printed.stdout


def python_of(engine: str) -> Path:
    """The interpreter of an emulator's own environment: its dependencies contradict those of the tests."""
    folder = Path(os.environ.get("E2E_EMULATORS", Path(sys.prefix) / "emulators"))
    python = folder / engine / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there; ./test installs it from requirements-{engine}.txt")
    return python


def exported(shop: Shop, folder: Path) -> Path:
    """The tables as Parquet files, with every column of the schema."""
    folder.mkdir(parents=True)
    for name in ("events", "events_quarantine"):
        rows = lake.pyiceberg_table(shop.service.table.parent / name).scan().to_arrow()
        pyarrow.parquet.write_table(rows, folder / f"product_{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def run(shop, homes):
    """The whole script of an engine, run once: the engine, and the answer to each query by its name."""
    done, started = {}, []

    def start(engine: str):
        if engine == "duckdb":
            return sql_engines.DuckDb(homes("sql-duckdb"))
        if engine == "spark":
            return sql_engines.Spark(shop.service.warehouse)
        if engine == "clickhouse":
            started.append(sql_engines.ClickHouse(homes("sql-clickhouse"), shop.service.warehouse))
        else:
            emulator = {"snowflake": sql_engines.Snowflake, "bigquery": sql_engines.BigQuery}[engine]
            started.append(emulator(python_of(engine), exported(shop, homes(f"sql-{engine}"))))
        return started[-1]

    def all_of(engine: str):
        if engine not in done:
            opened, answers = start(engine), {}
            # The set-up of a cloud's engine has places for the reader's own values.
            sections = ["all"] if engine in ENGINES else ["views", "queries"]
            text = "".join(script(shop, engine, "--section", section, *STEPS) for section in sections)
            for name, statement in sql_engines.statements(text):
                answer = opened.run(statement)
                if name:
                    answers[name] = answer
            done[engine] = (opened, answers)
        return done[engine]

    yield all_of
    for engine in started:
        engine.close()


@pytest.mark.parametrize("engine", ENGINES + EMULATED)
def test_every_query_answers_as_the_oracle_does(shop, run, engine):
    _, answers = run(engine)
    expected = shop.oracle.answers()
    assert answers.keys() == expected.keys()
    for name, answer in expected.items():
        assert answers[name] == answer, name


@pytest.mark.parametrize("engine", ENGINES + EMULATED)
def test_each_event_has_a_view_of_its_own_columns_and_rows(shop, run, engine):
    opened, _ = run(engine)
    for event, view in VIEWS.items():
        found = opened.run(f"SELECT * FROM esker.{opened.quoted(view)}")
        assert len(found) == sum(one.name == event for one in shop.oracle.sent), event
        own = [name for name in found[0] if name not in lake_envelope() and name != DATE]
        assert sorted(own) == sorted(OWN_COLUMNS[event])
        for row in found:
            (sent, *_) = [one for one in shop.oracle.sent if one.name == event and one.micros == row["event_time"]]
            assert row[DATE] == sent.day and row["category"] == CATEGORY[event]
            for column, key in (("order", "order"), ("price", "price"), ("select", "select"), ("group", "group")):
                if column in row:
                    assert row[column] == sent.value(key)
            assert row.get("event_date") == sent.value("event.date")


@pytest.mark.parametrize("engine", ENGINES)
def test_views_have_the_types_that_the_engine_is_said_to_read(run, engine):
    opened, _ = run(engine)
    types = opened.types(f"esker.{opened.quoted(VIEWS[BOUGHT])}")
    assert {name: types[name] for name in TYPES[engine]} == TYPES[engine]


@pytest.mark.parametrize("engine", ENGINES + EMULATED)
def test_the_unique_view_keeps_the_first_of_what_came_twice(shop, run, engine):
    opened, _ = run(engine)
    stored = opened.run("SELECT event_id, received_time FROM esker.events")
    unique = opened.run("SELECT event_id, received_time FROM esker.events_unique")
    first: dict[str, int] = {}
    for row in stored:
        first[row["event_id"]] = min(first.get(row["event_id"], row["received_time"]), row["received_time"])
    assert len(stored) == len(shop.oracle.sent) == len(unique) + 1
    assert {row["event_id"]: row["received_time"] for row in unique} == first


@pytest.mark.parametrize("engine", ENGINES + EMULATED)
def test_what_is_declared_is_there_with_its_view(run, engine):
    opened, _ = run(engine)
    declared = opened.run("SELECT * FROM esker.declared_events")
    assert {row["event_name"]: row["view_name"] for row in declared} == VIEWS
    assert {row["event_name"]: row["brief"] for row in declared}["events.unique"] == "Ends with a backslash \\\\"


def lake_envelope() -> set[str]:
    import oracle

    return set(oracle.ENVELOPE)


# What sqlglot does not know, and so takes as an opaque command: statements of the vendors' own for catalogs and buckets.
OPAQUE = {
    "snowflake": ["CREATE EXTERNAL VOLUME IF NOT EXISTS", "CREATE CATALOG INTEGRATION IF NOT EXISTS"],
    "bigquery": ["CREATE OR REPLACE EXTERNAL TABLE"],
    "trino": ["CALL lake.system.register_table"],
}


@pytest.mark.parametrize("registry", [HERE / "schemas_sql", REPO / "schemas"], ids=["shop", "flagsmith"])
@pytest.mark.parametrize("engine", OPAQUE)
def test_every_statement_is_valid_in_its_dialect(homes, caplog, engine, registry):
    """Of engines that do not run here: sqlglot parses each statement, and writes it again in its dialect, without a complaint."""
    service = Esker(homes(f"sql-parse-{engine}"), registry)
    printed = service.run("sql", "--engine", engine)
    assert printed.returncode == 0, printed.stderr
    found = sql_engines.statements(printed.stdout)
    opaque = []
    for _, statement in found:
        caplog.clear()
        parsed = sqlglot.parse_one(statement, dialect=engine, error_level=sqlglot.ErrorLevel.RAISE)
        if parsed.find(sqlglot.exp.Command):
            opaque.append(next(start for start in OPAQUE[engine] if statement.startswith(start)))
            continue
        parsed.sql(dialect=engine, unsupported_level=sqlglot.ErrorLevel.RAISE)
        assert not caplog.records, (statement, caplog.text)
    assert set(opaque) == set(OPAQUE[engine]) and len(opaque) < 5 < len(found)


@pytest.mark.parametrize("engine", [*ENGINES, *OPAQUE])
def test_every_declared_event_has_a_view_and_every_name_is_there_once(homes, engine):
    service = Esker(homes(f"sql-flagsmith-{engine}"), REPO / "schemas")
    printed = service.run("sql", "--engine", engine).stdout
    made = re.findall(r"^CREATE OR REPLACE VIEW (\S+)", printed, re.M)
    plain = [re.sub(r"[`\"]", "", name).lower().rsplit(".", 1)[1] for name in made]
    assert len(plain) == len(set(plain))
    declared = re.findall(r"^  - name: (\S+)", "".join(file.read_text() for file in (REPO / "schemas").glob("*.yaml")), re.M)
    assert len(declared) == 90
    assert {name.replace(".", "_") for name in declared} <= set(plain)
    assert not sql_engines.left_out(printed), "Flagsmith's registry has an attribute for every role"


def test_queries_that_lack_an_attribute_are_left_out_with_the_reason(homes):
    printed = Esker(homes("sql-roles")).run("sql", "--engine", "duckdb", "--section", "queries")
    missing = sql_engines.left_out(printed.stdout)
    assert missing.keys() == {"daily_actives_by_tenant", "sessions"}
    assert "--tenant KEY" in missing["daily_actives_by_tenant"] and "--session KEY" in missing["sessions"]
    assert "--tenant (none found), --user user.id, --session (none found)" in " ".join(printed.stdout.split("\n-- "))


def test_roles_can_be_chosen_and_a_wrong_one_is_named(homes):
    service = Esker(homes("sql-choice"), HERE / "schemas_sql")
    run = lambda *more: service.run("sql", "--engine", "duckdb", "--section", "queries", *more)  # noqa: E731
    assert 'COUNT(DISTINCT "session_id") AS active_users' in run("--user", "session.id").stdout
    for option, value, hint in [
        ("--tenant", "organisation.name", "did you mean organisation.id"),
        ("--event", "shop.item.sold", "did you mean shop.item.bought, shop.item.viewed, shop.item_viewed?"),
        ("--user", "user.email", "no event stores such an attribute"),
        ("--schema", "Esker; DROP", "use lower case letters"),
        ("--table", "product.other", "name one of product.events"),
    ]:
        refused = run(option, value)
        assert refused.returncode == 2 and option in refused.stderr and hint in refused.stderr, refused.stderr
        assert not refused.stdout


def test_nothing_is_made_and_no_secret_is_printed(homes):
    """The command reads the registry and the newest metadata; it makes no data directory, no key and no warehouse."""
    service = Esker(homes("sql-nothing"), HERE / "schemas_sql")
    for engine in (*ENGINES, *OPAQUE):
        assert service.run("sql", "--engine", engine).returncode == 0
    assert not service.data.exists()


def test_engines_without_a_catalog_are_given_the_newest_metadata(shop):
    newest = lake.newest_metadata(shop.service.table).name
    for engine in ("snowflake", "bigquery", "trino"):
        assert newest in script(shop, engine, "--section", "setup")
