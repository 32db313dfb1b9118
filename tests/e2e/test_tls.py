"""Off loopback: TLS and bearer tokens on every port, their rotation under load, and what is refused without them."""

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time

import grpc
import lake
import otlp
import pytest
from certificates import Authority, serial_shown
from harness import REPO, bearer, by_labels, free_ports, request, wait_until
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

UNKNOWN = "esker_t1_" + "A" * 43


def new_token(service, name: str, *arguments: str) -> str:
    """Makes a token with the command, into the service's file."""
    done = service.run("tokens", "new", "--name", name, "--add-to", str(service.home / "tokens"), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Guarded:
    """A service with TLS and tokens, not started yet, and an authority that its clients trust."""

    def __init__(self, esker, mutual: bool = False, use_rsa: bool = False, **sections):
        self.authority = Authority()
        receive = sections.pop("receive", {})
        self.service = esker(receive=receive, **sections)
        home = self.home = self.service.home
        self.authority.write(home / "ca.crt")
        self.server = self.authority.vouch(use_rsa=use_rsa).write(home)
        tls = {"cert": home / "tls.crt", "key": home / "tls.key"}
        if mutual:
            tls["client_ca"] = home / "ca.crt"
        receive |= {"tls": tls, "tokens_file": home / "tokens"}
        self.service.sections["receive"] = receive
        self.service.write_config()
        self.service.tls = self.authority.context()
        self.service.send_token = new_token(self.service, "collector")
        self.service.read_token = new_token(self.service, "prometheus", "--use", "read")

    def start(self):
        self.service.start()
        return self.service

    def channel(self, **credentials):
        roots = self.authority.pem()
        return grpc.secure_channel(self.service.ready["grpc"], grpc.ssl_channel_credentials(roots, **credentials))


def send_example(service, protocol: str, count: int, home, token: str, **more: str) -> subprocess.CompletedProcess:
    """The structlog example, with the SDK's standard variables for TLS, headers and client certificates."""
    # `requests` prefers a bundle of the machine to the one that the SDK names.
    bundles = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    plain = {key: item for key, item in os.environ.items() if not key.startswith("OTEL_") and key not in bundles}
    port = service.ready["grpc" if protocol == "grpc" else "http"]
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(home / "ca.crt"),
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{token}",
        "NO_PROXY": "127.0.0.1,localhost",
        **more,
    }
    program = [sys.executable, str(REPO / "examples" / "python-structlog" / "send.py")]
    arguments = ["--count", str(count), "--event", "test.job.finished", "--number", "test.seq"]
    return subprocess.run(
        [*program, *arguments], env={**plain, **variables}, capture_output=True, text=True, timeout=120
    )


def stored(service) -> list[int]:
    service.wait_settled()
    return sorted(row[0] for row in lake.query(service.table, "SELECT test_seq FROM events"))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("mutual", [False, True])
def test_sdk_exporters_send_over_tls_with_a_token(esker, protocol, mutual):
    guarded = Guarded(esker, mutual, use_rsa=mutual)
    service, more = guarded.start(), {}
    if mutual:
        client = guarded.authority.client().write(guarded.home / "client")
        assert client.certificate
        more = {
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(guarded.home / "client" / "tls.crt"),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(guarded.home / "client" / "tls.key"),
        }
    done = send_example(service, protocol, 600, guarded.home, service.send_token, **more)
    assert done.returncode == 0, done.stderr[-4000:]
    assert stored(service) == list(range(600))
    assert by_labels(service.metrics(), "esker_token_requests_total", token="collector") >= 2
    assert service.ready["tls"] is True
    ends = by_labels(service.metrics(), "esker_tls_certificate_expiry_timestamp_seconds")
    assert time.time() < ends < time.time() + 2 * 86400


