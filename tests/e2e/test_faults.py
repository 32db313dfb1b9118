"""Broken disks, foreign processes, damaged files: nothing acknowledged is lost, and what is wrong is said."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import lake
import otlp
import pytest
from harness import Esker, binary, wait_until

ROOT = os.geteuid() == 0
NOBODY = 65534


def stored(service: Esker) -> dict[int, int]:
    """How often each number is in the table."""
    if not (service.table / "metadata" / "version-hint.text").exists():
        return {}
    return dict(lake.query(service.table, "SELECT test_seq, count(*) FROM events GROUP BY ALL"))


def once(numbers) -> dict[int, int]:
    return {number: 1 for number in numbers}


def post(service: Esker, body: bytes) -> int | None:
    """Sends a request; gives its status, None if there was no answer."""
    try:
        return service.post(body).status
    except (OSError, http.client.HTTPException):
        return None


def deliver(service: Esker, first: int, size: int = 20, text: str = "s{}") -> int | None:
    """Sends a request of its own."""
    return post(service, otlp.numbered(range(first, first + size), text=text))


# --- A full disk


@pytest.fixture
def small_disk():
    """A file system of 12 MiB of its own, and a way to enlarge it."""
    if not ROOT:
        pytest.skip("mounting a small tmpfs needs root")
    folder = Path(tempfile.mkdtemp(prefix="esker-disk-"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("this machine does not let root mount a tmpfs")

    def enlarge():
        subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)

    yield folder, enlarge
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk):
    """The WAL meets the end of the disk: requests are refused so that SDKs send them again, or the process stops; once
    there is room, everything acknowledged is in the table, once."""
    folder, enlarge = small_disk
    service = Esker(folder / "esker", flush={"max_age": "1h"}, wal={"segment_bytes": "1MiB", "max_bytes": "1GiB"}).start()
    try:
        acknowledged, refusals = [], []
        for first in range(0, 2_000_000, 200):
            answer = service.post(otlp.numbered(range(first, first + 200), text="s{}" + "x" * 500))
            if answer.status == 200:
                acknowledged += range(first, first + 200)
                continue
            assert answer.status == 503, "an SDK would drop this batch"
            assert int(answer.headers["retry-after"]) >= 1
            refusals.append(otlp.Status.FromString(answer.body).message)
            if len(refusals) == 5:
                break
        assert refusals and acknowledged, "the disk must have filled"
        assert all("disk" in message for message in refusals)
        assert service.admin("/readyz").status == 503
        enlarge()
        assert service.admin("/readyz").status == 200
        service.kill()
        service.start()
        assert deliver(service, 10_000_000) == 200
        assert service.stop() == 0
        acknowledged += range(10_000_000, 10_000_020)
        found = stored(service)
        assert all(found.get(seq) == 1 for seq in acknowledged)
        assert all(times == 1 for times in found.values())
    finally:
        service.kill()


def test_a_disk_that_fills_during_commits_delays_them_only(small_disk):
    """The table meets the end of the disk: commits fail and are repeated; the WAL keeps what was acknowledged."""
    folder, enlarge = small_disk
    service = Esker(folder / "esker", flush={"max_age": "300ms"}, wal={"segment_bytes": "1MiB", "max_bytes": "1GiB"}).start()
    try:
        acknowledged = []
        ballast = folder / "ballast"
        assert deliver(service, 0) == 200
        acknowledged += range(20)
        service.wait_settled()
        # Unbuffered: what did not fit must not be written again at the close.
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    if file.write(bytes(64 * 1024)) == 0:
                        break
            except OSError:
                pass
        with ballast.open("r+b") as file:  # room for the WAL, not for a commit
            file.truncate(max(0, ballast.stat().st_size - 12 * 1024))
        for first in range(100, 2000, 20):
            status = deliver(service, first)
            assert status in (200, 503, None)
            if status != 200:
                break
            acknowledged += range(first, first + 20)
        time.sleep(1)
        if service.running:
            # What it cannot commit it says.
            status = service.admin("/status").json()
            assert status["trouble"] or status["counts"]["events"]["test.job.finished"]["in_flight"] == 0 or not acknowledged
        ballast.unlink()
        enlarge()
        if not service.running:
            service.kill()
            service.start()
        service.wait_settled()
        assert service.stop() == 0
        found = stored(service)
        assert all(found.get(seq) == 1 for seq in acknowledged)
        assert all(times == 1 for times in found.values())
    finally:
        service.kill()


# --- A disk that fails to sync


@pytest.fixture
def trace(esker):
    """Attaches strace to a running service so that one system call fails from now on."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    attached: list[subprocess.Popen] = []

    def fail(service: Esker, call: str, error: str) -> None:
        log = service.home / "strace.log"
        inject = f"inject={call}:error={error}"
        command = ["strace", "-f", "-p", str(service.process.pid), "-e", f"trace={call}", "-e", inject, "-o", str(log)]
        attached.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        line = attached[-1].stderr.readline()
        if "attached" not in line:
            pytest.skip(f"strace cannot attach here: {line.strip()}")
        # One line a thread; all are attached once the service's threads show a tracer.
        threads = Path(f"/proc/{service.process.pid}/task")

        def all_traced() -> bool:
            states = [(task / "status").read_text() for task in threads.iterdir()]
            return all(f"TracerPid:\t{attached[-1].pid}" in state for state in states)

        wait_until(all_traced, "strace on every thread")

    yield fail
    for process in attached:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stderr.close()


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failed_sync_is_not_acknowledged_and_stops_the_process(esker, trace, error):
    service = esker(flush={"max_age": "1h"}).start()
    assert deliver(service, 0) == 200
    trace(service, "fdatasync", error)
    body = otlp.numbered(range(1000, 1020))
    assert post(service, body) in (None, 503)
    assert service.wait() == 1
    assert "sync" in service.log()[-3000:]

    service.start()
    assert post(service, body) == 200, "the client sends it again"
    assert service.stop() == 0
    assert stored(service) == once([*range(20), *range(1000, 1020)])


