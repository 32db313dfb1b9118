//! TLS and tokens on real sockets, with certificates that are made for each test.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::clock::FixedClock;
use crate::receive::access::tokens::{Token, TokenUse};
use crate::receive::access::{
    Access, AccessError, AccessFiles, Denial, HandshakeFailure, Port, TlsFiles, fingerprint, provider,
};
use crate::receive::pages;

/// An authority that vouches for whoever asks.
struct Authority {
    certificate: Certificate,
    key: KeyPair,
}

/// A certificate and its key.
struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { certificate: params.self_signed(&key).unwrap(), key }
    }

    fn vouch(&self, usage: ExtendedKeyUsagePurpose) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.certificate, &self.key).unwrap();
        Identity { certificate: certificate.der().clone(), key }
    }

    fn server(&self) -> Identity {
        self.vouch(ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn pem(&self) -> String {
        pem("CERTIFICATE", self.certificate.der())
    }

    /// A client that trusts this authority, speaks `protocols`, and has a certificate if it is given one.
    fn client(&self, protocols: &[&str], identity: Option<&Identity>) -> ClientConfig {
        self.client_of(protocols, identity, rustls::DEFAULT_VERSIONS)
    }

    fn client_of(
        &self,
        protocols: &[&str],
        identity: Option<&Identity>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_auth_cert(vec![identity.certificate.clone()], identity.der()).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

impl Identity {
    fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key.serialize_der())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// The files of access in a folder of their own.
struct Files {
    folder: tempfile::TempDir,
    clock: Arc<FixedClock>,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(FixedClock::at(0)) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        put(&self.path(name), text, 0o600);
    }

    fn put_identity(&self, identity: &Identity) {
        self.put("cert", &identity.certificate_pem());
        self.put("key", &identity.key_pem());
    }

    fn tls(&self, client_ca: bool) -> AccessFiles {
        let client_ca = client_ca.then(|| self.path("ca"));
        let tls = TlsFiles { certificate: self.path("cert"), key: self.path("key"), client_ca };
        AccessFiles { tls: Some(tls), tokens: None }
    }

    fn tokens(&self) -> AccessFiles {
        AccessFiles { tls: None, tokens: Some(self.path("tokens")) }
    }

    fn load(&self, files: AccessFiles) -> Result<Arc<Access>, AccessError> {
        Access::load(files, Arc::clone(&self.clock) as _)
    }

    fn refused(&self, files: AccessFiles) -> String {
        self.load(files).unwrap_err().to_string()
    }
}

fn put(path: &Path, text: &str, mode: u32) {
    write(path, text).unwrap();
    set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

impl Service {
    async fn behind(access: &Arc<Access>, port: Port, limits: Limits) -> Self {
        let listener = if port == Port::Grpc { Listener::Grpc } else { Listener::Http };
        let guard = |socket| access.guard(socket, port);
        Self::guarded(listener, FakeSink::new(), limits, MemoryBudget::default(), guard).await
    }

    async fn connect_tls(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, self.connect().await).await
    }

    /// A request over TLS on a connection of its own; fails where the server ends the connection instead.
    async fn post_tls(&self, config: ClientConfig) -> std::io::Result<Reply> {
        let mut stream = self.connect_tls(config).await?;
        stream.write_all(POST.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(Reply::parse(&answer))
    }
}

const POST: &str = "POST /v1/logs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-protobuf\r\n\
    content-length: 3\r\n\r\nabc";

/// Whether the peer ended the connection; waits for it.
async fn ended(mut stream: TcpStream) -> bool {
    let mut left = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut left)).await.is_ok()
}

#[tokio::test]
async fn both_versions_of_tls_carry_requests_and_the_protocol_is_agreed_on() {
    let (files, authority) = (Files::new(), Authority::new());
    files.put_identity(&authority.server());
    let access = files.load(files.tls(false)).unwrap();
    let service = Service::behind(&access, Port::Http, small()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]);
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        let reply = service.post_tls(config).await.unwrap();
        assert_eq!(reply.status, 200, "{version:?}: {reply:?}");
    }
    for (offered, agreed) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = service.connect_tls(authority.client(offered, None)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
    }
    assert_eq!(service.sink.seen().len(), 2);
    service.stop().await;

    let grpc = Service::behind(&access, Port::Grpc, small()).await;
    let stream = grpc.connect_tls(authority.client(&["h2"], None)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert!(grpc.connect_tls(authority.client(&["http/1.1"], None)).await.is_err());
    eventually("the failure is counted", || {
        access.handshake_failures(Port::Grpc, HandshakeFailure::Incompatible) == 1
    })
    .await;
}