def test_without_a_valid_token_nothing_is_taken_and_both_protocols_say_so(esker):
    guarded = Guarded(esker)
    expired = new_token(guarded.service, "old", "--expires-in", "0s")
    service = guarded.start()
    body = otlp.numbered([1])
    cases = [(None, 401, "missing"), (UNKNOWN, 401, "unknown"), (expired, 401, "expired")]
    cases.append((service.read_token, 403, "wrong_use"))
    for token, status, reason in cases:
        for kind in (otlp.PROTOBUF, otlp.JSON):
            headers = {"content-type": kind, **bearer(token)}
            answer = request(service.ready["http"], "POST", "/v1/logs", body, headers, service.tls)
            assert (answer.status, answer.headers["content-type"]) == (status, kind)
            assert answer.headers["www-authenticate"].startswith('Bearer realm="esker"')
            parsed = answer.json() if kind == otlp.JSON else otlp.Status.FromString(answer.body)
            code = parsed["code"] if kind == otlp.JSON else parsed.code
            assert code == (16 if status == 401 else 7)
        with guarded.channel() as channel, pytest.raises(grpc.RpcError) as caught:
            metadata = tuple(bearer(token).items())
            LogsServiceStub(channel).Export(otlp.export(otlp.record()), timeout=30, metadata=metadata)
        expected = grpc.StatusCode.UNAUTHENTICATED if status == 401 else grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.code() == expected
        samples = service.metrics()
        assert by_labels(samples, "esker_denied_total", port="http", reason=reason) == 2
        assert by_labels(samples, "esker_denied_total", port="grpc", reason=reason) == 1
    assert by_labels(service.metrics(), "esker_requests_total", outcome="denied") == 12
    assert service.counts() == {}
    for token in (service.send_token, service.read_token, expired, UNKNOWN):
        assert token not in service.log() and token not in str(service.metrics())


def test_a_wrong_authority_a_missing_client_certificate_and_plain_text_end_in_the_handshake(esker):
    guarded = Guarded(esker, mutual=True)
    service = guarded.start()
    other = Authority("somebody else")
    body, failures = otlp.numbered([1]), lambda **wanted: by_labels(
        service.metrics(), "esker_tls_handshake_failures_total", **wanted
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        request(service.ready["http"], "POST", "/v1/logs", body, tls=other.context())
    wait_until(lambda: failures(port="http", reason="refused_by_client") == 1, "the client's refusal is counted")

    strange = other.client().write(guarded.home / "strange")
    assert strange.certificate
    with_strange = guarded.authority.context()
    with_strange.load_cert_chain(guarded.home / "strange" / "tls.crt", guarded.home / "strange" / "tls.key")
    for context in (guarded.authority.context(), with_strange):
        with pytest.raises(OSError):
            request(service.ready["http"], "POST", "/v1/logs", body, bearer(service.send_token), context)
    wait_until(lambda: failures(port="http", reason="client_certificate") == 2, "both are counted")

    with pytest.raises((http.client.HTTPException, OSError)):
        request(service.ready["http"], "POST", "/v1/logs", body)
    wait_until(lambda: failures(port="http", reason="not_tls") == 1, "plain text is counted")
    with grpc.insecure_channel(service.ready["grpc"]) as channel, pytest.raises(grpc.RpcError) as caught:
        LogsServiceStub(channel).Export(otlp.export(otlp.record()), timeout=5)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert service.counts() == {}
    assert "a TLS handshake failed" in service.log()


def test_slow_handshakes_make_room_again(esker):
    guarded = Guarded(esker, receive={"limits": {"connections": 3}})
    service = guarded.start()
    host, port = service.ready["http"].rsplit(":", 1)
    silent = [socket.create_connection((host, int(port))) for _ in range(3)]
    silent[0].sendall(b"\x16\x03\x01\x02\x00\x01")
    try:
        # There is no place for it until the others' time is over.
        assert service.post(otlp.numbered([1])).status == 200
        wait_until(
            lambda: by_labels(service.metrics(), "esker_tls_handshake_failures_total", port="http", reason="slow") == 3,
            "the slow ones are counted",
        )
        assert [stream.recv(100)[-1:] for stream in silent[1:]] == [b"", b""]
    finally:
        for stream in silent:
            stream.close()


def swap(folder, version: str):
    """As Kubernetes replaces a mounted secret: a link to a folder is renamed into place."""
    (folder / "..next").symlink_to(version)
    (folder / "..next").rename(folder / "..data")


def test_certificate_and_token_are_rotated_under_load_and_nothing_is_refused_or_lost(esker):
    guarded = Guarded(esker)
    service, secrets = guarded.service, guarded.home / "mounted"
    first, second = guarded.authority.vouch(), guarded.authority.vouch()
    first.write(secrets / "v1", 0o440)
    second.write(secrets / "v2", 0o440)
    swap(secrets, "v1")
    for name in ("tls.crt", "tls.key"):
        (secrets / name).symlink_to(f"..data/{name}")
    service.sections["receive"]["tls"] = {"cert": secrets / "tls.crt", "key": secrets / "tls.key"}
    service.write_config()
    guarded.start()
    assert serial_shown(service.ready["http"], service.tls) == first.serial

    stop, tokens, taken, problems = threading.Event(), [service.send_token], [], []

    def send(worker: int, keeps_open: bool):
        """Until told to stop: one connection for all requests, or one for each."""
        host, port = service.ready["http"].rsplit(":", 1)
        connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=guarded.authority.context())
        number = worker * 1_000_000
        while not stop.is_set():
            headers = {"content-type": otlp.PROTOBUF, **bearer(tokens[-1])}
            try:
                connection.request("POST", "/v1/logs", otlp.numbered([number]), headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    problems.append(answer.status)
                taken.append(number)
            except OSError as error:
                problems.append(error)
                return
            number += 1
            if not keeps_open:
                connection.close()
        connection.close()

    workers = [threading.Thread(target=send, args=(worker, worker < 2)) for worker in range(4)]
    for worker in workers:
        worker.start()
    try:
        progress(taken)
        # The certificate, noticed by itself.
        swap(secrets, "v2")
        wait_until(lambda: serial_shown(service.ready["http"], service.tls) == second.serial, "the new certificate is shown")
        for port in ("grpc", "admin"):
            assert serial_shown(service.ready[port], service.tls) == second.serial
        progress(taken)
        # The token: the new one is added, used by all, and then the old one goes. SIGHUP hurries it.
        fresh = new_token(service, "collector-2")
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads(service, "tokens", "used") == 1, "the new token is known")
        old = tokens[-1]
        tokens.append(fresh)
        progress(taken)
        lines = (guarded.home / "tokens").read_text().splitlines(keepends=True)
        replacement = guarded.home / "tokens.next"
        replacement.write_text("".join(line for line in lines if not line.startswith("collector ")))
        replacement.chmod(0o600)
        replacement.rename(guarded.home / "tokens")
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads(service, "tokens", "used") == 2, "the old token is gone")
        progress(taken)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert problems == []
    service.send_token = old
    assert service.post(otlp.numbered([1])).status == 401
    service.send_token = fresh
    assert reloads(service, "tls", "used") == 1 and reloads(service, "tls", "refused") == 0
    assert by_labels(service.metrics(), "esker_token_requests_total", token="collector-2") > 0
    assert stored(service) == sorted(taken)


