//! OTLP/gRPC as clients see it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;

use super::*;

const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

fn call(service: &Service, path: &str, encoding: Option<&str>, body: Vec<u8>) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("http://{}{path}", service.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    request.body(Full::new(Bytes::from(body))).unwrap()
}

async fn export(service: &Service, encoding: Option<&str>, body: Vec<u8>) -> H2Reply {
    let mut sender = service.connect_h2().await;
    send_h2(&mut sender, call(service, EXPORT, encoding, body)).await
}

/// The code and message of an answer without a message.
fn status(reply: &H2Reply) -> (&str, &str) {
    assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
    (reply.headers["grpc-status"].to_str().unwrap(), reply.headers["grpc-message"].to_str().unwrap())
}

fn response(reply: &H2Reply) -> ExportLogsServiceResponse {
    assert_eq!(reply.headers["content-type"], "application/grpc+proto");
    assert_eq!(reply.trailers["grpc-status"], "0");
    assert_eq!(reply.body[..5], framed(0, &reply.body[5..])[..5]);
    ExportLogsServiceResponse::decode(&reply.body[5..]).unwrap()
}

#[tokio::test]
async fn a_message_is_taken_in_every_compression() {
    let service = Service::grpc(FakeSink::new()).await;
    let message = vec![5; 100 * KIB as usize];
    for (encoding, body) in [
        (None, framed(0, &message)),
        (Some("gzip"), framed(1, &gzip(&message))),
        (Some("zstd"), framed(1, &zstd(&message))),
        (Some("gzip"), framed(0, &message)),
    ] {
        let reply = export(&service, encoding, body).await;
        assert_eq!(response(&reply), ExportLogsServiceResponse::default());
    }
    assert_eq!(service.sink.seen(), vec![Bytes::from(message); 4]);
    assert_eq!(service.count(Protocol::Grpc, Outcome::Accepted), 4);
    service.stop().await;
}

#[tokio::test]
async fn one_connection_carries_many_calls_at_once() {
    let sink = FakeSink::held();
    let service = Service::grpc(sink.clone()).await;
    let sender = service.connect_h2().await;
    let calls: Vec<_> = (0..20u8)
        .map(|number| {
            let (mut sender, request) = (sender.clone(), call(&service, EXPORT, None, framed(0, &[number])));
            tokio::spawn(async move { send_h2(&mut sender, request).await })
        })
        .collect();
    for _ in 0..20 {
        sink.entered().await;
    }
    sink.release(20);
    for call in calls {
        response(&call.await.unwrap());
    }
    assert_eq!(service.stats.connections_total(), 1);
    service.stop().await;
}

#[tokio::test]
async fn partial_success_tells_how_many_and_why() {
    let receipt = Receipt { rejected: 2, message: "2 events are not declared".to_owned() };
    let service = Service::grpc(FakeSink::answers(Ok(receipt))).await;
    let reply = export(&service, None, framed(0, b"")).await;
    let partial = response(&reply).partial_success.unwrap();
    assert_eq!((partial.rejected_log_records, &*partial.error_message), (2, "2 events are not declared"));
    service.stop().await;
}

#[tokio::test]
async fn pressure_is_unavailable_with_retry_info() {
    let refusal = Refusal::Unavailable { reason: "100 % full\u{e9}", retry_after: Duration::from_secs(2) };
    let service = Service::grpc(FakeSink::answers(Err(refusal.clone()))).await;
    let reply = export(&service, None, framed(0, b"")).await;
    let expected =
        "the service cannot store events now: 100 %25 full%C3%A9; send the request again after 2 s";
    assert_eq!(status(&reply), ("14", expected));
    let details = STANDARD_NO_PAD.decode(&reply.headers["grpc-status-details-bin"]).unwrap();
    assert_eq!(details, refusal.status_protobuf());
    assert!(details.windows(9).any(|window| window == b"RetryInfo"));
    service.stop().await;
}

#[tokio::test]
async fn too_large_a_message_is_a_permanent_fault() {
    let service = Service::grpc(FakeSink::new()).await;
    let large = vec![1; 300 * KIB as usize];
    for (encoding, body) in [
        (None, framed(0, &large)),
        (Some("gzip"), framed(1, &gzip(&large))),
        (Some("zstd"), framed(1, &zstd(&large))),
        (Some("gzip"), framed(1, &gzip(&vec![0; 64 << 20]))),
        (Some("zstd"), framed(1, &zstd(&vec![0; 64 << 20]))),
    ] {
        let reply = export(&service, encoding, body).await;
        let (code, message) = status(&reply);
        assert_eq!(code, "3");
        assert!(message.contains("262144 bytes (receive.limits.request_bytes)"), "{message}");
    }
    // The limit is the message's; its prefix does not count.
    let largest = framed(0, &vec![1; 256 * KIB as usize]);
    response(&export(&service, None, largest).await);
    service.stop().await;
}