#[tokio::test]
async fn plain_text_to_a_tls_port_ends_the_connection_and_is_counted() {
    let (files, authority) = (Files::new(), Authority::new());
    files.put_identity(&authority.server());
    let access = files.load(files.tls(false)).unwrap();
    let service = Service::behind(&access, Port::Http, small()).await;
    let mut stream = service.connect().await;
    stream.write_all(POST.as_bytes()).await.unwrap();
    assert!(ended(stream).await);
    eventually("the failure is counted", || {
        access.handshake_failures(Port::Http, HandshakeFailure::NotTls) == 1
    })
    .await;
    assert!(service.sink.seen().is_empty());
    service.stop().await;
}

#[tokio::test]
async fn a_slow_handshake_ends_at_the_limit_and_frees_its_place() {
    let (files, authority) = (Files::new(), Authority::new());
    files.put_identity(&authority.server());
    let access = files.load(files.tls(false)).unwrap();
    let limits = Limits { connections_max: 1, head_time_max: Duration::from_millis(200), ..small() };
    let service = Service::behind(&access, Port::Http, limits).await;
    let (silent, mut half) = (service.connect().await, service.connect().await);
    // A record that announces more than ever comes.
    half.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    // Both have to go before there is room for this one.
    let reply = service.post_tls(authority.client(&[], None)).await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(ended(silent).await && ended(half).await);
    eventually("both are counted", || access.handshake_failures(Port::Http, HandshakeFailure::Slow) == 2)
        .await;
    service.stop().await;
}

