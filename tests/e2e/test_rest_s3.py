"""A REST catalog and a bucket that nobody here wrote: SeaweedFS serves both, Esker and PyIceberg write to the same table in it.
"""

import threading
import time

import boto3
import otlp
import pytest
from harness import environment, free_ports, wait_until
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.types import LongType
from servers import ACCESS_KEY, SECRET_KEY, START_SECONDS, Server, script


class Lake:
    """The server, its table bucket, and how Esker and PyIceberg are told of them."""

    def __init__(self, folder):
        names = ("master", "volume", "filer", "s3")
        ports, grpc = dict(zip(names, free_ports(4))), dict(zip(names, free_ports(4)))
        (iceberg,) = free_ports(1)
        data = folder / "data"
        data.mkdir(parents=True)
        command = [script("weed"), f"-logdir={folder}", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer",
                   "-s3", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=40", f"-s3.port.iceberg={iceberg}",
                   "-s3.port.lance=0", f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock"]
        command += [f"-{name}.port={port}" for name, port in ports.items()]
        command += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        self.s3, self.uri = f"http://127.0.0.1:{ports['s3']}", f"http://127.0.0.1:{iceberg}"
        self.server = Server(command, self.s3, folder, keys).start()
        tables = boto3.client("s3tables", endpoint_url=self.s3, region_name="us-east-1", aws_access_key_id=ACCESS_KEY,
                              aws_secret_access_key=SECRET_KEY)

        def made():
            try:
                tables.create_table_bucket(name="warehouse")
            except Exception as error:  # noqa: BLE001 - it answers before all of it is ready
                print(error)
                return False
            return True

        wait_until(made, "the table bucket is made", START_SECONDS)

    @property
    def sections(self) -> dict:
        return {
            "catalog": {"type": "rest", "uri": self.uri, "warehouse": "s3://warehouse", "auth": "oauth2",
                        "client_id": ACCESS_KEY, "client_secret": "env:TEST_SECRET"},
            "storage": {"s3.endpoint": self.s3, "s3.region": "us-east-1", "s3.access-key-id": ACCESS_KEY,
                        "s3.secret-access-key": "env:TEST_SECRET"},
        }

    def table(self):
        catalog = load_catalog("lake", **{
            "type": "rest", "uri": self.uri, "warehouse": "s3://warehouse", "credential": f"{ACCESS_KEY}:{SECRET_KEY}",
            "s3.endpoint": self.s3, "s3.access-key-id": ACCESS_KEY, "s3.secret-access-key": SECRET_KEY, "s3.region": "us-east-1",
        })
        return catalog.load_table("product.events")

    def seqs(self) -> list[int]:
        return sorted(self.table().scan(selected_fields=("test_seq",)).to_arrow()["test_seq"].to_pylist())


@pytest.fixture(scope="module")
def lake_server(homes):
    lake = Lake(homes("seaweedfs"))
    yield lake
    lake.server.stop()


def quoted(sections: dict) -> dict:
    """With dotted keys in quotes, as TOML needs them."""
    return {name: {f'"{key}"': item for key, item in keys.items()} for name, keys in sections.items()}


@pytest.mark.timeout(300)
def test_esker_and_pyiceberg_write_to_one_table(esker, lake_server):
    service = esker(**quoted(lake_server.sections), flush={"max_age": "300ms"})
    variables = environment(TEST_SECRET=SECRET_KEY)
    service.start(env=variables)
    stop, sent, trouble = threading.Event(), [0], []

    def send():
        try:
            while not stop.is_set():
                assert service.post(otlp.numbered([sent[0]])).status == 200
                sent[0] += 1
                time.sleep(0.03)
        except Exception as error:  # noqa: BLE001 - the test's thread reports it
            trouble.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        wait_until(lambda: "committed" in service.log(), "a first commit")
        for number in range(3):
            for _ in range(50):
                try:
                    transaction = lake_server.table().transaction()
                    transaction.set_properties(owner=f"team-{number}")
                    with transaction.update_schema() as update:
                        update.add_column(f"score_{number}", LongType())
                    transaction.commit_transaction()
                    break
                except CommitFailedException:
                    time.sleep(0.1)
        service.kill()
        stop.set()
        sender.join()
        trouble.clear()
        service.start(env=variables)
        assert service.post(otlp.numbered(range(10_000, 10_050))).status == 200
        service.wait_settled()
    finally:
        stop.set()
        sender.join()
    assert service.stop() == 0
    found = lake_server.seqs()
    assert len(found) == len(set(found)), "nothing twice"
    assert set(found) >= set(range(sent[0])) | set(range(10_000, 10_050)), "nothing lost"
    # The kill may have come between the rows' durability and their acknowledgement.
    assert set(found) <= set(range(sent[0] + 1)) | set(range(10_000, 10_050))
    table = lake_server.table()
    assert table.properties["owner"] == "team-2"
    assert {"score_0", "score_1", "score_2"} <= {field.name for field in table.schema().fields}
    assert SECRET_KEY not in service.log()
