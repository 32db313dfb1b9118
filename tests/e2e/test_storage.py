"""The same journey on every kind of warehouse: a local folder, S3 (SeaweedFS, and moto), GCS (our strict fake).

Send, flush, read with engines that know nothing of Esker; kill -9; a second writer; and what a store may do wrong: refuse, expire,
vanish, lose answers. Nothing is lost and nothing is stored twice, and each message says what to do.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import lake as readers
import otlp
import pytest
import servers
from harness import REPO, Esker, environment, free_ports, wait_until
from test_kill9 import Client

STORES = ["local", "seaweedfs", "moto", "gcs"]
BUCKETS = STORES[1:]
KILLS = 6
REQUESTS_A_FLUSH_MAX = 12


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Each store, started when the first test wants it."""
    started = {}

    def server(kind: str):
        if kind not in started and kind != "local":
            if kind == "gcs":
                started[kind] = servers.gcs().__enter__()
            else:
                started[kind] = getattr(servers, kind)(tmp_path_factory.mktemp(kind) / "server")
                started[kind].start().make_bucket()
        return started.get(kind)

    yield server
    for kind, one in started.items():
        one.__exit__() if kind == "gcs" else one.stop()


@pytest.fixture
def lake_of(running, tmp_path):
    """Gives an empty warehouse in a store."""

    def make(kind: str) -> servers.Lake:
        server = running(kind)
        if kind == "gcs":
            server.tokens, server.denied, server.faults = {"ya29.test-token"}, [], []
        return servers.Lake(kind, server, tmp_path)

    return make


@pytest.fixture
def serve(homes, request):
    """Makes services on a warehouse: `serve(lake)` gives one that is not started yet."""
    made: list[Esker] = []

    def make(lake: servers.Lake, storage: dict | None = None, **options) -> Esker:
        storage = lake.storage if storage is None else storage
        sections = {"table": {"warehouse": lake.warehouse}, "storage": {f'"{key}"': item for key, item in storage.items()}}
        name = request.node.name.split("[")[0]
        made.append(Esker(homes(name), variables=lake.secrets, **{**sections, **options}))
        return made[-1]

    yield make
    for service in made:
        service.kill()


READ = """
import json, sys
from pyiceberg.table import StaticTable
location, properties = json.load(sys.stdin)
print(json.dumps(StaticTable.from_metadata(location, properties).scan().to_arrow()["test_seq"].to_pylist()))
"""


def stored(lake: servers.Lake) -> list[int]:
    """The numbers of all stored events, as PyIceberg reads them from where they are. In a process of its own: Google's client holds
    Python's lock while it waits, and the fake, a thread of this process, could not answer it."""
    hint = lake.text("product/events/metadata/version-hint.text")
    told = json.dumps([f"{lake.warehouse}/product/events/metadata/v{hint}.metadata.json", lake.pyiceberg])
    read = subprocess.run([sys.executable, "-c", READ], input=told, capture_output=True, text=True, timeout=60)
    assert read.returncode == 0, read.stderr
    return sorted(json.loads(read.stdout))


# --- The journey


@pytest.mark.parametrize("kind", STORES)
def test_events_are_readable_where_they_are(kind, lake_of, serve):
    lake = lake_of(kind)
    service = serve(lake).start()
    assert service.post(otlp.numbered(range(100))).status == 200
    service.wait_settled()
    assert service.post(otlp.numbered(range(100, 150))).status == 200
    assert service.stop() == 0
    assert stored(lake) == list(range(150))
    if kind != "gcs":  # DuckDB reads Google's buckets with keys of Google's S3 protocol only
        sql = f"SELECT count(*), count(DISTINCT test_seq) FROM iceberg_scan('{lake.warehouse}/product/events')"
        assert readers.duck_on(lake).execute(sql).fetchall() == [(150, 150)]
    status = service.run("status")
    assert status.returncode == 0 and lake.warehouse in status.stdout and "150 rows" in status.stdout, status
    assert not [name for name in lake.keys() if ".probe" in name], "a probe leaves nothing"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", STORES)