def progress(taken: list):
    """Waits until a good number of requests more were answered."""
    before = len(taken)
    wait_until(lambda: len(taken) >= before + 40, "requests are answered")


def reloads(service, what: str, outcome: str) -> float:
    return by_labels(service.metrics(), "esker_access_reloads_total", what=what, outcome=outcome)


def test_a_broken_new_file_is_told_and_the_old_one_stays_in_force(esker):
    guarded = Guarded(esker)
    service = guarded.start()
    stale = lambda what: by_labels(service.metrics(), "esker_access_stale", what=what)
    (guarded.home / "tls.crt").write_bytes(guarded.authority.vouch().certificate)
    (guarded.home / "tokens").write_text(f"collector send {UNKNOWN}\n")
    wait_until(lambda: stale("tls") == 1 and stale("tokens") == 1, "both changes are refused")
    assert serial_shown(service.ready["http"], service.tls) == guarded.server.serial
    assert service.post(otlp.numbered([1])).status == 200
    errors = [json.loads(line) for line in service.log().splitlines() if '"ERROR"' in line]
    told = " ".join(error["error"] for error in errors)
    assert str(guarded.home / "tls.key") in told and "receive.tls.key" in told
    assert str(guarded.home / "tokens") in told and "line 1" in told and UNKNOWN not in told
    guarded.server.write(guarded.home)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: stale("tls") == 0, "the old certificate is good again")
    assert len([line for line in service.log().splitlines() if '"ERROR"' in line]) == len(errors), "told once"


