"""`esker check | explain | status | learn | catalogue`, `--help`, and the exit codes: 0 done, 1 failed, 2 bad usage or configuration."""

import json
import os
import shutil
import signal
import subprocess

import lake
import otlp
import pytest
from harness import REPO, SCHEMAS, Esker, binary, environment, read_line, request


@pytest.fixture(scope="module")
def idle(homes) -> Esker:
    """A configuration whose service never ran."""
    return Esker(homes("commands"))


@pytest.mark.parametrize("command", [[], ["serve"], ["check"], ["explain"], ["status"], ["learn"], ["catalogue"], ["maintain"]])
def test_help_has_an_example(idle, command):
    done = idle.run(*command, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout and "esker" in done.stdout


@pytest.mark.parametrize("arguments", [["no-such-command"], ["check", "--no-such-flag"], ["explain"], []])
def test_bad_usage_is_exit_code_2(idle, arguments):
    done = idle.run(*arguments)
    assert done.returncode == 2
    assert "sage" in done.stderr


def test_check_tells_what_is_declared(idle):
    text = idle.run("check")
    assert text.returncode == 0, text.stderr
    assert "3 events" in text.stdout
    report = json.loads(idle.run("check", "--format", "json").stdout)
    assert report["events"] == 3
    assert report["events_by_category"] == {"operational": 1, "product": 1, "security": 1}


def test_check_of_the_repositorys_own_registry(homes):
    done = Esker(homes("own-registry"), REPO / "schemas").run("check", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events"] >= 90


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("privacy: pseudonymous", "privacy: secretish"), ["user.id", "privacy", "sensitive"]),
        (("category: product", "category: misc"), ["test.order.placed", "category", "operational"]),
        (("ref: test.ratio", "ref: test.ration"), ["test.ration"]),
        (("type: boolean", "type: bool"), ["test.flag"]),
        (("key: test.flag", "key: test_seq"), ["test.seq", "test_seq"]),
        (("file_format: definition/2", "file_format: definition/9"), ["definition/9"]),
    ],
)
def test_check_names_what_is_wrong(homes, change, said):
    home = homes("bad-registry")
    folder = home / "schemas"
    folder.mkdir(parents=True)
    text = (SCHEMAS / "events.yaml").read_text()
    assert change[0] in text
    (folder / "events.yaml").write_text(text.replace(*change))
    done = Esker(home, folder).run("check")
    assert done.returncode == 2
    assert "events.yaml" in done.stderr
    for part in said:
        assert part in done.stderr


