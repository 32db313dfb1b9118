//! OTLP/HTTP as clients see it.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;

use super::*;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// A request of one record with this event name.
fn request(name: &str) -> Vec<u8> {
    let json =
        format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"eventName":"{name}"}}]}}]}}]}}"#);
    super::super::json::to_protobuf(json.as_bytes()).unwrap().to_vec()
}

fn json_request(name: &str) -> Vec<u8> {
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"eventName":"{name}"}}]}}]}}]}}"#)
        .into_bytes()
}

/// `google.rpc.Status`, as far as tests look at it.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[tokio::test]
async fn protobuf_and_json_are_taken_in_every_compression_and_answered_in_kind() {
    let service = Service::http(FakeSink::new()).await;
    let types = [
        (PROTOBUF, request("a.b"), &b""[..]),
        ("Application/JSON; charset=utf-8", json_request("a.b"), b"{}"),
    ];
    for (content_type, body, answer) in types {
        for (encoding, body) in [("identity", body.clone()), ("gzip", gzip(&body)), ("zstd", zstd(&body))] {
            let head = format!(
                "POST /v1/logs HTTP/1.1\r\ncontent-type: {content_type}\r\ncontent-encoding: {encoding}"
            );
            let reply = service.send(&head, &body).await;
            assert_eq!((reply.status, &reply.body[..]), (200, answer), "{reply:?}");
            let expected = content_type.split(';').next().unwrap().to_ascii_lowercase();
            assert_eq!(reply.header("content-type"), Some(&*expected));
        }
    }
    assert_eq!(service.sink.seen(), vec![Bytes::from(request("a.b")); 6]);
    assert_eq!(service.count(Protocol::HttpProtobuf, Outcome::Accepted), 3);
    assert_eq!(service.count(Protocol::HttpJson, Outcome::Accepted), 3);
    assert_eq!(service.stats.request_bytes(Protocol::HttpProtobuf), 3 * request("a.b").len() as u64);
    service.stop().await;
}

#[tokio::test]
async fn a_body_in_chunks_is_put_together() {
    let service = Service::http(FakeSink::new()).await;
    let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut sent = head.as_bytes().to_vec();
    for chunk in body.chunks(7000) {
        sent.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        sent.extend(chunk);
        sent.extend(b"\r\n");
    }
    sent.extend(b"0\r\n\r\n");
    assert_eq!(exchange(service.connect().await, sent).await.status, 200);
    assert_eq!(service.sink.seen(), [Bytes::from(body)]);
    service.stop().await;
}

#[tokio::test]
async fn an_empty_request_is_a_request() {
    let service = Service::http(FakeSink::new()).await;
    assert_eq!(service.post(PROTOBUF, b"").await.status, 200);
    assert_eq!(service.sink.seen(), [Bytes::new()]);
    service.stop().await;
}

#[tokio::test]
async fn partial_success_tells_how_many_and_why() {
    let receipt = Receipt { rejected: 2, message: "2 events are not declared".to_owned() };
    let service = Service::http(FakeSink::answers(Ok(receipt))).await;
    let reply = service.post(PROTOBUF, b"").await;
    let partial = ExportLogsServiceResponse::decode(&*reply.body).unwrap().partial_success.unwrap();
    assert_eq!((reply.status, partial.rejected_log_records), (200, 2));
    assert_eq!(partial.error_message, "2 events are not declared");
    let reply = service.post(JSON, b"{}").await;
    let expected = serde_json::json!({
        "partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "2 events are not declared"}
    });
    assert_eq!((reply.status, reply.json()), (200, expected));
    assert_eq!(service.count(Protocol::HttpJson, Outcome::Partial), 1);
    service.stop().await;
}