def test_the_last_token_is_revoked_and_a_pipe_in_place_of_a_file_holds_up_nothing(esker):
    guarded = Guarded(esker)
    service = guarded.start()
    assert service.post(otlp.numbered([1])).status == 200
    tokens = guarded.home / "tokens"
    tokens.write_text("# nobody\n")
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: service.post(otlp.numbered([1])).status == 401, "the last token is revoked")
    assert "lists no token" in service.log()
    tokens.unlink()
    os.mkfifo(tokens, 0o600)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "no regular file" in service.log(), "the pipe is refused")
    fresh = guarded.authority.vouch().write(guarded.home)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: serial_shown(service.ready["http"], service.tls) == fresh.serial, "certificates are still read")
    assert service.stop() == 0


def test_a_hang_up_during_the_start_does_not_end_the_service(esker):
    guarded = Guarded(esker)
    service = guarded.service
    program = guarded.home / "key.sh"
    key = guarded.home / "esker.key"
    assert service.run("keys", "new", "--out", str(key)).returncode == 0
    program.write_text(f"#!/bin/sh\nkill -HUP $PPID\ncat {key}\n")
    program.chmod(0o700)
    service.sections["privacy"] = {"key": f"command:{program}"}
    service.write_config()
    guarded.start()
    assert service.post(otlp.numbered([1])).status == 200
    assert service.stop() == 0


def test_open_connections_that_say_nothing_do_not_hold_up_a_stop(esker):
    """Half a head, a silent client of HTTP/2 and a stranger's body that does not come; the last rows are committed."""
    guarded = Guarded(esker, flush={"max_age": "1h"})
    service = guarded.start()
    assert service.post(otlp.numbered([1])).status == 200
    head = b"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 9"
    silent = [head, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), head + b"\r\n\r\n"]
    streams = []
    for sent in silent:
        host, port = service.ready["http"].rsplit(":", 1)
        stream = service.tls.wrap_socket(socket.create_connection((host, int(port))), server_hostname="127.0.0.1")
        stream.sendall(sent)
        streams.append(stream)
    denied = lambda: by_labels(service.metrics(), "esker_denied_total", port="http", reason="missing")
    wait_until(lambda: denied() == 1, "all are heard")
    started = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - started < 10, "within the time for one head"
    for stream in streams:
        stream.close()
    assert lake.query(service.table, "SELECT test_seq FROM events") == [(1,)]


def test_the_admin_port_wants_a_token_for_all_but_health(esker):
    guarded = Guarded(esker, mutual=True)
    service = guarded.start()
    ask = lambda path, headers=None: request(service.ready["admin"], "GET", path, headers=headers, tls=service.tls)
    for path in ("/healthz", "/readyz"):
        assert ask(path).status == 200
    for path in ("/metrics", "/status", "/drift", "/", "/none"):
        answer = ask(path)
        assert answer.status == 401 and "www-authenticate" in answer.headers
        assert ask(path, bearer(service.send_token)).status == 403
    for path in ("/metrics", "/status", "/drift", "/"):
        assert ask(path, bearer(service.read_token)).status == 200
    password = base64.b64encode(f"anybody:{service.read_token}".encode()).decode()
    assert b"<h1>Esker</h1>" in ask("/", {"authorization": f"Basic {password}"}).body


def test_commands_on_the_same_machine_need_no_token_of_their_own(esker):
    guarded = Guarded(esker)
    service = guarded.start()
    assert service.post(otlp.encoded(otlp.record("no.such.event"))).status == 200
    run_file = service.data / "run.json"
    assert stat.S_IMODE(run_file.stat().st_mode) == 0o600
    live = json.loads(service.run("status", "--format", "json").stdout)["live"]
    assert live["counts"]["events"], live
    done = service.run("learn")
    assert done.returncode == 0 and "no.such.event" in done.stdout, done.stderr
    # It follows the certificate that is in force.
    fresh = guarded.authority.vouch().write(guarded.home)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: serial_shown(service.ready["admin"], service.tls) == fresh.serial, "the new certificate")
    wait_until(lambda: json.loads(service.run("status", "--format", "json").stdout)["live"], "status finds it again")
    assert by_labels(service.metrics(), "esker_token_requests_total", token="local") > 0
    local = json.loads(run_file.read_text())["token"]
    assert local not in service.log()
    assert service.stop() == 0
    assert not run_file.exists()


