"""Fixtures: a running service of its own for a test, or one that the tests of a file share."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from harness import Esker


@pytest.fixture(scope="session")
def homes():
    """Folders for data directories, one a call. World-searchable, since one test serves as another user."""
    root = Path(tempfile.mkdtemp(prefix="esker-e2e-"))
    root.chmod(0o755)
    numbers = itertools.count()

    def home(name: str) -> Path:
        return root / f"{next(numbers):03}-{name}"

    yield home
    if "E2E_KEEP" not in os.environ:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def esker(homes, request):
    """Makes services that end with the test: `esker(flush={"max_age": "1s"})` gives one that is not started yet."""
    made: list[Esker] = []

    def make(**options) -> Esker:
        made.append(Esker(homes(request.node.name.split("[")[0]), **options))
        return made[-1]

    yield make
    for service in made:
        service.kill()


@pytest.fixture(scope="module")
def shared(homes, request):
    """One running service for all tests of a file that do not stop it."""
    service = Esker(homes(request.module.__name__)).start()
    yield service
    service.kill()


def pytest_terminal_summary(terminalreporter):
    """What was recorded along the way: figures, never assertions."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", []):
                if getattr(report, "when", "") == "call":
                    terminalreporter.write_line(f"note: {name}: {text}")