def test_kill_9_loses_nothing_and_stores_nothing_twice(kind, lake_of, serve):
    lake = lake_of(kind)
    service = serve(lake, ports=tuple(free_ports(3)), flush={"max_age": "150ms"}).start()
    stop = threading.Event()
    clients = [Client(number, service.ports[1], number, stop) for number in range(2)]
    for client in clients:
        client.start()
    for kill in range(KILLS):
        # At different moments of a flush.
        time.sleep(0.4 + 0.13 * kill)
        service.kill()
        service.start()
    stop.set()
    for client in clients:
        client.join(150)
        assert not client.is_alive() and client.fault is None, client.fault
    assert service.stop() == 0
    assert stored(lake) == sorted(seq for client in clients for seq in client.acknowledged)


@pytest.mark.parametrize("kind", STORES)
def test_two_writers_share_a_table(kind, lake_of, serve):
    lake = lake_of(kind)
    writers = [serve(lake, flush={"max_age": "200ms"}).start() for _ in range(2)]
    for turn in range(10):
        for number, writer in enumerate(writers):
            first = (turn * 2 + number) * 10
            assert writer.post(otlp.numbered(range(first, first + 10))).status == 200
        time.sleep(0.1)
    for writer in writers:
        assert writer.stop() == 0
    assert stored(lake) == list(range(200))


# --- What a flush costs


def test_a_flush_of_one_partition_costs_at_most_twelve_requests(lake_of, serve, record_property):
    lake = lake_of("gcs")
    service = serve(lake).start()
    for turn in range(3):
        lake.server.take_requests()
        assert service.post(otlp.numbered(range(turn * 10, turn * 10 + 10))).status == 200
        service.wait_settled()
        asked = lake.server.take_requests()
        assert len(asked) <= REQUESTS_A_FLUSH_MAX, asked
        assert not [line for line in asked if "list-type" in line], asked
    record_property("requests per flush of one partition", len(asked))


# --- What a store may do


@pytest.mark.parametrize("status", [503, None])
def test_a_commit_whose_answer_is_lost_counts_once(status, lake_of, serve):
    lake = lake_of("gcs")
    service = serve(lake).start()
    lake.server.fail(r"PUT .*/v2\.metadata\.json", status=status, after=True)
    assert service.post(otlp.numbered(range(10))).status == 200
    service.wait_settled()
    assert "outcome is unknown" in service.log()
    assert service.stop() == 0
    assert stored(lake) == list(range(10))
    assert lake.text("product/events/metadata/version-hint.text") == "2"


def test_a_store_that_goes_down_and_comes_back_loses_nothing(serve, tmp_path):
    server = servers.seaweedfs(tmp_path / "own")
    try:
        server.start().make_bucket()
        lake = servers.Lake("seaweedfs", server, tmp_path)
        service = serve(lake, flush={"max_age": "200ms"}).start()
        assert service.post(otlp.numbered(range(10))).status == 200
        service.wait_settled()
        server.stop()
        assert service.post(otlp.numbered(range(10, 20))).status == 200, "what is durable is acknowledged"
        wait_until(lambda: "cannot be reached" in service.log(), "the log says why")
        assert server.url in service.log() and not service.settled()
        server.start()
        service.wait_settled()
        assert service.stop() == 0
        assert stored(lake) == list(range(20))
    finally:
        server.stop()


def test_a_token_that_expires_is_named_and_a_renewed_one_followed(lake_of, serve, tmp_path):
    lake = lake_of("gcs")
    token = tmp_path / "token"
    token.write_text("ya29.test-token\n")
    storage = {**lake.storage, "gcs.oauth2.token": f"file:{token}"}
    service = serve(lake, storage, flush={"max_age": "200ms"}).start()
    lake.server.tokens = {"ya29.next"}
    assert service.post(otlp.numbered(range(10))).status == 200
    wait_until(lambda: "access token has expired" in service.log(), "the log says why")
    token.write_text("ya29.next\n")
    service.wait_settled()
    assert service.stop() == 0
    lake.server.tokens.add("ya29.test-token")
    assert stored(lake) == list(range(10))
    assert "ya29" not in service.log()


@pytest.mark.parametrize(
    "pattern, permission",
    [
        (r"^GET .*/metadata/\.probe", "storage.objects.get"),
        (r"^PUT .*/\.probe", "storage.objects.create"),
        (r"^DELETE ", "storage.objects.delete"),
        (r"list-type=2", "storage.objects.list"),
    ],
)
def test_a_permission_that_lacks_is_named_at_start(pattern, permission, lake_of, serve):
    lake = lake_of("gcs")
    lake.server.deny(pattern)
    service = serve(lake)
    code, said = service.refused_start()
    assert code == 1 and permission in said and "grant" in said, said
    check = service.run("check", "--warehouse")
    assert check.returncode == 1 and permission in check.stderr, check