@pytest.mark.parametrize("where", ["configured", "endpoint"])
def test_replay_reaches_a_protected_port(esker, where):
    guarded = Guarded(esker, ports=tuple(free_ports(3)))
    service = guarded.service
    keys = service.run("quarantine", "keygen", "--out", str(guarded.home / "open.key"))
    recipient = next(word for word in keys.stdout.split() if word.startswith('"esker') or word.startswith("esker"))
    service.sections["quarantine"] = {"recipient": recipient.strip('"'), "undeclared_events": "quarantine"}
    service.write_config()
    guarded.start()
    record = otlp.record("test.job.misspelt", {"test.seq": 5, "test.text": "again"})
    assert service.post(otlp.encoded(record)).status == 200
    service.wait_settled()
    replay = ["quarantine", "replay", "--private-key", str(guarded.home / "open.key"), "--all"]
    replay += ["--event-name", "test.job.finished", "--format", "json"]
    if where == "endpoint":
        replay += ["--endpoint", f"https://{service.ready['http']}", "--ca", str(guarded.home / "ca.crt")]
        refused = service.run(*replay)
        assert refused.returncode == 1 and "--token-file" in refused.stderr, refused.stderr
        (guarded.home / "token").write_text(service.send_token + "\n")
        replay += ["--token-file", str(guarded.home / "token")]
    done = service.run(*replay)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accepted"] == 1
    assert stored(service) == [5]


OPEN = "grpc = '0.0.0.0:4317'\n"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (OPEN, ["receive.grpc", "receive.tls.cert", "receive.tls.key", "receive.tokens_file", "receive.insecure"]),
        ("admin = '10.1.2.3:4319'\ntokens_file = 't'\n", ["receive.admin", "receive.tls.cert"]),
        ("http = '[::]:4318'\ntls = {cert = 'c', key = 'k'}\n", ["receive.http", "receive.tokens_file"]),
    ],
)
def test_an_address_that_others_reach_is_refused_without_both(esker, keys, named):
    service = esker()
    service.config.write_text(f"data_dir = '{service.data}'\nschemas = '{service.schemas}'\n[receive]\n{keys}")
    for command in ("serve", "check"):
        done = service.run(command)
        assert done.returncode == 2
        for part in named:
            assert part in done.stderr
    assert not service.data.exists()
    service.config.write_text(service.config.read_text() + "insecure = true\n")
    done = service.run("check")
    assert done.returncode == 0, done.stderr
    assert "can be reached from other machines" in done.stdout


def test_check_reads_the_files_and_notes_those_that_are_elsewhere(esker):
    guarded = Guarded(esker)
    service = guarded.service
    assert service.run("check").returncode == 0
    (guarded.home / "tls.key").chmod(0o644)
    for command in ("check", "serve"):
        done = service.run(command)
        assert done.returncode == 2 and "receive.tls.key" in done.stderr and "0644" in done.stderr
    (guarded.home / "tls.key").unlink()
    done = service.run("check")
    assert done.returncode == 0 and f"{guarded.home / 'tls.key'} is not on this machine" in done.stdout
    assert service.run("serve").returncode == 2
    assert not service.data.exists()
    (guarded.home / "tokens").write_text("a send nonsense\n")
    done = service.run("check")
    assert done.returncode == 2 and "receive.tokens_file" in done.stderr, "each part is checked by itself"


def test_a_token_is_shown_once_and_only_its_hash_is_kept(esker):
    service = esker()
    path = service.home / "tokens"
    token = new_token(service, "a", "--expires-in", "90d")
    assert token.startswith("esker_t1_") and token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    name, use, digest, expires = path.read_text().split()
    assert (name, use, digest[:7], len(digest), expires[:8]) == ("a", "send", "sha256:", 71, "expires=")
    taken = service.run("tokens", "new", "--name", "a", "--add-to", str(path))
    assert taken.returncode == 2 and "another line has this name" in taken.stderr
    made = json.loads(service.run("tokens", "new", "--name", "b", "--use", "read", "--format", "json").stdout)
    assert made["line"].startswith("b read sha256:") and made["token"] not in made["line"]
    shown = service.run("tokens", "new", "--name", "c").stdout
    assert "esker_t1_" in shown and "c send sha256:" in shown
    assert service.run("tokens", "new", "--name", "no spaces").returncode == 2