def test_a_failed_sync_of_a_commit_loses_nothing(esker, trace):
    """The files of the table cannot be synced: no commit is made of them, and it is said."""
    service = esker(flush={"max_age": "300ms"}).start()
    assert deliver(service, 0) == 200
    service.wait_settled()
    trace(service, "fsync", "EIO")
    body = otlp.numbered(range(1000, 1020))
    assert post(service, body) in (200, 503, None)
    time.sleep(1.5)
    service.kill()
    service.start()
    assert post(service, body) == 200
    assert service.stop() == 0
    assert stored(service) == once([*range(20), *range(1000, 1020)])


# --- The data directory


@pytest.mark.skipif(not ROOT, reason="serving as another user needs root")
def test_an_unwritable_data_directory_is_told(homes):
    home = homes("unwritable")
    home.mkdir()
    home.chmod(0o755)
    program = home / "esker"
    shutil.copy(binary(), program)
    schemas = home / "schemas"
    shutil.copytree(Path(__file__).parent / "schemas", schemas)
    service = Esker(home, schemas, executable=program)
    service.log_path.touch()
    code, said = service.refused_start(user=NOBODY, group=NOBODY, extra_groups=[])
    assert code == 1
    assert str(service.data) in said and "ermission" in said


def test_a_second_process_on_the_data_directory_is_refused(esker):
    first = esker().start()
    second = Esker(first.home / "second")
    second.data = first.data
    second.write_config()
    code, said = second.refused_start()
    assert code == 1
    assert str(first.data) in said and str(first.process.pid) in said
    assert deliver(first, 0) == 200
    assert first.stop() == 0
    assert stored(first) == once(range(20))


def test_the_lock_ends_with_the_process(esker):
    service = esker().start()
    service.kill()
    assert service.start().stop() == 0


def test_a_port_that_is_taken_names_the_key(esker):
    first = esker().start()
    taken = int(first.ready["http"].rsplit(":", 1)[1])
    code, said = esker(ports=(0, taken, 0)).refused_start()
    assert code == 1
    assert "receive.http" in said and str(taken) in said


# --- The keys


def key_material(text: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9+/]{43}=", text)


def test_a_key_that_others_may_read_is_refused(esker):
    service = esker().start()
    assert service.stop() == 0
    key = service.data / "esker.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    code, said = service.refused_start()
    assert code in (1, 2)
    assert "backup" not in said
    assert str(key) in said and "chmod 600" in said and not any(secret in said for secret in key_material(key.read_text()))


def test_a_data_directory_whose_key_is_gone_is_refused(esker):
    service = esker().start()
    assert deliver(service, 0) == 200
    assert service.stop() == 0
    (service.data / "esker.key").unlink()
    code, said = service.refused_start()
    assert code in (1, 2) and "esker.key" in said
    assert not (service.data / "esker.key").exists(), "another key would make other pseudonyms"


