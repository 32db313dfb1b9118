"""Object stores on loopback for a test: SeaweedFS and moto, real servers from packages, and our fake of Google's.

Owns: their ports, folders, deadlines and ends. Does not own: what is stored in them.
"""

import itertools
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3
from botocore.config import Config
from gcs_fake import GcsFake
from harness import free_ports, wait_until

START_SECONDS = 60
# SeaweedFS takes half a minute to stop politely, and nobody needs what it holds.
STOP_SECONDS = 5
BUCKET = "lake"
ACCESS_KEY, SECRET_KEY = "admin", "secretkey"
NUMBERS = itertools.count()


def script(name: str) -> str:
    """A program that a package put beside this Python."""
    return str(Path(sys.executable).parent / name)


class Server:
    """A child process that answers HTTP at `url`."""

    def __init__(self, command: list[str], url: str, folder: Path, environment: dict):
        folder.mkdir(parents=True, exist_ok=True)
        self.url, self.log = url, folder / "server.log"
        self.command, self.folder = command, folder
        self.environment = {**os.environ, "TMPDIR": str(folder), **environment}
        self.process: subprocess.Popen | None = None

    def start(self) -> "Server":
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, env=self.environment
            )
        wait_until(self.answers, f"{self.command[0]} answers at {self.url}", START_SECONDS)
        return self

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
        try:
            urllib.request.urlopen(self.url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def stop(self):
        """By its process id."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)

    def s3(self):
        """A client for what Esker does not do: buckets, and looking."""
        config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3})
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=ACCESS_KEY,
                            aws_secret_access_key=SECRET_KEY, config=config)

    def make_bucket(self, name: str = BUCKET):
        def made():
            try:
                self.s3().create_bucket(Bucket=name)
                self.s3().put_object(Bucket=name, Key="ready", Body=b"x")
            except Exception as error:  # noqa: BLE001 - SeaweedFS answers before all of it is ready
                print(f"{name}: {error}")
                return False
            return True

        wait_until(made, f"the bucket {name} is made", START_SECONDS)


def seaweedfs(folder: Path) -> Server:
    ports = dict(zip(("master", "volume", "filer", "s3"), free_ports(4)))
    grpc = dict(zip(ports, free_ports(4)))
    folder.mkdir(parents=True)
    data = folder / "data"
    data.mkdir()
    command = [script("weed"), f"-logdir={folder}", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
               "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=40", "-s3.port.iceberg=0",
               "-s3.port.lance=0", "-s3.autoCreateBucket=false", f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    return Server(command, f"http://127.0.0.1:{ports['s3']}", folder, keys)


def moto(folder: Path) -> Server:
    (port,) = free_ports(1)
    command = [script("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    return Server(command, f"http://127.0.0.1:{port}", folder, {})


class Lake:
    """A warehouse in one of the stores: its location, what `[storage]` says of it, and how to look into it."""

    def __init__(self, kind: str, server, folder: Path):
        self.kind, self.server, self.folder = kind, server, folder
        self.prefix = f"deep/lake-{next(NUMBERS)}"
        scheme = {"gcs": "gs", "local": "file"}.get(kind, "s3")
        self.warehouse = f"file://{folder}/warehouse" if kind == "local" else f"{scheme}://{BUCKET}/{self.prefix}"

    @property
    def storage(self) -> dict:
        match self.kind:
            case "local":
                return {}
            case "gcs":
                return {"gcs.service.path": self.server.url, "gcs.oauth2.token": "env:TEST_GCS_TOKEN"}
        return {"s3.endpoint": self.server.url, "s3.region": "us-east-1", "s3.access-key-id": ACCESS_KEY,
                "s3.secret-access-key": "env:TEST_S3_SECRET"}

    @property
    def secrets(self) -> dict[str, str]:
        return {"TEST_S3_SECRET": SECRET_KEY, "TEST_GCS_TOKEN": "ya29.test-token"}

    @property
    def pyiceberg(self) -> dict[str, str]:
        """The same for PyIceberg."""
        match self.kind:
            case "local":
                return {}
            case "gcs":
                host = self.server.url
                return {"gcs.service.host": host, "gcs.oauth2.token": "ya29.test-token",
                        "gcs.oauth2.token-expires-at": "4102444800000", "gcs.project-id": "test"}
        return {"s3.endpoint": self.server.url, "s3.region": "us-east-1", "s3.access-key-id": ACCESS_KEY,
                "s3.secret-access-key": SECRET_KEY}

    @property
    def duckdb_secret(self) -> str:
        host = self.server.url.removeprefix("http://")
        return (f"TYPE s3, KEY_ID '{ACCESS_KEY}', SECRET '{SECRET_KEY}', ENDPOINT '{host}', URL_STYLE 'path', "
                "USE_SSL false, REGION 'us-east-1'")

    def keys(self, under: str = "") -> list[str]:
        """The names of the objects in the warehouse."""
        prefix = f"{self.prefix}/{under}"
        if self.kind == "local":
            root = self.folder / "warehouse"
            return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        if self.kind == "gcs":
            found = [name for name in self.server.buckets[BUCKET] if name.startswith(prefix)]
        else:
            pages = self.server.s3().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
            found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return sorted(name.removeprefix(f"{self.prefix}/") for name in found)

    def text(self, name: str) -> str:
        if self.kind == "local":
            return (self.folder / "warehouse" / name).read_text()
        if self.kind == "gcs":
            return self.server.buckets[BUCKET][f"{self.prefix}/{name}"].data.decode()
        return self.server.s3().get_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")["Body"].read().decode()


def gcs() -> GcsFake:
    fake = GcsFake(page=5)
    fake.make_bucket(BUCKET)
    return fake