def test_what_registry_and_configuration_say_of_a_category_may_not_differ(homes):
    home = homes("categories")
    folder = home / "schemas"
    shutil.copytree(SCHEMAS, folder)
    group = "{id: %s, visibility: public, stability: stable, brief: For., annotations: {esker: {category: product, purposes: [care]}}}"
    (folder / "categories.yaml").write_text("file_format: definition/2\nattribute_groups:\n  - " + group % "category.product" + "\n")
    service = Esker(home, folder)
    data = json.loads(service.run("catalogue", "--format", "json").stdout)
    assert data["consent"]["categories"][0]["purposes_rule"] == "purposes of the category in schemas/"
    service.sections["consent"] = {"purposes": {"product": ["analytics"]}}
    service.write_config()
    for command in ("check", "serve"):
        done = service.run(command)
        assert done.returncode == 2 and "[care] in schemas/" in done.stderr and "consent.purposes.product" in done.stderr, done.stderr
    with open(folder / "categories.yaml", "a") as file:
        file.write("  - " + group % "category.again" + "\n")
    done = service.run("check")
    assert done.returncode == 2 and "declared twice" in done.stderr and "categories.yaml" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[flush]\nmax_aeg = '1s'", ["flush.max_aeg", "max_age"]),
        ("[flush]\nmax_age = '1 fortnight'", ["flush.max_age"]),
        ("[table]\nwarehouse = 'ftp://x'", ["table.warehouse", "file://"]),
        ("[receive]\nhttp = 'everywhere'", ["receive.http"]),
        ("nonsense = 1", ["nonsense"]),
        ("[flush", []),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_bad_configuration_names_the_key(homes, command, line, said):
    home = homes("bad-config")
    home.mkdir()
    (home / "esker.toml").write_text(line + "\n")
    done = subprocess.run([binary(), command], cwd=home, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 2
    for part in said:
        assert part in done.stderr
    assert not (home / "esker-data").exists()


def test_a_configuration_file_that_is_not_there_is_told(homes):
    command = [binary(), "--config", "/no/such.toml", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 2 and "/no/such.toml" in done.stderr


def test_the_environment_sets_keys(idle):
    done = idle.run("check", env=environment(ESKER_FLUSH__MAX_AGE="soon"))
    assert done.returncode == 2 and "flush.max_age" in done.stderr.lower()


def test_a_misspelt_key_in_the_environment_is_refused(idle):
    done = idle.run("check", env=environment(ESKER_FLUSH__MAX_AEG="1s"))
    assert done.returncode == 2 and "flush.max_aeg" in done.stderr.lower()


def test_variables_of_others_stop_nothing(idle):
    """Kubernetes makes the first two for a service named esker."""
    done = idle.run("check", env=environment(ESKER_SERVICE_HOST="10.0.0.1", ESKER_PORT="tcp://10.0.0.1:4318", ESKER_KEY="x"))
    assert done.returncode == 0, done.stderr


def test_a_literal_secret_is_refused_without_repeating_it(homes):
    service = Esker(homes("literal-secret"), privacy={"key": "hunter2-hunter2"})
    done = service.run("check")
    assert done.returncode == 2
    assert "privacy.key" in done.stderr and "hunter2" not in done.stderr + done.stdout


def explained(service: Esker, tmp_path, *records: dict) -> list[dict]:
    file = tmp_path / "request.json"
    file.write_bytes(otlp.json_export(*records))
    done = service.run("explain", str(file), "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_explain_says_what_happens_to_each_attribute_and_why(idle, tmp_path):
    attributes = {"test.seq": 1, "user.id": "u1", "user.email": "a@b.c", "not.declared": 1, "test.plan": "gold"}
    (event,) = explained(idle, tmp_path, otlp.json_record("test.order.placed", attributes))
    assert (event["name"], event["verdict"], event["reason"]) == ("test.order.placed", "quarantined", "not_a_member")
    reasons = {item["key"]: item["reason"] for item in event["attributes"]}
    assert reasons == {
        "test.seq": "kept",
        "user.id": "pseudonymised",
        "user.email": "dropped_personal",
        "not.declared": "undeclared",
        "test.plan": "not_a_member",
    }
    assert not idle.data.exists(), "explain stores nothing"


def test_explain_shows_the_pseudonym_that_is_stored(esker, tmp_path):
    service = esker().start()
    record = otlp.json_record("test.login.failed", {"user.id": "u1"})
    assert service.post(otlp.json_export(record), otlp.JSON).status == 200
    assert service.stop() == 0
    (event,) = explained(service, tmp_path, record)
    rows = lake.query(service.table, "SELECT user_id, event_id FROM events")
    assert rows == [(event["attributes"][0]["stored"], event["envelope"]["event_id"])]


def test_explain_of_dropped_and_rejected_events(idle, tmp_path):
    records = [otlp.json_record("no.such.event"), otlp.json_record(""), otlp.json_record(timeUnixNano=str(2**62))]
    events = explained(idle, tmp_path, *records)
    verdicts = [(event["verdict"], event["reason"]) for event in events]
    assert verdicts == [("dropped", "undeclared"), ("dropped", "unnamed"), ("rejected", "time_out_of_range")]


def test_explain_as_text_and_of_the_shipped_example(homes):
    service = Esker(homes("explain"), REPO / "schemas")
    done = service.run("explain", str(REPO / "examples" / "request.json"))
    assert done.returncode == 0, done.stderr
    assert "workflows.change_request.committed" in done.stdout
    assert "someone@example.com" not in done.stdout


def test_explain_of_what_is_no_request_fails(idle, tmp_path):
    file = tmp_path / "bad.json"
    file.write_text('{"resourceLogs": 7, "x": "marker-value"}')
    done = idle.run("explain", str(file))
    assert done.returncode == 1
    assert "bad.json" in done.stderr and "marker-value" not in done.stderr
    assert idle.run("explain", str(tmp_path / "missing.json")).returncode == 1


def test_explain_without_a_key_says_that_its_pseudonyms_are_made_up(homes, tmp_path):
    service = Esker(homes("explain"))
    file = tmp_path / "request.json"
    file.write_bytes(otlp.json_export(otlp.json_record("test.order.placed\x1b[2J")))
    done = service.run("explain", str(file))
    assert done.returncode == 0 and "thrown away" in done.stdout and "\x1b" not in done.stdout
    done = service.run("explain", "--format", "json", str(file))
    assert "thrown away" in done.stderr and json.loads(done.stdout)
    service.start()
    assert service.stop() == 0
    assert "thrown away" not in service.run("explain", str(file)).stdout


def test_status_before_while_and_after(esker):
    service = esker(flush={"max_age": "1h"})
    done = service.run("status", "--format", "json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["table"] is None and status["tables"] == [{"name": "product.events", "status": None, "days": None}]
    assert not service.data.exists(), "status changes nothing"

    service.start()
    assert service.post(otlp.numbered(range(30))).status == 200
    status = json.loads(service.run("status", "--format", "json").stdout)
    assert (status["wal"]["backlog_frames"], status["table"]["rows"]) == (1, 0)
    assert status["wal"]["backlog_bytes"] > 0
    assert status["counts"]["events"]["test.job.finished"]["in_flight"] == 30
    assert "test.job.finished" in service.run("status").stdout

    service.kill()
    status = json.loads(service.run("status", "--format", "json").stdout)
    assert status["wal"]["backlog_frames"] == 1, "also of a process that was killed"

    service.start()
    assert service.stop() == 0
    status = json.loads(service.run("status", "--format", "json").stdout)
    table = status["table"]
    assert table["location"].removeprefix("file://") == str(service.table)
    assert (table["rows"], table["data_files"], table["snapshots"]) == (30, 1, 1)
    first = status["tables"][0]
    assert (first["name"], first["status"], first["days"]["first_kept"]) == ("product.events", table, None)
    assert first["days"]["oldest"] is not None
    assert [one["name"] for one in status["tables"]] == ["product.events", "product.events_quarantine"]
    assert status["wal"]["backlog_frames"] == 0
    assert "30" in service.run("status").stdout


def test_status_never_shows_another_processs_counts(esker):
    """A killed process leaves its address behind, and another service may have got it."""
    first, second = esker().start(), esker().start()
    assert first.post(otlp.numbered(range(7))).status == 200
    first.wait_settled()
    assert second.post(otlp.numbered(range(30))).status == 200
    first.kill()
    run = json.loads((first.data / "run.json").read_text())
    run["admin"] = second.ready["admin"]
    (first.data / "run.json").write_text(json.dumps(run))
    status = json.loads(first.run("status", "--format", "json").stdout)
    assert status["live"] is None and status["counts_of"] != "running"
    assert status["table"]["rows"] == 7
    assert json.loads(second.run("status", "--format", "json").stdout)["counts_of"] == "running"
    assert second.stop() == 0
    assert not (second.data / "run.json").exists()


def test_drift_is_shown_survives_a_restart_and_names_no_value(esker):
    service = esker().start()
    attributes = {"new.count": 1, "user bob": "bob-value", "test.seq": 1}
    records = [otlp.record("test.job.finished", attributes), otlp.record("hello bob"), otlp.record("new.thing.done", {"k": "x"})]
    assert service.post(otlp.encoded(*records)).status == 200
    report = service.admin("/drift").json()
    entries = {(item["kind"], item["event"], item["key"]): item for item in report["entries"]}
    known = entries["attribute", "test.job.finished", "new.count"]
    assert (known["count"], known["types"], known["service"]) == (1, {"int": 1}, "e2e")
    assert ("event", "new.thing.done", None) in entries
    assert ("event_attribute", "new.thing.done", "k") in entries
    assert sum(event.startswith("#") for _, event, _ in entries) == 1
    metrics = service.admin("/metrics").body.decode()
    assert 'esker_drift_records_total{service="e2e",kind="event"} 2' in metrics
    assert "new.count" not in metrics
    assert json.loads(service.run("status", "--format", "json").stdout)["drift"]["event_records"] == 2
    assert "new.count" in service.run("status").stdout and "new.count" in service.admin("/").body.decode()

    assert service.stop() == 0
    assert json.loads(service.run("status", "--format", "json").stdout)["drift"]["event_records"] == 2
    service.start()
    assert service.post(otlp.encoded(records[0])).status == 200
    again = service.admin("/drift").json()["entries"]
    (known_again,) = (item for item in again if item["key"] == "new.count")
    assert (known_again["count"], known_again["first_seen"]) == (2, known["first_seen"])
    shown = [service.log(), (service.data / "drift.json").read_text(), service.run("status").stdout, service.run("learn").stdout]
    shown += [service.admin(path).body.decode() for path in ("/drift", "/status", "/metrics", "/")]
    assert not any("bob" in text for text in shown)
    assert service.stop() == 0


def test_learn_proposes_a_file_that_passes_the_check(esker, tmp_path):
    service = esker()
    assert service.run("learn").returncode == 1, "nothing is known yet"
    service.start()
    record = otlp.record("new.thing.done", {"user.id": "u1", "new.count": 1, "contact.email": "bob@example.org"})
    assert service.post(otlp.encoded(record)).status == 200
    saved = tmp_path / "drift.json"
    saved.write_bytes(service.admin("/drift").body)
    live = service.run("learn").stdout
    assert service.stop() == 0
    out = tmp_path / "proposed.yaml"
    assert service.run("learn", "--out", str(out)).returncode == 0
    assert live == out.read_text() == service.run("learn", "--from", str(saved)).stdout
    assert "bob" not in live
    refused = service.run("learn", "--out", str(out))
    assert refused.returncode == 1 and "proposed.yaml" in refused.stderr, "a review is never overwritten"

    schemas = tmp_path / "schemas"
    shutil.copytree(SCHEMAS, schemas)
    shutil.copy(out, schemas)
    grown = esker(schemas=schemas).start()
    assert grown.post(otlp.encoded(record)).status == 200
    grown.wait_settled()
    rows = lake.query(grown.table, "SELECT user_id LIKE 'e1_%', new_count, contact_email FROM events")
    assert rows == [(True, 1, None)]
    assert grown.stop() == 0


def test_learn_as_a_patch_is_applied_and_passes_the_check(esker, tmp_path):
    service = esker().start()
    records = [
        otlp.record("test.order.placed", {"test.seq": 1, "order.note": "bob@example.org", "user.nickname": "bob"}),
        otlp.record("test.login.failed", {"order.note": "x"}),
        otlp.record("new.thing.done", {"test.seq": 1}),
    ]
    assert service.post(otlp.encoded(*records)).status == 200
    assert service.stop() == 0
    patch = tmp_path / "proposed.patch"
    done = service.run("learn", "--patch", "--out", str(patch))
    assert done.returncode == 0, done.stderr
    text = patch.read_text()
    assert "--- a/events.yaml" in text and "+++ b/learned.yaml" in text and "bob" not in text
    removed = [line for line in text.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert removed == [], "only lines are added"
    tools = [lambda folder: ["patch", "-p1", "-d", str(folder), "-i", str(patch)], lambda folder: ["git", "apply", f"--directory={folder.name}", str(patch)]]
    for number, tool in enumerate(tools):
        folder = tmp_path / f"schemas{number}"
        shutil.copytree(SCHEMAS, folder)
        command = tool(folder)
        if shutil.which(command[0]) is None:
            continue
        applied = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})
        assert applied.returncode == 0, applied.stdout + applied.stderr
        grown = esker(schemas=folder)
        checked = grown.run("check")
        assert checked.returncode == 0, checked.stderr
        assert "new.thing.done" in grown.run("catalogue").stdout
    # Nothing of it is undeclared any more, and what is personal by its name is not stored.
    grown.start()
    assert grown.post(otlp.encoded(*records)).status == 200
    grown.wait_settled()
    assert grown.stop() == 0
    drift = json.loads(grown.run("status", "--format", "json").stdout)["drift"]
    assert (drift["event_records"], drift["attribute_records"]) == (0, 0)
    assert lake.query(grown.table, "SELECT count(*) FROM events") == [(3,)]


def test_catalogue_as_markdown_and_json(idle, tmp_path):
    done = idle.run("catalogue")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Record of processing") and "### `test.order.placed`" in done.stdout
    out = tmp_path / "data.json"
    assert idle.run("catalogue", "--format", "json", "--out", str(out)).returncode == 0
    data = json.loads(out.read_text())
    (event,) = (event for event in data["events"] if event["name"] == "test.login.failed")
    treatments = {item["key"]: item["treatments"]["warehouse"] for item in event["attributes"]}
    assert treatments["user.id"] == "pseudonymise" and treatments["auth.token"] == "drop"
    assert (event["purposes"], event["purposes_rule"]) == ([], "default for security")
    assert data["consent"]["categories"][0] == {"category": "product", "purposes": ["analytics"], "purposes_rule": "default for product", "denied": "strip_identity", "unknown": "store"}
    assert not idle.data.exists(), "the catalogue touches no data"


def test_a_fresh_clone_serves_without_any_configuration(homes):
    """The embedded default, but for the ports, which another process of this machine may hold."""
    home = homes("no-config")
    home.mkdir()
    (home / "schemas").symlink_to(REPO / "schemas")
    ports = {f"ESKER_RECEIVE__{name}": "127.0.0.1:0" for name in ("GRPC", "HTTP", "ADMIN")}
    process = subprocess.Popen(
        [binary(), "serve"], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**ports)
    )
    try:
        ready = json.loads(read_line(process, 60))
        example = (REPO / "examples" / "request.json").read_bytes()
        assert request(ready["http"], "POST", "/v1/logs", example, {"content-type": "application/json"}).status == 200
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and stdout == b"", "one line on stdout, and no more"
    finally:
        process.kill()
    table = home / "esker-data" / "warehouse" / "product" / "events"
    rows = lake.query(table, "SELECT event_name, organisation_id, amplitude_user_id LIKE 'e1_%' FROM events")
    assert rows == [("workflows.change_request.committed", 1, True)]
    assert (home / "esker-data" / "esker.key").stat().st_mode & 0o777 == 0o600