#[tokio::test]
async fn pressure_is_503_with_a_time_to_wait() {
    let refusal = Refusal::Overloaded { limit: "wal.max_bytes", retry_after: Duration::from_millis(2100) };
    let service = Service::http(FakeSink::answers(Err(refusal))).await;
    let reply = service.post(PROTOBUF, b"").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("3")));
    assert_eq!(reply.header("content-type"), Some(PROTOBUF));
    let status = RpcStatus::decode(&*reply.body).unwrap();
    assert_eq!(
        (status.code, &*status.message),
        (14, "wal.max_bytes is reached; send the request again after 3 s")
    );
    let reply = service.post(JSON, b"{}").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("3")));
    assert_eq!(reply.json()["code"], 14);
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_said_clearly() {
    let service = Service::http(FakeSink::new()).await;
    for (head, status, text) in [
        ("POST /v1/traces HTTP/1.1\r\ncontent-type: application/json", 404, "traces are not taken"),
        ("POST /v1/metrics HTTP/1.1\r\ncontent-type: application/json", 404, "metrics are not taken"),
        ("POST /v1/logs/ HTTP/1.1\r\ncontent-type: application/json", 404, "nothing is served"),
        ("GET / HTTP/1.1", 404, "nothing is served"),
        ("GET /v1/logs HTTP/1.1", 405, "only POST"),
        ("OPTIONS /v1/logs HTTP/1.1", 405, "only POST"),
        ("POST /v1/logs HTTP/1.1", 415, "content type"),
        ("POST /v1/logs HTTP/1.1\r\ncontent-type: text/plain", 415, "content type"),
        (
            "POST /v1/logs HTTP/1.1\r\ncontent-type: application/json\r\ncontent-encoding: br",
            415,
            "compression",
        ),
    ] {
        let reply = service.send(head, b"body").await;
        assert_eq!(reply.status, status, "{head}");
        assert!(reply.json()["message"].as_str().unwrap().contains(text), "{head}: {reply:?}");
        assert_eq!(reply.header("allow"), (status == 405).then_some("post"), "{head}");
        assert_eq!(
            reply.header("accept-encoding"),
            (text == "compression").then_some("gzip, zstd, identity")
        );
    }
    assert_eq!(service.sink.seen().len(), 0);
    service.stop().await;
}

#[tokio::test]
async fn what_is_malformed_is_400_without_a_word_of_the_payload() {
    let service = Service::http(FakeSink::new()).await;
    let reply = service.post(JSON, br#"{"resourceLogs": s3cret}"#).await;
    assert_eq!(reply.status, 400);
    let message = reply.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("line 1, column 18") && !message.contains("s3cret"), "{message}");
    for encoding in ["gzip", "zstd"] {
        let head =
            format!("POST /v1/logs HTTP/1.1\r\ncontent-type: {PROTOBUF}\r\ncontent-encoding: {encoding}");
        let reply = service.send(&head, b"s3cret").await;
        let status = RpcStatus::decode(&*reply.body).unwrap();
        assert_eq!((reply.status, status.code), (400, 3));
        assert!(status.message.contains(encoding) && !status.message.contains("s3cret"));
    }
    assert_eq!(service.count(Protocol::HttpProtobuf, Outcome::Malformed), 2);
    service.stop().await;
}