def refusals(lake: servers.Lake) -> dict[str, tuple[dict, str, dict, str]]:
    """By name: what of `[storage]` is different, the warehouse, the secrets, and what must be said."""
    down = f"http://127.0.0.1:{free_ports(1)[0]}"
    if lake.kind == "gcs":
        return {
            "bucket": ({}, "gs://not-there/lake", {}, "no bucket not-there"),
            "token": ({}, lake.warehouse, {"TEST_GCS_TOKEN": "ya29.wrong"}, "access token has expired"),
            "unset": ({"gcs.oauth2.token": "env:NOT_SET"}, lake.warehouse, {}, "NOT_SET is not set"),
            "down": ({"gcs.service.path": down}, lake.warehouse, {}, "cannot be reached"),
        }
    return {
        "bucket": ({}, "s3://not-there/lake", {}, "no bucket not-there"),
        "secret": ({}, lake.warehouse, {"TEST_S3_SECRET": "wrong"}, "s3.secret-access-key"),
        "key": ({"s3.access-key-id": "nobody"}, lake.warehouse, {}, "s3.access-key-id"),
        "unset": ({"s3.secret-access-key": "env:NOT_SET"}, lake.warehouse, {}, "NOT_SET is not set"),
        "down": ({"s3.endpoint": down}, lake.warehouse, {}, "cannot be reached"),
    }


@pytest.mark.parametrize("name", ["bucket", "secret", "key", "token", "unset", "down"])
@pytest.mark.parametrize("kind", ["seaweedfs", "gcs"])
def test_what_is_wrong_is_told_by_check_status_and_serve(kind, name, lake_of, serve):
    lake = lake_of(kind)
    if name not in refusals(lake):
        pytest.skip(f"{kind} knows no {name}")
    changes, warehouse, secrets, said = refusals(lake)[name]
    service = serve(lake, {**lake.storage, **changes}, table={"warehouse": warehouse})
    service.variables |= secrets
    code, log = service.refused_start()
    assert code == 1 and said in log, log
    for command in (("check", "--warehouse"), ("status",)):
        answer = service.run(*command)
        assert answer.returncode == 1 and said in answer.stderr, answer
        assert "wrong" not in answer.stderr.replace("is wrong", ""), "a secret is not repeated"
    offline = service.run("check")
    assert offline.returncode == 0, "without --warehouse nothing is asked of the store"


def test_a_role_is_taken_on(lake_of, serve):
    lake = lake_of("moto")
    role = {"client.assume-role.arn": "arn:aws:iam::123456789012:role/esker", "s3.sts.endpoint": lake.server.url}
    service = serve(lake, lake.storage | role).start()
    assert service.post(otlp.numbered(range(10))).status == 200
    assert service.stop() == 0
    assert stored(lake) == list(range(10))


def test_the_vendors_variables_are_enough(lake_of, serve):
    lake = lake_of("seaweedfs")
    service = serve(lake, storage={})
    service.variables = {
        "AWS_ACCESS_KEY_ID": servers.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": servers.SECRET_KEY,
        "AWS_ENDPOINT_URL_S3": lake.server.url,
        "AWS_REGION": "us-east-1",
    }
    service.start()
    assert service.post(otlp.numbered(range(10))).status == 200
    assert service.stop() == 0
    assert stored(lake) == list(range(10))


@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("cargo") is None, reason="cargo is not installed")
@pytest.mark.parametrize("kind", BUCKETS)
def test_the_store_passes_the_suite_that_every_store_passes(kind, lake_of):
    """`src/table/storage/tests/conformance.rs`, on a real server."""
    lake = lake_of(kind)
    variables = {
        "ESKER_CONFORMANCE_WAREHOUSE": lake.warehouse + "/suite",
        "ESKER_CONFORMANCE_ENDPOINT": lake.server.url,
        "ESKER_CONFORMANCE_TOKEN": "ya29.test-token",
        "AWS_ACCESS_KEY_ID": servers.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": servers.SECRET_KEY,
    }
    profile = os.environ.get("E2E_CARGO_PROFILE", "--release").split()
    command = ["cargo", "test", *profile, "--lib", "the_bucket_of_the_environment_conforms", "--", "--ignored", "--exact",
               "table::storage::tests::the_bucket_of_the_environment_conforms"]
    done = subprocess.run(command, cwd=REPO, env=environment(**variables), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
