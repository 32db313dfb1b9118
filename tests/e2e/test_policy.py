"""Proof: the policy of a row can be looked up, `explain` names the rule that decided, and `check --against` tells what a change would do."""

import json
from pathlib import Path

import lake
import otlp
import pytest
from harness import SCHEMAS, Esker, environment

ORDER = {"test.seq": 1, "test.text": "marker-text", "user.id": "marker-user", "user.email": "bob@example.org", "test.flag": True}


def registry(folder: Path, *changes: tuple[str, str]) -> Path:
    """The tests' registry with some lines changed."""
    folder.mkdir(parents=True)
    text = (SCHEMAS / "events.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "events.yaml").write_text(text)
    return folder


@pytest.fixture
def served(esker):
    """A service that has stored one order and ended."""
    service = esker().start()
    assert service.post(otlp.encoded(otlp.record("test.order.placed", ORDER))).status == 200
    assert service.stop() == 0
    return service


def samples(folder: Path, *records: dict) -> Path:
    folder.mkdir()
    (folder / "one.json").write_bytes(otlp.json_export(*records))
    return folder


def against(service: Esker, *arguments) -> dict:
    done = service.run("check", "--format", "json", "--against", *map(str, arguments))
    assert "marker-" not in done.stdout + done.stderr and "bob@" not in done.stdout, "values are never shown"
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def attribute_changes(found: dict) -> set[tuple]:
    return {(one["change"], one["event"], one["attribute"], one["count"]) for one in found["attributes"]}


def test_the_policy_of_a_row_can_be_looked_up_beside_it(served, tmp_path):
    [(version,)] = lake.query(served.table, "SELECT DISTINCT policy_version FROM events")
    [beside] = (served.table / "policies").iterdir()
    [local] = (served.data / "policies").iterdir()
    assert beside.name == local.name == f"{version}.json"
    assert beside.read_bytes() == local.read_bytes()
    data = json.loads(beside.read_text())
    assert data["policy_version"] == version
    catalogue = json.loads(served.run("catalogue", "--format", "json").stdout)
    assert data == catalogue, "it is what `esker catalogue` writes"
    for secret in (served.data / "esker.key").read_text().split():
        assert len(secret) < 20 or secret not in beside.read_text()

    # The same policy again writes nothing; another one is put beside the first.
    beside.write_text("left alone")
    served.start()
    assert served.stop() == 0
    assert beside.read_text() == "left alone"
    served.sections["privacy"] = {"age_max": "7days"}
    served.write_config()
    served.start()
    assert served.post(otlp.encoded(otlp.record("test.order.placed", ORDER))).status == 200
    assert served.stop() == 0
    versions = {row[0] for row in lake.query(served.table, "SELECT DISTINCT policy_version FROM events")}
    assert len(versions) == 2
    assert {path.stem for path in (served.table / "policies").iterdir()} == versions


def test_the_snapshot_counts_what_became_of_attributes(served):
    metadata = json.loads(lake.newest_metadata(served.table).read_text())
    summary = metadata["snapshots"][-1]["summary"]
    assert summary["esker.attributes-kept"] == "3" and summary["esker.attributes-pseudonymised"] == "1"
    assert summary["esker.attributes-dropped"] == "1" and summary["esker.events-quarantined"] == "0"


def test_explain_names_the_rule_the_level_and_the_leak(homes, tmp_path):
    changes = ('brief: "Free text.", annotations: {esker: {privacy: internal}}', 'brief: "Free text.", annotations: {esker: {privacy: internal, treatment: {mask: [email]}}}')
    service = Esker(homes("explain-rules"), registry(tmp_path / "schemas", changes))
    file = tmp_path / "request.json"
    attributes = {**ORDER, "test.text": "write to bob@example.org", "event.privacy_level": "internal", "test.seq": 1, "not.declared": "marker-x"}
    file.write_bytes(otlp.json_export(otlp.json_record("test.order.placed", attributes)))
    done = service.run("explain", str(file), "--format", "json")
    assert done.returncode == 0, done.stderr
    (event,) = json.loads(done.stdout)
    assert (event["table"], event["route"], event["stated_level"], event["category"]) == ("product.events", None, "internal", "product")
    of = {one["key"]: one for one in event["attributes"]}
    assert of["user.id"]["rule"] == "default for pseudonymous in warehouse" and of["user.id"]["level_from"] == "attribute"
    assert of["user.email"]["rule"] == "default for personal in warehouse" and of["user.email"]["stored"] is None
    assert (of["test.text"]["policy"], of["test.text"]["rule"]) == ("mask email", "treatment in schemas/")
    assert of["test.text"]["leaks"] == ["email"] and "bob" not in of["test.text"]["stored"]
    assert of["not.declared"]["why"] == "the event does not declare it"
    text = service.run("explain", str(file)).stdout
    assert "stored in product.events" in text and "no route matches" in text and "found: email" in text
    assert "by default for pseudonymous in warehouse" in text and "bob@" not in text and "marker-x" not in text


def test_explain_names_what_breaks_the_contract(homes, tmp_path):
    service = Esker(homes("explain-broken"))
    file = tmp_path / "request.json"
    file.write_bytes(otlp.json_export(otlp.json_record("test.order.placed", {"test.seq": "marker-word", "user.id": "marker-user"})))
    (event,) = json.loads(service.run("explain", str(file), "--format", "json").stdout)
    assert (event["verdict"], event["reason"], event["faults"]) == ("quarantined", "type_mismatch", ["test.seq"])
    assert all(one["stored"] is None for one in event["attributes"])
    text = service.run("explain", str(file)).stdout
    assert "quarantined, type_mismatch: test.seq" in text and "marker-" not in text


def test_a_change_of_policy_is_tried_on_samples(served, tmp_path):
    folder = samples(tmp_path / "samples", *(otlp.json_record("test.order.placed", ORDER) for _ in range(3)), otlp.json_record("marker-event"))
    same = against(served, folder)
    assert (same["events"], same["attributes"], same["records"]) == ([], [], 4)
    assert same["baseline"]["policy_version"] == same["policy_version"]

    changes = (
        ('brief: "A boolean.", annotations: {esker: {privacy: public}}', 'brief: "A boolean.", annotations: {esker: {privacy: sensitive}}'),
        ('brief: "An address.", annotations: {esker: {privacy: personal}}', 'brief: "An address.", annotations: {esker: {privacy: personal, treatment: pseudonymise}}'),
        ('key: test.text, type: string', 'key: test.text, type: any'),
    )
    served.schemas = registry(tmp_path / "schemas", *changes)
    served.write_config()
    found = against(served, folder)
    assert found["baseline"]["policy_version"] == same["policy_version"] != found["policy_version"]
    assert attribute_changes(found) == {
        ("newly_dropped", "test.order.placed", "test.flag", 3),
        ("newly_kept", "test.order.placed", "user.email", 3),
        ("type", "test.order.placed", "test.text", 3),
    }
    text = served.run("check", "--against", str(folder)).stdout
    assert "newly kept         test.order.placed user.email: drop, dropped_personal -> pseudonymise  (3 records)" in text
    assert "marker-" not in text


def test_a_change_of_policy_is_tried_on_the_table(served, tmp_path):
    assert against(served, "table")["attributes"] == []
    assert "no difference" in served.run("check", "--against", "product.events").stdout
    changes = (
        ('brief: "A boolean.", annotations: {esker: {privacy: public}}', 'brief: "A boolean.", annotations: {esker: {privacy: sensitive}}'),
        ("  - name: test.login.failed", "  - name: test.login.refused"),
        ("attribute_groups:", '  - {key: test.new, type: int, stability: stable, brief: "New.", annotations: {esker: {privacy: public}}}\nattribute_groups:'),
        ("      - {ref: test.ratio, requirement_level: recommended}", "      - {ref: test.ratio, requirement_level: recommended}\n      - {ref: test.new}"),
    )
    served.schemas = registry(tmp_path / "schemas", *changes)
    served.write_config()
    found = against(served, "table")
    assert {(one["change"], one["event"]) for one in found["events"]} == {("new", "test.login.refused"), ("removed", "test.login.failed")}
    changed = {(one["change"], one["event"], one["attribute"]) for one in found["attributes"]}
    assert {("newly_dropped", "test.order.placed", "test.flag"), ("newly_kept", "test.order.placed", "test.new")} <= changed
    assert (found["columns_new"], found["columns_no_longer_filled"], found["refusals"]) == (["test_new"], ["test_flag"], [])


def test_a_type_that_serve_would_refuse_is_exit_code_1(served, tmp_path):
    served.schemas = registry(tmp_path / "schemas", ("key: test.ratio, type: double", "key: test.ratio, type: int"))
    served.write_config()
    done = served.run("check", "--against", "table", "--format", "json")
    assert done.returncode == 1 and "refuse" in done.stderr
    (refusal,) = json.loads(done.stdout)["refusals"]
    assert "test_ratio" in refusal and "double" in refusal
    code, said = served.refused_start()
    assert code == 1 and "test_ratio" in said, "as it says"


def test_a_column_that_would_mix_plain_values_and_pseudonyms_is_told(served, tmp_path):
    change = ('brief: "Free text.", annotations: {esker: {privacy: internal}}', 'brief: "Free text.", annotations: {esker: {privacy: pseudonymous}}')
    mixed = {"table": "product.events", "column": "test_text", "attribute": "test.text", "before": "keep", "after": "pseudonymise"}
    assert "mixed" not in served.run("check", "--against", "table").stdout and "pseudonyms of" not in served.log()
    served.schemas = registry(tmp_path / "schemas", change)
    served.write_config()
    assert against(served, "table")["mixed_columns"] == [mixed]
    folder = samples(tmp_path / "samples", otlp.json_record("test.order.placed", ORDER))
    assert against(served, folder)["mixed_columns"] == [mixed]
    said = served.run("check", "--against", "table").stdout
    assert "mixed column       column test_text of product.events holds plain values (treatment keep)" in said
    before = len(served.log())
    served.start()
    warning = next(line for line in served.log()[before:].splitlines() if "test_text" in line)
    assert "WARN" in warning.upper() and "test.text" in warning and "pseudonymise" in warning and "docs/policy.md" in warning
    assert served.post(otlp.encoded(otlp.record("test.order.placed", ORDER))).status == 200
    assert served.stop() == 0
    assert sorted(row[0].startswith("e1_") for row in lake.query(served.table, "SELECT test_text FROM events")) == [False, True]
    # The newest rows are of this policy now, so that there is nothing to say any more.
    before = len(served.log())
    served.start()
    assert served.stop() == 0 and "pseudonyms of" not in served.log()[before:]


def test_baselines_by_file_and_none(served, homes, tmp_path):
    fresh = Esker(homes("no-baseline"))
    folder = samples(tmp_path / "samples", otlp.json_record("test.order.placed", ORDER))
    found = against(fresh, folder)
    assert found["baseline"] is None and found["events"][0]["change"] == "newly_kept"
    assert "compared with nothing" in fresh.run("check", "--against", str(folder)).stdout
    assert not fresh.data.exists(), "nothing is made"
    [policy] = (served.data / "policies").iterdir()
    found = against(fresh, folder, "--baseline", policy)
    assert (found["events"], found["attributes"]) == ([], []) and found["baseline"]["from"] == str(policy)
    bad = tmp_path / "bad.json"
    bad.write_text('{"format": "marker-format"}')
    done = fresh.run("check", "--against", str(folder), "--baseline", str(bad))
    assert done.returncode == 1 and "bad.json" in done.stderr


def test_the_consent_of_the_stored_policy_decides(served, tmp_path):
    served.sections["consent"] = {"purposes": {"product": ["statistics"]}, "aliases": {"C0002": "statistics"}, "warehouse": {"product": {"denied": "drop"}}}
    served.write_config()
    served.start()
    assert served.post(otlp.encoded(otlp.record("test.order.placed", {**ORDER, "consent.granted": ["C0002"]}))).status == 200
    assert served.stop() == 0
    records = [otlp.json_record("test.order.placed", {**ORDER, "consent.granted": names}) for names in ('["C0002"]', '["marketing"]')]
    folder = samples(tmp_path / "samples", *records)
    same = against(served, folder)
    assert (same["events"], same["attributes"], same["notes"]) == ([], [], [])
    served.sections["consent"]["warehouse"] = {"product": {"denied": "store"}}
    served.write_config()
    (event,) = against(served, folder)["events"]
    assert (event["change"], event["before"], event["count"]) == ("newly_kept", "dropped, no_consent", 1)
    changes = {one["event"]: (one["change"], one["before"], one["after"]) for one in against(served, "table")["events"]}
    assert changes["test.order.placed"] == ("consent", "needs statistics; denied: drop, unknown: store", "needs statistics; denied: store, unknown: store")

    # A map that an earlier version wrote.
    [old] = (path for path in (served.data / "policies").iterdir() if '"C0002"' in path.read_text())
    data = json.loads(old.read_text())
    del data["consent"]
    for event in data["events"]:
        event.pop("purposes"), event.pop("purposes_rule"), event.pop("withdrawal", None)
    silent = tmp_path / "silent.json"
    silent.write_text(json.dumps(data))
    (note,) = against(served, folder, "--baseline", silent)["notes"]
    assert "did not write down consent" in note and "defaults" in note


@pytest.mark.parametrize("arguments", [["--baseline", "x.json"], ["--against"]])
def test_bad_usage(homes, arguments):
    assert Esker(homes("usage")).run("check", *arguments).returncode == 2


def test_a_target_that_is_nothing_is_told(homes):
    done = Esker(homes("no-target")).run("check", "--against", "no.such.table", env=environment())
    assert done.returncode == 1 and "no.such.table" in done.stderr and "primary" in done.stderr