#[tokio::test]
async fn a_body_that_is_not_one_message_is_malformed() {
    let service = Service::grpc(FakeSink::new()).await;
    for (encoding, body, text) in [
        (None, vec![], "no prefix"),
        (None, vec![0, 0, 0, 0], "no prefix"),
        (None, framed(0, b"abc")[..7].to_vec(), "not exactly one message"),
        (None, [framed(0, b"abc"), framed(0, b"abc")].concat(), "not exactly one message"),
        (None, vec![0, 0xff, 0xff, 0xff, 0xff, 1], "not exactly one message"),
        (None, framed(1, &gzip(b"abc")), "grpc-encoding names nothing"),
        (Some("gzip"), framed(1, b"abc"), "not valid gzip"),
        (Some("zstd"), framed(1, b"abc"), "not valid zstd"),
        (None, framed(2, b"abc"), "neither 0 nor 1"),
    ] {
        let reply = export(&service, encoding, body).await;
        let (code, message) = status(&reply);
        assert!(code == "3" && message.contains(text), "{code} {message}");
    }
    assert_eq!(service.sink.seen().len(), 0);
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_said_clearly() {
    let service = Service::grpc(FakeSink::new()).await;
    let mut sender = service.connect_h2().await;
    for (path, text) in [
        ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", "traces are not taken"),
        ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", "metrics are not taken"),
        ("/opentelemetry.proto.collector.logs.v1.LogsService/Import", "not served"),
        ("/", "not served"),
    ] {
        let reply = send_h2(&mut sender, call(&service, path, None, framed(0, b"x"))).await;
        let (code, message) = status(&reply);
        assert!(code == "12" && message.contains(text), "{path}: {code} {message}");
    }
    let reply = send_h2(&mut sender, call(&service, EXPORT, Some("snappy"), framed(1, b"x"))).await;
    assert_eq!(status(&reply).0, "12");
    assert_eq!(reply.headers["grpc-accept-encoding"], "identity,gzip,zstd");

    let mut request = call(&service, EXPORT, None, framed(0, b"x"));
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    assert_eq!(send_h2(&mut sender, request).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut request = call(&service, EXPORT, None, vec![]);
    *request.method_mut() = ::http::Method::GET;
    assert_eq!(send_h2(&mut sender, request).await.status, StatusCode::METHOD_NOT_ALLOWED);
    service.stop().await;
}

#[tokio::test]
async fn a_message_that_stalls_ends_with_its_deadline() {
    let limits = Limits { request_time_max: Duration::from_millis(100), ..small() };
    let service = Service::start(Listener::Grpc, FakeSink::new(), limits, MemoryBudget::default()).await;
    let stream = TokioIo::new(service.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://{}{EXPORT}", service.address))
        .header("content-type", "application/grpc")
        .body(stalling(Bytes::from_static(&[0, 0, 0, 0, 9, 1])))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
    assert_eq!((service.sink.seen().len(), service.budget.in_use()), (0, 0));
    drop((sender, response));
    connection.abort();
    service.stop().await;
}

#[tokio::test]
async fn memory_that_is_used_up_is_unavailable_at_once() {
    let sink = FakeSink::held();
    let service = Service::start(Listener::Grpc, sink.clone(), small(), MemoryBudget::new(200 * KIB)).await;
    let mut sender = service.connect_h2().await;
    let body = framed(0, &vec![1; 100 * KIB as usize]);
    let (mut other, request) = (sender.clone(), call(&service, EXPORT, None, body.clone()));
    let held = tokio::spawn(async move { send_h2(&mut other, request).await });
    sink.entered().await;
    let reply = send_h2(&mut sender, call(&service, EXPORT, None, body)).await;
    assert_eq!(status(&reply), ("14", "receive.limits.memory is reached; send the request again after 1 s"));
    sink.release(1);
    response(&held.await.unwrap());
    drop(sender);
    service.stop().await;
}

#[tokio::test]
async fn http1_is_not_spoken() {
    let service = Service::grpc(FakeSink::new()).await;
    let mut stream = service.connect().await;
    stream.write_all(b"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    service.stop().await;
}

#[tokio::test]
async fn shutdown_answers_what_is_in_flight_and_closes_idle_connections() {
    let sink = FakeSink::held();
    let service = Service::grpc(sink.clone()).await;
    let idle = service.connect_h2().await;
    let mut sender = service.connect_h2().await;
    let request = call(&service, EXPORT, None, framed(0, b"x"));
    let in_flight = tokio::spawn(async move { send_h2(&mut sender, request).await });
    sink.entered().await;
    service.stop.cancel();
    eventually("the idle connection is closed", || idle.is_closed()).await;
    assert!(!service.ended.is_finished(), "a call is in flight");
    sink.release(1);
    response(&in_flight.await.unwrap());
    service.stop().await;
}