def test_a_damaged_key_is_refused_without_repeating_it(esker):
    service = esker().start()
    assert service.stop() == 0
    key = service.data / "esker.key"
    text = key.read_text()
    material = key_material(text)
    key.write_text(text.replace(material[0], material[0][::-1].replace("=", "") + "="))
    code, said = service.refused_start()
    assert code in (1, 2) and "esker.key" in said
    assert len(material) == 3 and not any(secret[:20] in said for secret in material)


# --- The write-ahead log


def killed_with_backlog(esker, requests: int = 10, **sections) -> Esker:
    """A service that was killed with this many requests of 20 events in its log and nothing committed."""
    service = esker(flush={"max_age": "1h"}, **sections).start()
    for number in range(requests):
        assert deliver(service, number * 20) == 200
    service.kill()
    return service


def segment(service: Esker) -> Path:
    """The log's file that holds the frames."""
    return max((path for path in (service.data / "wal").iterdir() if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("garbage", [b"\x00" * 700, b"\xff" * 700, os.urandom(3)])
def test_a_torn_tail_is_cut_off(esker, garbage):
    """What a crash leaves of a frame that was never acknowledged."""
    service = killed_with_backlog(esker)
    with segment(service).open("ab") as file:
        file.write(garbage)
    service.start()
    assert deliver(service, 1000) == 200
    assert service.stop() == 0
    assert stored(service) == once([*range(200), *range(1000, 1020)])


def test_a_tail_cut_inside_its_last_frame_keeps_all_before_it(esker):
    service = killed_with_backlog(esker)
    path = segment(service)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)
    service.start()
    assert deliver(service, 1000) == 200
    assert service.stop() == 0
    found = stored(service)
    assert found == once([*range(180), *range(1000, 1020)])


def damage_the_middle(service: Esker):
    path = segment(service)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_a_damaged_middle_is_refused_and_the_way_out_is_named(esker):
    service = killed_with_backlog(esker)
    damage_the_middle(service)
    before = segment(service).read_bytes()
    code, said = service.refused_start()
    assert code == 1
    assert "wal.on_damage" in said and str(service.data) in said
    assert segment(service).read_bytes() == before, "a refused start changes no frame"


def test_a_damaged_middle_can_be_set_aside(esker):
    """One frame is lost, with a copy and a word; every other event is in the table."""
    service = killed_with_backlog(esker, wal={"on_damage": "set_aside"})
    damage_the_middle(service)
    service.start()
    assert deliver(service, 1000) == 200
    assert service.stop() == 0
    found = stored(service)
    lost = set(range(200)) - found.keys()
    assert len(lost) == 20 and max(lost) - min(lost) == 19, "exactly the damaged request"
    assert all(times == 1 for times in found.values()) and set(range(1000, 1020)) <= found.keys()
    assert list((service.data / "wal").glob("*.damaged")), "the damaged bytes are kept"
    warnings = [line for line in map(json.loads, service.log().splitlines()) if line["level"] in ("WARN", "ERROR")]
    assert any("damage" in json.dumps(line) for line in warnings)


def test_a_log_at_its_limit_asks_clients_to_wait(esker):
    """Over `wal.max_bytes` the answer is one that SDKs repeat; after a commit there is room again."""
    service = esker(flush={"max_age": "1h"}, wal={"max_bytes": "66MiB", "segment_bytes": "1MiB"}).start()
    acknowledged, text = [], "s{}" + random.Random(1).randbytes(10_000).hex()
    for first in range(0, 100_000, 100):
        answer = service.post(otlp.numbered(range(first, first + 100), text=text))
        if answer.status != 200:
            break
        acknowledged += range(first, first + 100)
    assert (answer.status, acknowledged != []) == (503, True)
    assert int(answer.headers["retry-after"]) >= 1
    assert "wal.max_bytes" in otlp.Status.FromString(answer.body).message
    assert service.admin("/readyz").status == 503
    assert service.stop() == 0
    assert stored(service) == once(acknowledged)
    service.start()
    assert deliver(service, 1_000_000) == 200


# --- The table


def test_metadata_that_was_damaged_is_told_and_not_overwritten(esker):
    service = esker().start()
    assert deliver(service, 0) == 200
    assert service.stop() == 0
    newest = lake.newest_metadata(service.table)
    newest.write_text('{"format-version": 2, ')
    code, said = service.refused_start()
    assert code == 1 and newest.name in said
    assert newest.read_text() == '{"format-version": 2, '


@pytest.mark.parametrize("hint", ["1", "99", "not a number", None])
def test_the_version_hint_is_only_a_hint(esker, hint):
    """It may lag, lie or be gone: the newest version is found all the same, and the hint is put right."""
    service = esker(flush={"max_age": "200ms"}).start()
    for number in range(3):
        assert deliver(service, number * 20) == 200
        service.wait_settled()
    assert service.stop() == 0
    path = service.table / "metadata" / "version-hint.text"
    if hint is None:
        path.unlink()
    else:
        path.write_text(hint)
    service.start()
    # Before anything is sent: readers go by the hint, so the start itself puts it right.
    newest = max(int(name.name[1:].split(".")[0]) for name in path.parent.glob("v*.metadata.json"))
    assert path.read_text() == str(newest)
    assert stored(service) == once(range(60))
    assert deliver(service, 1000) == 200
    assert service.stop() == 0
    assert stored(service) == once([*range(60), *range(1000, 1020)])


def test_one_table_two_writers(homes):
    """Two services with a data directory each write to one warehouse; each event is there once."""
    warehouse = homes("warehouse")
    place = {"warehouse": f"file://{warehouse}"}
    pair = [Esker(homes("writer"), table=place, flush={"max_age": "150ms"}) for _ in range(2)]
    try:
        for service in pair:
            service.start()
        for number in range(40):
            assert deliver(pair[number % 2], number * 20) == 200
            time.sleep(0.02)
        assert [service.stop() for service in pair] == [0, 0]
    finally:
        for service in pair:
            service.kill()
    table = warehouse / "product" / "events"
    assert dict(lake.query(table, "SELECT test_seq, count(*) FROM events GROUP BY ALL")) == once(range(800))


# --- A table that is not the one of this data directory


@pytest.fixture
def committed(esker):
    """A service that has committed and stopped, and then committed nothing of what came last."""
    service = esker(flush={"max_age": "200ms"}).start()
    assert deliver(service, 0) == 200
    service.wait_settled()
    assert service.stop() == 0
    return service


def refused_as_another_table(service: Esker, *said: str):
    code, log = service.refused_start()
    assert code == 1
    for text in ("table.name, table.warehouse", "new data_dir", 'wal.on_damage = \\"set_aside\\"', *said):
        assert text in log or text.replace("\\", "") in log, log[-2000:]
    assert "is damaged" not in log


def test_another_table_name_is_told_and_makes_nothing(committed):
    committed.sections["table"] = {"name": "product.others"}
    committed.write_config()
    refused_as_another_table(committed, "product.others", "none of them")
    assert not (committed.warehouse / "product" / "others").exists()
    del committed.sections["table"]
    committed.write_config()
    committed.start()
    assert deliver(committed, 100) == 200
    assert committed.stop() == 0
    assert stored(committed) == once([*range(20), *range(100, 120)])


def test_a_table_that_is_gone_is_told_and_can_be_given_up(committed):
    shutil.rmtree(committed.warehouse)
    refused_as_another_table(committed, "none of them")
    assert not committed.warehouse.exists()
    committed.sections["wal"] = {"on_damage": "set_aside"}
    committed.write_config()
    committed.start()
    assert "going on without them" in committed.log()
    assert deliver(committed, 100) == 200
    assert committed.stop() == 0
    assert stored(committed) == once(range(100, 120))
    del committed.sections["wal"]
    committed.write_config()
    committed.start()
    assert deliver(committed, 200) == 200
    assert committed.stop() == 0
    assert stored(committed) == once([*range(100, 120), *range(200, 220)])


def test_a_table_that_was_rolled_back_is_told(committed):
    copy = committed.home / "copy"
    shutil.copytree(committed.warehouse, copy)
    committed.start()
    assert deliver(committed, 100) == 200
    assert committed.stop() == 0
    shutil.rmtree(committed.warehouse)
    copy.rename(committed.warehouse)
    refused_as_another_table(committed, "only up to")


def test_what_a_killed_process_left_staged_is_removed(committed):
    folder = committed.table / "data"
    left = [committed.table / "metadata" / "v9.metadata.json#71000000", folder / "x.parquet#123000001"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    committed.start()
    assert not any(path.exists() for path in left)
    assert committed.stop() == 0
    assert stored(committed) == once(range(20))