#[tokio::test]
async fn too_large_a_request_is_413_however_it_comes() {
    let service = Service::http(FakeSink::new()).await;
    let large = vec![1; 300 * KIB as usize];
    let head = |encoding: &str| {
        format!("POST /v1/logs HTTP/1.1\r\ncontent-type: {PROTOBUF}\r\ncontent-encoding: {encoding}")
    };
    for (encoding, body) in [
        ("identity", large.clone()),
        ("identity", vec![1; 1024 * KIB as usize]),
        ("gzip", gzip(&large)),
        ("zstd", zstd(&large)),
        ("gzip", gzip(&vec![0; 64 << 20])),
        ("zstd", zstd(&vec![0; 64 << 20])),
    ] {
        let reply = service.send(&head(encoding), &body).await;
        assert_eq!(reply.status, 413, "{encoding} {}", body.len());
        let status = RpcStatus::decode(&*reply.body).unwrap();
        assert!(status.message.contains("262144 bytes (receive.limits.request_bytes)"), "{}", status.message);
    }
    // Without a length that could be refused at once.
    let chunks =
        format!("{}\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n", head("identity"));
    let mut sent = chunks.into_bytes();
    for _ in 0..40 {
        sent.extend(b"2000\r\n");
        sent.extend([7; 0x2000]);
        sent.extend(b"\r\n");
    }
    sent.extend(b"0\r\n\r\n");
    assert_eq!(exchange(service.connect().await, sent).await.status, 413);
    assert_eq!(service.sink.seen().len(), 0);
    assert_eq!(service.count(Protocol::HttpProtobuf, Outcome::TooLarge), 7);
    service.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_before_it_sends() {
    let service = Service::http(FakeSink::new()).await;
    let mut stream = service.connect().await;
    let head = format!(
        "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\nexpect: 100-continue\r\ncontent-length: 9999999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(Reply::parse(&answer).status, 413);
    service.stop().await;
}

#[tokio::test]
async fn memory_that_is_used_up_is_503_at_once_and_free_again_later() {
    let sink = FakeSink::held();
    let budget = MemoryBudget::new(100 * KIB);
    let service = Service::start(Listener::Http, sink.clone(), small(), budget).await;
    let body = vec![1; 70 * KIB as usize];
    let held = {
        let stream = service.connect().await;
        let head = format!(
            "POST /v1/logs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        tokio::spawn(exchange(stream, [head.as_bytes(), &body].concat()))
    };
    sink.entered().await;
    assert!(service.budget.in_use() >= 70 * KIB);
    let reply = service.post(PROTOBUF, &body).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    let status = RpcStatus::decode(&*reply.body).unwrap();
    assert!(status.message.starts_with("receive.limits.memory is reached"), "{}", status.message);
    // So is memory for what a small body decompresses to.
    let head = format!("POST /v1/logs HTTP/1.1\r\ncontent-type: {PROTOBUF}\r\ncontent-encoding: zstd");
    assert_eq!(service.send(&head, &zstd(&body)).await.status, 503);
    assert_eq!(service.count(Protocol::HttpProtobuf, Outcome::Overloaded), 2);

    sink.release(2);
    assert_eq!(held.await.unwrap().status, 200);
    assert_eq!(service.post(PROTOBUF, &body).await.status, 200);
    service.stop().await;
}

#[tokio::test]
async fn a_body_that_stalls_is_408_and_gives_its_memory_back() {
    let limits = Limits { request_time_max: Duration::from_millis(100), ..small() };
    let service = Service::start(Listener::Http, FakeSink::new(), limits, MemoryBudget::default()).await;
    let mut stream = service.connect().await;
    let head = format!(
        "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 100\r\n\r\npart"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let reply = Reply::parse(&answer);
    assert_eq!(reply.status, 408);
    assert!(RpcStatus::decode(&*reply.body).unwrap().message.contains("receive.limits.request_time"));
    assert_eq!((service.sink.seen().len(), service.budget.in_use()), (0, 0));
    service.stop().await;
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let limits = Limits {
        head_time_max: Duration::from_millis(100),
        idle_time_max: Duration::from_millis(100),
        ..small()
    };
    let service = Service::start(Listener::Http, FakeSink::new(), limits, MemoryBudget::default()).await;
    // Nothing at all, a beginning of HTTP/2's preface, a head that does not end, and a pause after a request.
    let request =
        format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 0\r\n\r\n");
    for sent in ["", "PRI * H", "POST /v1/logs HTTP/1.1\r\nhost: x\r\n", &request] {
        let mut stream = service.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The end may be a reset, where the server had not read everything.
        drop(stream.read_to_end(&mut answer).await);
        assert_eq!(answer.is_empty(), sent.len() < request.len(), "{sent}");
    }
    eventually("all connections are closed", || service.stats.connections_open() == 0).await;
    service.stop().await;
}

/// All that a silent HTTP/2 client sends: the preface, and settings without any.
const SILENT_HTTP2: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn who_sends_no_request_within_the_time_for_a_head_is_closed_whatever_else_it_sends() {
    let limits = Limits {
        head_time_max: Duration::from_millis(100),
        idle_time_max: Duration::from_secs(3600),
        ..small()
    };
    let service = Service::start(Listener::Http, FakeSink::new(), limits, MemoryBudget::default()).await;
    let mut streams = Vec::new();
    for sent in ["", "PRI * H", "POST /v1/logs HTTP/1.1\r\nhost: x\r\n", SILENT_HTTP2] {
        let mut stream = service.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    for stream in &mut streams {
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
        // The end may be a reset, where the server had not read everything.
        drop(closed.await.expect("the end of the connection"));
    }
    service.stop().await;
}

#[tokio::test]
async fn silent_connections_do_not_hold_up_a_stop() {
    let hour = Duration::from_secs(3600);
    let limits = Limits { head_time_max: hour, idle_time_max: hour, drain_time_max: hour, ..small() };
    let service = Service::start(Listener::Http, FakeSink::new(), limits, MemoryBudget::default()).await;
    let request =
        format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 0\r\n\r\n");
    // Half a head after a request, and a client of HTTP/2 that answers nothing. The server's bytes say that it has read.
    let mut streams = Vec::new();
    for sent in [&format!("{request}POST /v1/logs HTTP/1.1\r\nhost: x\r\n"), SILENT_HTTP2] {
        let mut stream = service.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        stream.read_u8().await.unwrap();
        streams.push(stream);
    }
    let stopped = tokio::time::timeout(Duration::from_secs(20), service.stop());
    stopped.await.expect("the listener does not wait for them");
}

#[tokio::test]
async fn a_request_that_takes_long_does_not_count_as_silence() {
    let sink = FakeSink::held();
    let limits = Limits {
        head_time_max: Duration::from_millis(50),
        idle_time_max: Duration::from_millis(50),
        ..small()
    };
    let service = Service::start(Listener::Http, sink.clone(), limits, MemoryBudget::default()).await;
    let release = tokio::spawn(async move {
        sink.entered().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        sink.release(1);
    });
    assert_eq!(service.post(PROTOBUF, b"").await.status, 200);
    release.await.unwrap();
    service.stop().await;
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let service = Service::http(FakeSink::new()).await;
    let mut stream = service.connect().await;
    let request = format!(
        "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 2\r\n\r\nab"
    );
    for _ in 0..20 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).await.unwrap();
        assert_eq!(Reply::parse(&answer[..read]).status, 200);
    }
    assert_eq!(service.stats.connections_total(), 1);
    drop(stream);
    service.stop().await;
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_too() {
    let service = Service::http(FakeSink::new()).await;
    let mut sender = service.connect_h2().await;
    let request = Request::post(format!("http://{}/v1/logs", service.address))
        .header("content-type", JSON)
        .body(Full::new(Bytes::from(json_request("a.b"))))
        .unwrap();
    let reply = send_h2(&mut sender, request).await;
    assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b"{}"[..]));
    assert_eq!(service.sink.seen(), [Bytes::from(super::http::request("a.b"))]);
    service.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_what_the_sink_began() {
    let sink = FakeSink::held();
    let service = Service::http(sink.clone()).await;
    let mut stream = service.connect().await;
    let head = format!(
        "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 1\r\n\r\na"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    sink.entered().await;
    drop(stream);
    eventually("the request is abandoned", || service.count(Protocol::HttpProtobuf, Outcome::Abandoned) == 1)
        .await;
    assert!(service.budget.in_use() > 0, "the sink still has the request");
    sink.release(1);
    service.stop().await;
}

#[tokio::test]
async fn a_sink_that_panics_costs_one_answer() {
    let service = Service::http(FakeSink::panics()).await;
    for _ in 0..2 {
        let reply = service.post(PROTOBUF, b"").await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
    }
    service.stop().await;
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_free_place() {
    let limits = Limits { connections_max: 1, ..small() };
    let service = Service::start(Listener::Http, FakeSink::new(), limits, MemoryBudget::default()).await;
    let first = service.connect().await;
    eventually("the first is accepted", || service.stats.connections_open() == 1).await;
    let second = service.post(PROTOBUF, b"");
    let mut second = Box::pin(second);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err());
    drop(first);
    assert_eq!((&mut second).await.status, 200);
    drop(second);
    service.stop().await;
}

#[tokio::test]
async fn shutdown_answers_what_is_in_flight_and_takes_nothing_more() {
    let sink = FakeSink::held();
    let service = Service::http(sink.clone()).await;
    let idle = service.connect().await;
    let head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    let in_flight = tokio::spawn(exchange(service.connect().await, head.as_bytes().to_vec()));
    sink.entered().await;
    service.stop.cancel();
    let address = service.address;
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("the listener is closed");
    assert!(!service.ended.is_finished(), "a request is in flight");
    sink.release(1);
    // The connection is not kept alive, or `exchange` would wait for its end.
    assert_eq!(in_flight.await.unwrap().status, 200);
    service.stop().await;
    drop(idle);
}

#[tokio::test]
async fn a_drain_that_takes_too_long_ends_at_its_limit() {
    let sink = FakeSink::held();
    let limits = Limits { drain_time_max: Duration::from_millis(100), ..small() };
    let service = Service::start(Listener::Http, sink.clone(), limits, MemoryBudget::default()).await;
    let mut stream = service.connect().await;
    let head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    sink.entered().await;
    service.stop.cancel();
    service.ended.await.unwrap().unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert_eq!(answer, b"", "no success was told");
    assert_eq!(service.stats.connections_open(), 0);
}
