"""`esker keys`, and where the keys come from: what a user types, what the file then is, and what the table shows of it."""

import base64
import json
import re

import lake
import otlp
import pytest
from harness import REPO, Esker, environment


def listed(service: Esker) -> list[dict]:
    done = service.run("keys", "list", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["keys"]


def secrets(text: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9+/]{43}=", text)


@pytest.fixture
def ring(homes, request):
    """A service that never ran, with a ring of its own."""
    service = Esker(homes(request.node.name.split("[")[0]))
    done = service.run("keys", "new")
    assert done.returncode == 0, done.stderr
    return service


@pytest.mark.parametrize("command", [[], ["new"], ["rotate"], ["list"], ["destroy"]])
def test_help_has_an_example(ring, command):
    done = ring.run("keys", *command, "--help")
    assert done.returncode == 0 and "Example" in done.stdout and "esker keys" in done.stdout


def test_a_new_ring_is_private_and_overwrites_nothing(ring):
    path = ring.data / "esker.key"
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert text.startswith("#") and "esker-keys-1" in text
    for again in ([], ["--out", str(path)]):
        done = ring.run("keys", "new", *again)
        assert done.returncode == 1 and "esker.key" in done.stderr
    assert path.read_text() == text
    other = ring.home / "other"
    assert ring.run("keys", "new", "--out", str(other)).returncode == 0
    assert set(secrets(other.read_text())).isdisjoint(secrets(text))
    assert [entry.name for entry in ring.data.iterdir()] == ["esker.key"]


def test_list_shows_ids_and_never_material(ring):
    assert ring.run("keys", "rotate").returncode == 0
    keys = listed(ring)
    assert [key["state"] for key in keys] == ["active", "old"]
    text = ring.run("keys", "list").stdout
    assert all(key["id"] in text for key in keys)
    material = secrets((ring.data / "esker.key").read_text())
    assert len(material) == 5 and not any(secret in text + json.dumps(keys) for secret in material)


def test_destroying_asks_first(ring):
    path = ring.data / "esker.key"
    before = path.read_text()
    done = ring.run("keys", "destroy", "--tenant", "acme-gmbh")
    assert done.returncode == 2 and "would destroy" in done.stdout and "--yes" in done.stderr
    assert path.read_text() == before
    done = ring.run("keys", "destroy", "--tenant", "acme-gmbh", "--yes")
    assert done.returncode == 0 and "restart" in done.stdout and "backups" in done.stdout
    after = path.read_text()
    assert "acme" not in after and listed(ring)[0]["destroyed_tenants"] == 1
    assert set(secrets(before)) - set(secrets(after)) == {secrets(before)[2]}, "the tree's root is gone, and only that"
    assert path.stat().st_mode & 0o777 == 0o600
    assert ring.run("keys", "destroy", "--tenant", "acme-gmbh", "--yes").returncode == 0
    assert path.read_text() == after


def test_only_an_old_key_can_be_destroyed(ring):
    first = listed(ring)[0]["id"]
    done = ring.run("keys", "destroy", "--key", first, "--yes")
    assert done.returncode == 1 and "rotate" in done.stderr
    assert ring.run("keys", "rotate").returncode == 0
    assert ring.run("keys", "destroy", "--key", first).returncode == 2
    assert ring.run("keys", "destroy", "--key", first, "--yes").returncode == 0
    assert first not in (ring.data / "esker.key").read_text()


@pytest.mark.parametrize("arguments", [[], ["--tenant", "a", "--key", "b"], ["--yes"]])
def test_destroy_needs_one_target(ring, arguments):
    done = ring.run("keys", "destroy", *arguments)
    assert done.returncode == 2 and "sage" in done.stderr


def test_a_ring_that_others_may_read_is_not_changed(ring):
    path = ring.data / "esker.key"
    path.chmod(0o644)
    before = path.read_text()
    for command in (["rotate"], ["list"], ["destroy", "--tenant", "a", "--yes"]):
        done = ring.run("keys", *command)
        assert done.returncode == 1 and "chmod 600" in done.stderr
        assert not any(secret in done.stderr + done.stdout for secret in secrets(before))
    assert path.read_text() == before


def test_a_ring_in_a_variable_or_from_a_program(ring):
    path = ring.data / "esker.key"
    [key] = listed(ring)
    for reference in ("env:THE_RING", f"command:cat {path}"):
        there = environment(ESKER_PRIVACY__KEY=reference, THE_RING=path.read_text())
        done = ring.run("keys", "list", "--format", "json", env=there)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["keys"] == [key]
        for command in (["new"], ["rotate"], ["destroy", "--tenant", "a", "--yes"]):
            done = ring.run("keys", *command, env=there)
            assert done.returncode == 2 and "esker keys" in done.stderr
    done = ring.run("keys", "list", env=environment(ESKER_PRIVACY__KEY="command:false"))
    assert done.returncode == 1 and "false" in done.stderr
    assert listed(ring) == [key]


def test_a_directory_that_lost_its_ring_gets_no_new_one_by_mistake(esker):
    service = esker().start()
    assert service.stop() == 0
    path = service.data / "esker.key"
    path.unlink()
    done = service.run("keys", "new")
    assert done.returncode == 2 and "backup" in done.stderr and not path.exists()
    assert service.run("keys", "new", "--out", str(path)).returncode == 0
    service.start()
    assert service.stop() == 0


def pseudonyms(text: str, value: str) -> dict[str, str]:
    """A value's pseudonyms by the id of each key in a ring's text, as the document's program computes them."""
    [program] = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "pseudonyms.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(program, "docs/pseudonyms.md", "exec"), names)
    keys = [line.split() for line in text.splitlines() if line.startswith("key ")]
    return {
        key: names["pseudonym"](base64.b64decode(secret), [], "warehouse", None, value) for _, key, _, _, secret in keys
    }


def test_after_a_rotation_values_have_new_pseudonyms_and_events_keep_their_ids(esker):
    service = esker().start()
    body = otlp.encoded(otlp.record("test.order.placed", {"test.seq": 1, "user.id": "user-7"}))
    assert service.post(body).status == 200
    assert service.stop() == 0
    [before] = listed(service)
    assert service.run("keys", "rotate").returncode == 0
    after = listed(service)[0]
    assert after["id"] != before["id"]

    service.start()
    later = otlp.encoded(otlp.record("test.order.placed", {"test.seq": 2, "user.id": "user-7"}))
    assert service.post(body).status == 200, "a client's retry, after the restart"
    assert service.post(later).status == 200
    assert service.stop() == 0

    names = pseudonyms((service.data / "esker.key").read_text(), "user-7")
    assert names.keys() == {before["id"], after["id"]}
    rows = lake.query(service.table, "SELECT test_seq, user_id FROM events")
    assert (1, names[before["id"]]) in rows and (2, names[after["id"]]) in rows
    [(ids,)] = lake.query(service.table, "SELECT count(DISTINCT event_id) FROM events WHERE test_seq = 1")
    assert ids == 1, "the identity secret outlives the rotation"
