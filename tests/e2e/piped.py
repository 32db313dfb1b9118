"""An engine in a process of its own, behind a pipe: a statement goes in and its answer comes out, each a line of JSON.

Owns: the process and the form of the lines. Does not own: what is asked, or the engines (`pipe_*.py`).
"""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent


class Piped:
    """The process. Times are microseconds since the Unix epoch."""

    def __init__(self, program: str, *arguments: str | Path, python: str | Path = sys.executable, cwd: Path | None = None):
        command = [python, HERE / program, *arguments]
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd
        )

    def ask(self, sql: str) -> list[dict]:
        self.process.stdin.write(json.dumps(sql) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the engine ended with {self.process.wait(60)}; what it said is in the captured stderr"
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"{answer['error']}\n{sql}")
        return [dict(zip(answer["names"], map(revived, row))) for row in answer["rows"]]

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class ClickHouse(Piped):
    """chDB: a whole server in a library, so it shares a process with nobody. It reads local tables below its working directory."""

    def __init__(self, home: Path, warehouse: Path, zone: str):
        home.mkdir(parents=True, exist_ok=True)
        super().__init__("pipe_clickhouse.py", home, zone, cwd=warehouse)


def revived(item):
    """JSON has no dates."""
    return date.fromisoformat(item["day"]) if isinstance(item, dict) else item