#[tokio::test]
async fn a_handshake_does_not_hold_up_a_stop() {
    let (files, authority) = (Files::new(), Authority::new());
    files.put_identity(&authority.server());
    let access = files.load(files.tls(false)).unwrap();
    let hour = Duration::from_secs(3600);
    let limits = Limits { head_time_max: hour, drain_time_max: hour, ..small() };
    let service = Service::behind(&access, Port::Http, limits).await;
    let silent = service.connect().await;
    eventually("the connection is taken", || service.stats.connections_open() == 1).await;
    service.stop().await;
    assert!(ended(silent).await);
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_is_counted() {
    let (files, authority) = (Files::new(), Authority::new());
    files.put_identity(&authority.server());
    let access = files.load(files.tls(false)).unwrap();
    let service = Service::behind(&access, Port::Http, small()).await;
    assert!(service.post_tls(Authority::new().client(&[], None)).await.is_err());
    eventually("the failure is counted", || {
        access.handshake_failures(Port::Http, HandshakeFailure::RefusedByClient) == 1
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn with_an_authority_for_clients_only_its_clients_come_in_except_to_the_admin_port() {
    let (files, authority, other) = (Files::new(), Authority::new(), Authority::new());
    files.put_identity(&authority.server());
    files.put("ca", &authority.pem());
    let access = files.load(files.tls(true)).unwrap();
    let service = Service::behind(&access, Port::Http, small()).await;
    let known = authority.vouch(ExtendedKeyUsagePurpose::ClientAuth);
    let strange = other.vouch(ExtendedKeyUsagePurpose::ClientAuth);
    assert_eq!(service.post_tls(authority.client(&[], Some(&known))).await.unwrap().status, 200);
    for identity in [None, Some(&strange), Some(&authority.server())] {
        assert!(service.post_tls(authority.client(&[], identity)).await.is_err());
    }
    eventually("the failures are counted", || {
        access.handshake_failures(Port::Http, HandshakeFailure::ClientCertificate) == 3
    })
    .await;
    assert_eq!(service.sink.seen().len(), 1);
    service.stop().await;
    let admin = Service::behind(&access, Port::Admin, small()).await;
    assert_eq!(admin.post_tls(authority.client(&[], None)).await.unwrap().status, 200);
}

#[tokio::test]
async fn who_shows_a_certificate_shows_it_at_each_connection() {
    let (files, authority) = (Files::new(), Authority::new());
    files.put_identity(&authority.server());
    files.put("ca", &authority.pem());
    let known = authority.vouch(ExtendedKeyUsagePurpose::ClientAuth);
    for (mutual, kind) in [(true, HandshakeKind::Full), (false, HandshakeKind::Resumed)] {
        let access = files.load(files.tls(mutual)).unwrap();
        let service = Service::behind(&access, Port::Http, small()).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = authority.client_of(&[], Some(&known), &[version]);
            assert_eq!(service.post_tls(config.clone()).await.unwrap().status, 200);
            // The sessions of the first connection are in what both share.
            let second = service.connect_tls(config).await.unwrap();
            assert_eq!(second.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_none() {
    let (files, authority) = (Files::new(), Authority::new());
    let (first, second) = (authority.server(), authority.server());
    files.put_identity(&first);
    let access = files.load(files.tls(false)).unwrap();
    let service = Service::behind(&access, Port::Http, small()).await;
    let shown = async || {
        let stream = service.connect_tls(authority.client(&["h2"], None)).await.unwrap();
        fingerprint(&stream.get_ref().1.peer_certificates().unwrap()[0])
    };
    let stream = TokioIo::new(service.connect_tls(authority.client(&["h2"], None)).await.unwrap());
    let (mut old, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    assert!(access.reload(Duration::ZERO).is_empty(), "nothing changed");

    // The key comes later than its certificate, as a careless copy does it.
    files.put("cert", &second.certificate_pem());
    let mut broken = access.reload(Duration::ZERO);
    let error = broken.pop().unwrap().outcome.unwrap_err().to_string();
    assert!(error.contains("receive.tls.key") && error.contains("not the key of the certificate"), "{error}");
    assert!(access.reload(Duration::ZERO).is_empty(), "the same problem is told once");
    assert_eq!(shown().await, fingerprint(&first.certificate));
    let count = access.reloads()[0];
    assert_eq!((count.reloads, count.failures, count.is_stale), (0, 1, true));

    files.put("key", &second.key_pem());
    assert!(access.reload(Duration::ZERO).pop().unwrap().outcome.is_ok());
    assert_eq!(shown().await, fingerprint(&second.certificate));
    assert_eq!(access.fingerprint().as_deref(), Some(&*fingerprint(&second.certificate)));
    assert!(!access.reloads()[0].is_stale);

    std::fs::remove_file(files.path("key")).unwrap();
    let error = access.reload(Duration::ZERO).pop().unwrap().outcome.unwrap_err().to_string();
    assert!(error.contains("receive.tls.key: cannot read"), "{error}");
    assert_eq!(shown().await, fingerprint(&second.certificate));

    let request = Request::post("https://localhost/v1/logs").header("content-type", "application/x-protobuf");
    let reply = send_h2(&mut old, request.body(Full::new(Bytes::from_static(b"abc"))).unwrap()).await;
    assert_eq!(reply.status, StatusCode::OK, "a connection of before goes on");
}

#[tokio::test]
async fn a_folder_that_is_swapped_by_a_link_is_seen() {
    let (files, authority) = (Files::new(), Authority::new());
    let (first, second) = (authority.server(), authority.server());
    for (version, identity) in [("v1", &first), ("v2", &second)] {
        std::fs::create_dir(files.path(version)).unwrap();
        put(&files.path(version).join("cert"), &identity.certificate_pem(), 0o640);
        put(&files.path(version).join("key"), &identity.key_pem(), 0o440);
    }
    symlink("v1", files.path("..data")).unwrap();
    for name in ["cert", "key"] {
        symlink(Path::new("..data").join(name), files.path(name)).unwrap();
    }
    let access = files.load(files.tls(false)).unwrap();
    symlink("v2", files.path("..next")).unwrap();
    std::fs::rename(files.path("..next"), files.path("..data")).unwrap();
    assert!(access.reload(Duration::ZERO).pop().unwrap().outcome.is_ok());
    assert_eq!(access.fingerprint().as_deref(), Some(&*fingerprint(&second.certificate)));
}

#[test]
fn files_that_others_may_use_or_that_hold_something_else_are_refused_by_name_and_not_shown() {
    let (files, authority) = (Files::new(), Authority::new());
    let server = authority.server();
    files.put_identity(&server);
    files.put("ca", &authority.pem());
    for mode in [0o644, 0o660, 0o604, 0o601] {
        set_permissions(files.path("key"), Permissions::from_mode(mode)).unwrap();
        let error = files.refused(files.tls(true));
        assert!(error.contains("receive.tls.key") && error.contains(&format!("{mode:04o}")), "{error}");
    }
    for mode in [0o600, 0o400, 0o440, 0o640] {
        set_permissions(files.path("key"), Permissions::from_mode(mode)).unwrap();
        files.load(files.tls(true)).unwrap();
    }
    set_permissions(files.path("ca"), Permissions::from_mode(0o666)).unwrap();
    assert!(files.refused(files.tls(true)).contains("receive.tls.client_ca"));
    files.put("ca", "hunter2");
    assert!(files.refused(files.tls(true)).contains("receive.tls.client_ca"));
    let cut = server.key_pem().replace("-----END", "");
    for (name, text) in [("cert", "hunter2"), ("cert", ""), ("key", "hunter2"), ("key", &cut)] {
        files.put_identity(&server);
        files.put(name, text);
        let error = files.refused(files.tls(false));
        assert!(error.contains(&format!("receive.tls.{name}")) && error.contains("PEM"), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("MII"), "{error}");
    }
    files.put("cert", &authority.server().certificate_pem());
    files.put("key", &server.key_pem());
    assert!(files.refused(files.tls(false)).contains("not the key of the certificate"));
    files.put("cert", &"x".repeat(2 << 20));
    assert!(files.refused(files.tls(false)).contains("larger than"));

    put(&files.path("tokens"), &Token::generate().unwrap().line("a", TokenUse::Send, None), 0o666);
    assert!(files.refused(files.tokens()).contains("receive.tokens_file"));
    put(&files.path("tokens"), "a send sha256:hunter2", 0o644);
    let error = files.refused(files.tokens());
    assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");

    // Nobody ever writes to this pipe.
    std::fs::remove_file(files.path("tokens")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, files.path("tokens"), rustix::fs::Mode::RUSR).unwrap();
    assert!(files.refused(files.tokens()).contains("no regular file"));
}

/// Four tokens, one of each kind.
struct Guests {
    files: Files,
    access: Arc<Access>,
    send: Token,
    read: Token,
    old: Token,
}

impl Guests {
    fn new() -> Self {
        let files = Files::new();
        let [send, read, old] = [(); 3].map(|()| Token::generate().unwrap());
        let soon = jiff::Timestamp::from_second(100).unwrap();
        let lines = [
            send.line("collector", TokenUse::Send, None),
            read.line("prometheus", TokenUse::Read, None),
            old.line("old", TokenUse::Send, Some(soon)),
        ];
        files.put("tokens", &lines.join("\n"));
        let access = files.load(files.tokens()).unwrap();
        files.clock.set(100_000_000);
        Self { files, access, send, read, old }
    }
}

#[tokio::test]
async fn only_a_token_for_this_port_lets_a_request_in_and_each_refusal_is_counted_by_its_reason() {
    let guests = Guests::new();
    let service = Service::behind(&guests.access, Port::Http, small()).await;
    let post = async |authorization: String| {
        let head = format!("POST /v1/logs HTTP/1.1\r\ncontent-type: application/json{authorization}");
        service.send(&head, b"{}").await
    };
    let bearer = |token: &Token| format!("\r\nauthorization: Bearer {}", token.reveal());
    let basic =
        format!("\r\nauthorization: Basic {}", STANDARD.encode(format!("x:{}", guests.send.reveal())));
    let cases = [
        (String::new(), 401, "bearer realm=\"esker\"", Denial::Missing),
        (bearer(&Token::generate().unwrap()), 401, "invalid_token", Denial::Unknown),
        (bearer(&guests.old), 401, "invalid_token", Denial::Expired),
        (bearer(&guests.read), 403, "insufficient_scope", Denial::WrongUse),
        (basic, 401, "invalid_request", Denial::Malformed),
        ("\r\nauthorization: Bearer".to_owned(), 401, "invalid_request", Denial::Malformed),
        (bearer(&guests.send).repeat(2), 401, "invalid_request", Denial::Malformed),
    ];
    for (authorization, status, challenge, denial) in cases {
        let before = guests.access.denials(Port::Http, denial);
        let reply = post(authorization).await;
        assert_eq!(reply.status, status, "{denial:?}");
        assert!(reply.header("www-authenticate").unwrap().contains(challenge), "{}", reply.head);
        assert_eq!(reply.json()["code"], if status == 401 { 16 } else { 7 });
        assert_eq!(guests.access.denials(Port::Http, denial), before + 1, "{denial:?}");
    }
    assert!(service.sink.seen().is_empty());
    assert_eq!(service.count(Protocol::HttpJson, Outcome::Denied), 7);
    let lower = bearer(&guests.send).replace("Bearer", "bearer");
    for good in [bearer(&guests.send), lower] {
        assert_eq!(post(good).await.status, 200);
    }
    let local = guests.access.local_token().unwrap();
    assert_eq!(post(bearer(local)).await.status, 200);
    let counts: Vec<_> =
        guests.access.token_list().iter().map(|token| (token.name.to_string(), token.requests)).collect();
    let counted = |name: &str| counts.iter().find(|(known, _)| known == name).unwrap().1;
    assert_eq!((counted("local"), counted("collector"), counted("old")), (1, 2, 0));
    service.stop().await;
}

#[tokio::test]
async fn a_request_without_a_token_is_answered_before_its_body_and_takes_no_memory() {
    let guests = Guests::new();
    let limits = Limits { head_time_max: Duration::from_millis(100), ..small() };
    let service = Service::behind(&guests.access, Port::Http, limits).await;
    let head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n";
    // The body of the first is awaited no longer than a head; that of the second is not asked for.
    for more in
        ["content-length: 200000\r\n\r\nabc", "expect: 100-continue\r\ncontent-length: 200000\r\n\r\n"]
    {
        let reply = exchange(service.connect().await, format!("{head}{more}").into_bytes()).await;
        assert_eq!(reply.status, 401, "{}", reply.head);
    }
    assert_eq!((service.budget.in_use(), service.sink.seen().len()), (0, 0));
    service.stop().await;
}

/// A request without a token, whose body is announced and does not come.
const STRANGER: &str = "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
    content-length: 200000\r\n\r\nabc";

#[tokio::test]
async fn the_body_of_a_stranger_does_not_hold_up_a_stop_and_others_are_answered_without_theirs() {
    let guests = Guests::new();
    let hour = Duration::from_secs(3600);
    let limits = Limits { head_time_max: hour, drain_time_max: hour, strangers_max: 1, ..small() };
    let service = Service::behind(&guests.access, Port::Http, limits).await;
    let send = async || {
        let mut stream = service.connect().await;
        stream.write_all(STRANGER.as_bytes()).await.unwrap();
        stream
    };
    let mut first = send().await;
    eventually("it is refused", || guests.access.denials(Port::Http, Denial::Missing) == 1).await;
    let mut second = send().await;
    let status = async |stream: &mut TcpStream| {
        let mut line = [0; 12];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut line));
        read.await.expect("an answer in time").unwrap();
        String::from_utf8(line.to_vec()).unwrap()
    };
    assert_eq!(status(&mut second).await, "HTTP/1.1 401");
    assert_eq!(service.count(Protocol::HttpProtobuf, Outcome::Denied), 1, "the first is still awaited");
    let stopped = tokio::time::timeout(Duration::from_secs(20), service.stop());
    stopped.await.expect("the listener does not wait for it");
    assert_eq!(status(&mut first).await, "HTTP/1.1 401");
}

#[tokio::test]
async fn a_connection_ends_with_a_request_that_is_denied() {
    let guests = Guests::new();
    for port in [Port::Http, Port::Grpc] {
        let service = Service::behind(&guests.access, port, small()).await;
        let mut sender = service.connect_h2().await;
        let path = "http://x/opentelemetry.proto.collector.logs.v1.LogsService/Export";
        let request = Request::post(path).header("content-type", "application/grpc");
        let reply = send_h2(&mut sender, request.body(Full::new(Bytes::new())).unwrap()).await;
        assert_eq!(reply.status, if port == Port::Grpc { StatusCode::OK } else { StatusCode::UNAUTHORIZED });
        eventually("the connection is closed", || sender.is_closed()).await;
        service.stop().await;
    }
    let service = Service::behind(&guests.access, Port::Http, small()).await;
    let request = STRANGER.replace("200000", "3").into_bytes();
    let answered = tokio::time::timeout(Duration::from_secs(20), exchange(service.connect().await, request));
    let reply = answered.await.expect("the end of the connection");
    assert_eq!((reply.status, reply.header("connection")), (401, Some("close")));
    service.stop().await;
}

#[tokio::test]
async fn grpc_is_told_unauthenticated_in_its_own_way() {
    let guests = Guests::new();
    let service = Service::behind(&guests.access, Port::Grpc, small()).await;
    let path = "http://x/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let send = async |request| send_h2(&mut service.connect_h2().await, request).await;
    let request = |content_type: &str, token: Option<&Token>| {
        let mut request = Request::post(path).header("content-type", content_type);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {}", token.reveal()));
        }
        request.body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]))).unwrap()
    };
    for (token, code) in [(None, "16"), (Some(&guests.old), "16"), (Some(&guests.read), "7")] {
        let reply = send(request("application/grpc", token)).await;
        assert_eq!((reply.status, reply.headers["grpc-status"].to_str().unwrap()), (StatusCode::OK, code));
        assert!(reply.headers.contains_key("grpc-status-details-bin"));
    }
    let reply = send(request("text/plain", None)).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    let reply = send(request("application/grpc", Some(&guests.send))).await;
    assert_eq!(reply.trailers["grpc-status"], "0");
    assert_eq!(service.count(Protocol::Grpc, Outcome::Denied), 4);
    service.stop().await;
}

#[tokio::test]
async fn a_changed_token_file_counts_at_once_and_a_broken_one_changes_nothing() {
    let guests = Guests::new();
    let service = Service::behind(&guests.access, Port::Http, small()).await;
    let status = async |token: &Token| {
        let head = "POST /v1/logs HTTP/1.1\r\ncontent-type: application/x-protobuf\r\nauthorization: Bearer";
        service.send(&format!("{head} {}", token.reveal()), b"").await.status
    };
    let new = Token::generate().unwrap();
    assert_eq!((status(&guests.send).await, status(&new).await), (200, 401));
    guests.files.put("tokens", "nonsense");
    let error = guests.access.reload(Duration::ZERO).pop().unwrap().outcome.unwrap_err().to_string();
    assert!(error.contains("receive.tokens_file") && error.contains("tokens: line 1"), "{error}");
    assert_eq!((status(&guests.send).await, status(&new).await), (200, 401));
    assert!(guests.access.reloads()[0].is_stale);
    guests.files.put("tokens", &new.line("collector", TokenUse::Send, None));
    assert!(guests.access.reload(Duration::ZERO).pop().unwrap().outcome.is_ok());
    assert_eq!((status(&guests.send).await, status(&new).await), (401, 200));
    let list = guests.access.token_list();
    assert_eq!((list[1].name.to_string(), list[1].requests), ("collector".to_owned(), 3));
    // The last token is revoked by removing its line.
    guests.files.put("tokens", "# nobody\n");
    assert!(guests.access.reload(Duration::ZERO).pop().unwrap().outcome.is_ok());
    assert_eq!((status(&new).await, guests.access.refuses_all()), (401, true));
    assert!(guests.files.refused(guests.files.tokens()).contains("lists no token"), "not at a start");
    service.stop().await;
}

#[tokio::test]
async fn of_the_admin_port_only_health_is_open_and_a_browser_may_send_the_token_as_a_password() {
    let guests = Guests::new();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let router = axum::Router::new()
        .route("/healthz", axum::routing::get(async || "ok\n"))
        .route("/metrics", axum::routing::get(async || "numbers\n"));
    let guarded = guests.access.guard(socket, Port::Admin);
    tokio::spawn(pages::serve(guarded, router, &["/healthz"], small(), pending()));
    let get = async |path: &str, authorization: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close{authorization}\r\n\r\n");
        exchange(TcpStream::connect(address).await.unwrap(), request.into_bytes()).await
    };
    let health = get("/healthz", "").await;
    assert_eq!((health.status, &health.body[..]), (200, &b"ok\n"[..]));
    for path in ["/metrics", "/healthz/", "/unknown", "//healthz"] {
        let reply = get(path, "").await;
        assert_eq!(reply.status, 401, "{path}");
        assert!(reply.head.contains("www-authenticate: bearer realm"), "{}", reply.head);
        assert!(reply.head.contains("www-authenticate: basic realm"), "{}", reply.head);
    }
    let bearer = |token: &Token| format!("\r\nauthorization: Bearer {}", token.reveal());
    let basic =
        format!("\r\nauthorization: Basic {}", STANDARD.encode(format!("me:{}", guests.read.reveal())));
    for good in [bearer(&guests.read), basic, bearer(guests.access.local_token().unwrap())] {
        let reply = get("/metrics", &good).await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"numbers\n"[..]));
    }
    assert_eq!(get("/metrics", &bearer(&guests.send)).await.status, 403);
    assert_eq!(guests.access.denials(Port::Admin, Denial::WrongUse), 1);
}
