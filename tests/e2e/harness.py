"""The real binary as a process: start, ready line, requests, metrics, status, every way to stop.

Owns: ports, folders, deadlines and the child's life. Does not own: payloads (`otlp`), reading the table (`lake`).
"""

import http.client
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPO = HERE.parent.parent
SCHEMAS = HERE / "schemas"

# A deadline is there to end a hang, not to measure: each is far above what the step takes on a busy 2-core machine.
START_SECONDS = 60
STOP_SECONDS = 60
COMMIT_SECONDS = 60
REQUEST_SECONDS = 30


def binary() -> Path:
    """The binary under test: `E2E_BINARY`, else the release build of this clone."""
    named = os.environ.get("E2E_BINARY")
    path = Path(named) if named else Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "release" / "esker"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such binary; run `cargo build --release`, or set E2E_BINARY")
    return path.absolute()


def wait_until(check, what: str, seconds: float = COMMIT_SECONDS, pause: float = 0.05):
    """Polls until `check` gives something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(pause)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. For tests whose server must come back at the same address."""
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def grown_registry(folder: Path) -> Path:
    """The tests' registry as a team would have edited it later: more attributes, one more event."""
    folder.mkdir(parents=True)
    text = (SCHEMAS / "events.yaml").read_text()
    (folder / "events.yaml").write_text(text.replace("# later: ", ""))
    shutil.copy(HERE / "schemas_later" / "later.yaml", folder / "later.yaml")
    return folder


@dataclass
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


def request(address: str, method: str, path: str, body: bytes | None = None, headers: dict | None = None) -> Answer:
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=REQUEST_SECONDS)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def toml_value(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def environment(**more: str) -> dict[str, str]:
    """The environment without keys that the person at the machine may have set for a service of their own."""
    return {name: item for name, item in os.environ.items() if not name.startswith("ESKER_")} | more


class Esker:
    """One data directory with its configuration, and the process that serves from it, if one runs."""

    def __init__(self, home: Path, schemas: Path = SCHEMAS, executable: Path | None = None, ports=(0, 0, 0),
                 variables: dict[str, str] | None = None, **sections):
        home.mkdir(parents=True, exist_ok=True)
        self.variables = variables or {}
        self.home, self.data = home, home / "data"
        self.schemas, self.executable = schemas, executable or binary()
        self.ports, self.sections = ports, sections
        self.config, self.log_path = home / "esker.toml", home / "stderr.log"
        self.process: subprocess.Popen | None = None
        self.ready: dict = {}
        self.write_config()

    # --- configuration and folders

    @property
    def warehouse(self) -> Path:
        return self.data / "warehouse"

    @property
    def table(self) -> Path:
        return self.warehouse / "product" / "events"

    def write_config(self):
        grpc, http_port, admin = (f"127.0.0.1:{port}" for port in self.ports)
        sections = {
            "receive": {"grpc": grpc, "http": http_port, "admin": admin},
            "flush": {"max_age": "1s"},
        }
        for name, keys in self.sections.items():
            sections[name] = {**sections.get(name, {}), **keys}
        lines = [f"data_dir = {toml_value(self.data)}", f"schemas = {toml_value(self.schemas)}"]
        for name, keys in sections.items():
            lines.append(f"\n[{name}]")
            lines += [f"{key} = {toml_value(value)}" for key, value in keys.items()]
        self.config.write_text("\n".join(lines) + "\n")

    # --- life

    def spawn(self, wrapper: tuple = (), **popen) -> subprocess.Popen:
        """Starts `serve` without waiting for anything."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        command = [*wrapper, str(self.executable), "--config", str(self.config), "serve"]
        popen.setdefault("env", environment(**self.variables))
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=self.home, **popen)
        return self.process

    def start(self, wrapper: tuple = (), **popen) -> "Esker":
        """Starts `serve` and waits for the line that says where it listens."""
        process = self.spawn(wrapper, **popen)
        line = read_line(process, START_SECONDS)
        if not line:
            code = process.wait(STOP_SECONDS)
            raise AssertionError(f"serve ended with {code} before it was ready:\n{self.log()[-4000:]}")
        self.ready = json.loads(line)
        assert {"grpc", "http", "admin"} <= self.ready.keys(), self.ready
        return self

    def refused_start(self, **popen) -> tuple[int, str]:
        """Starts `serve`, which must end by itself; gives its exit code and what it said on stderr."""
        before = len(self.log())
        process = self.spawn(**popen)
        try:
            code = process.wait(START_SECONDS)
        finally:
            self.kill()
        return code, self.log()[before:]

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """A polite stop; gives the exit code."""
        assert self.process is not None
        self.process.send_signal(signum)
        return self.wait()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        code = self.process.wait(seconds)
        self.process.stdout.close()
        return code

    def kill(self):
        """kill -9, if it still runs."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_SECONDS)
        self.process.stdout.close()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # --- talking to it

    def post(self, body: bytes, content_type: str = "application/x-protobuf", path: str = "/v1/logs", **headers) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.ready["http"], "POST", path, body, {"content-type": content_type, **named})

    def admin(self, path: str) -> Answer:
        return request(self.ready["admin"], "GET", path)

    def metrics(self) -> dict[str, float]:
        """Every sample by its full name with labels, as the page spells it."""
        return parse_metrics(self.admin("/metrics").body.decode())

    def counts(self) -> dict[str, dict]:
        """The running process's counts by event name."""
        return self.admin("/status").json()["counts"]["events"]

    def settled(self) -> bool:
        """Nothing is between acknowledgement and table."""
        counts = self.counts()
        return all(count["in_flight"] == 0 for count in counts.values())

    def wait_settled(self):
        wait_until(self.settled, "every event settled")

    def run(self, *arguments: str, seconds: float = 60, **popen) -> subprocess.CompletedProcess:
        """Another command of the binary with the same configuration."""
        command = [str(self.executable), "--config", str(self.config), *arguments]
        popen.setdefault("env", environment(**self.variables))
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=self.home, **popen)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.M).group(1)) * 1024


def read_line(process: subprocess.Popen, seconds: float) -> bytes:
    """One line of stdout; empty if the process ended before it."""
    deadline, line = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                process.kill()
                raise TimeoutError(f"no ready line within {seconds} s")
            byte = os.read(process.stdout.fileno(), 1)
            if not byte:
                return b""
            line += byte
    return line


def parse_metrics(text: str) -> dict[str, float]:
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            samples[name] = float(value)
    return samples


def labels(sample: str) -> dict[str, str]:
    """The labels of a sample's name."""
    return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample))


def by_labels(samples: dict[str, float], metric: str, **wanted: str) -> float:
    """The sum of a metric's samples that carry these labels."""
    total = 0.0
    for name, value in samples.items():
        if name.split("{", 1)[0] == metric and wanted.items() <= labels(name).items():
            total += value
    return total


def balanced(count: dict) -> bool:
    """Invariant 3: received = committed + quarantined + dropped + rejected + in flight."""
    parts = ("committed", "quarantined", "dropped", "rejected", "in_flight")
    return count["received"] == sum(count[part] for part in parts)
