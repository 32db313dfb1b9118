//! Who may come in: TLS and bearer tokens of the three ports, read from files that may change while the process runs.
//!
//! Owns: what is in force, replacing it by what the files say now, and judging a request's head. Does not own: handshakes
//! (`connection`), answers (`reply`), when the files are read again (`app`).
//!
//! What the configuration names holds on all ports: the same certificate and token file on each. Of the admin port, the
//! paths that tell nothing but health stay open, since orchestrators cannot carry tokens.

mod certificates;
mod files;
mod handshake;
pub mod tokens;
mod validity;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::server::ServerConfig;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

pub use self::certificates::{fingerprint, provider};
pub use self::files::{AccessError, AccessFiles, TlsFiles};
pub use self::handshake::HandshakeFailure;
pub(super) use self::handshake::{Channel, handshake};
pub use self::tokens::Denial;

use self::certificates::{CertificateProblem, ServerConfigs};
use self::files::Privacy;
use self::tokens::{Token, TokenInfo, TokenUse, Tokens};
use super::reply::Refusal;
use crate::clock::Clock;

/// How often refused requests, and failed handshakes, are logged; the metrics count them all.
const LOG_INTERVAL_MICROS: i64 = 60_000_000;

/// One of the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP.
    Http,
    /// Health, metrics, status.
    Admin,
}

impl Port {
    /// Every port.
    pub const ALL: [Self; 3] = [Self::Grpc, Self::Http, Self::Admin];

    /// Its name in a metric's label and a log line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Admin => "admin",
        }
    }

    fn token_use(self) -> TokenUse {
        match self {
            Self::Grpc | Self::Http => TokenUse::Send,
            Self::Admin => TokenUse::Read,
        }
    }
}

/// What one of the two kinds of files says, as far as it could be read.
struct InForce<T> {
    value: RwLock<Arc<T>>,
    /// Digest of the files' content at the last attempt, so that what did not change is not tried again.
    tried: Mutex<[u8; 32]>,
    reloads: AtomicU64,
    failures: AtomicU64,
    /// Whether the files hold something else than what is in force, because it is broken.
    is_stale: AtomicBool,
}

/// How the reloads of one kind of files went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadCount {
    /// `tls` or `tokens`.
    pub what: &'static str,
    /// Changes that are in force.
    pub reloads: u64,
    /// Changes that could not be used.
    pub failures: u64,
    /// Whether the newest change could not be used, so that an older one is in force.
    pub is_stale: bool,
}

/// What a reload found.
#[derive(Debug)]
pub struct Reloaded {
    /// `tls` or `tokens`.
    pub what: &'static str,
    /// Whether the new content is in force; why not, where it is broken.
    pub outcome: Result<(), AccessError>,
}

/// Access to all ports, shared by them.
pub struct Access {
    files: AccessFiles,
    clock: Arc<dyn Clock>,
    tls: Option<InForce<ServerConfigs>>,
    tokens: Option<InForce<Tokens>>,
    /// For commands on this machine; never in a file of tokens.
    local: Option<(Token, Tokens)>,
    stats: AccessStats,
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Access").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// [`AccessError`], which names the key, the file and the fix.
    pub fn load(files: AccessFiles, clock: Arc<dyn Clock>) -> Result<Arc<Self>, AccessError> {
        let tls = files.tls.as_ref().map(|files| {
            let texts = TlsTexts::read(files)?;
            Ok::<_, AccessError>(InForce::new(texts.parse(files)?, texts.digest()))
        });
        let tokens = files.tokens.as_ref().map(|path| {
            let text = files::read(TOKENS_KEY, path, Privacy::Unchanged)?;
            let tokens = parse_tokens(path, &text)?;
            if tokens.is_empty() {
                let problem = "it lists no token; make one with `esker tokens new --name NAME --add-to FILE`";
                return Err(tokens_problem(path, problem));
            }
            Ok::<_, AccessError>(InForce::new(tokens, Sha256::digest(&*text).into()))
        });
        let (tls, tokens) = (tls.transpose()?, tokens.transpose()?);
        let local = match &tokens {
            Some(_) => {
                let token = Token::generate()?;
                let tokens = Tokens::local(&token);
                Some((token, tokens))
            }
            None => None,
        };
        Ok(Arc::new(Self { files, clock, tls, tokens, local, stats: AccessStats::default() }))
    }

    /// Reads the files again and puts into force what changed and is whole. What is broken changes nothing. Connections
    /// that are open go on. Answers what changed since the last reading.
    ///
    /// A file of tokens that lists none is whole here, unlike at the start: so the last one is revoked. Files are not always replaced at one stroke. So a change counts only if it is the same after a `pause`; otherwise
    /// the next call sees how it ended. Blocks on the disk and for the pause.
    pub fn reload(&self, pause: Duration) -> Vec<Reloaded> {
        let mut found = Vec::new();
        if let (Some(in_force), Some(files)) = (&self.tls, &self.files.tls) {
            let parse = |_: &ServerConfigs, texts: TlsTexts| texts.parse(files);
            found.extend(in_force.replace("tls", pause, || TlsTexts::read(files), TlsTexts::digest, parse));
        }
        if let (Some(in_force), Some(path)) = (&self.tokens, &self.files.tokens) {
            let parse =
                |before: &Tokens, text: Zeroizing<Vec<u8>>| Ok(parse_tokens(path, &text)?.continuing(before));
            let read = || files::read(TOKENS_KEY, path, Privacy::Unchanged);
            found.extend(in_force.replace(
                "tokens",
                pause,
                read,
                |text| Sha256::digest(&**text).into(),
                parse,
            ));
        }
        found
    }

    /// A listener with this access.
    pub fn guard(self: &Arc<Self>, listener: TcpListener, port: Port) -> GuardedListener {
        GuardedListener { listener, entrance: Entrance { access: Some(Arc::clone(self)), port } }
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether requests need a token.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whether the file of tokens in force lists none, so that only commands on this machine come in.
    #[must_use]
    pub fn refuses_all(&self) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.get().is_empty())
    }

    /// SHA-256 of the certificate in force, in hex.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Arc<str>> {
        self.tls.as_ref().map(|tls| Arc::clone(&tls.get().fingerprint))
    }

    /// When the certificate in force ends, where it says so in a way that is understood.
    #[must_use]
    pub fn certificate_expires(&self) -> Option<jiff::Timestamp> {
        self.tls.as_ref().and_then(|tls| tls.get().expires)
    }

    /// The token for commands on this machine.
    #[must_use]
    pub fn local_token(&self) -> Option<&Token> {
        self.local.as_ref().map(|(token, _)| token)
    }

    /// The tokens in force, the local one first.
    #[must_use]
    pub fn token_list(&self) -> Vec<TokenInfo> {
        let local = self.local.iter().flat_map(|(_, tokens)| tokens.list());
        let listed = self.tokens.as_ref().map(InForce::get);
        local.chain(listed.iter().flat_map(|tokens| tokens.list())).collect()
    }

    /// How reloads went.
    #[must_use]
    pub fn reloads(&self) -> Vec<ReloadCount> {
        let tls = self.tls.as_ref().map(|one| one.count("tls"));
        tls.into_iter().chain(self.tokens.as_ref().map(|one| one.count("tokens"))).collect()
    }

    /// Requests that were denied.
    #[must_use]
    pub fn denials(&self, port: Port, denial: Denial) -> u64 {
        self.stats.denials.get(port as usize).and_then(|row| row.get(denial as usize)).map_or(0, read)
    }

    /// Connections that ended before they could carry a request.
    #[must_use]
    pub fn handshake_failures(&self, port: Port, failure: HandshakeFailure) -> u64 {
        self.stats.handshakes.get(port as usize).and_then(|row| row.get(failure as usize)).map_or(0, read)
    }

    fn judge(&self, headers: &HeaderMap, port: Port) -> Result<(), Denial> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let token = presented(headers, port)?;
        let now = jiff::Timestamp::from_microsecond(self.clock.now_micros()).map_err(|_| Denial::Expired)?;
        let wanted = port.token_use();
        let name = match self.local.as_ref().map(|(_, local)| local.check(&token, wanted, now)) {
            Some(Ok(name)) => Ok(Arc::clone(name)),
            _ => tokens.get().check(&token, wanted, now).cloned(),
        };
        name.map(|name| tracing::trace!(token = %name, port = port.name(), "request"))
    }

    fn deny(&self, port: Port, denial: Denial) -> Refusal {
        let row = self.stats.denials.get(port as usize);
        if let Some(counter) = row.and_then(|row| row.get(denial as usize)) {
            counter.fetch_add(1, Relaxed);
        }
        if self.stats.denials_logged.is_due(self.clock.now_micros()) {
            tracing::warn!(
                port = port.name(),
                reason = denial.name(),
                "a request without a valid token was refused; more within a minute are only counted (esker_denied)"
            );
        }
        Refusal::Denied(denial)
    }
}

/// A listener, and who may come in through it.
#[derive(Debug)]
pub struct GuardedListener {
    pub(super) listener: TcpListener,
    pub(super) entrance: Entrance,
}

impl GuardedListener {
    /// A listener that lets everybody in, in plain text. For tests and benches.
    #[must_use]
    pub fn open(listener: TcpListener) -> Self {
        Self { listener, entrance: Entrance { access: None, port: Port::Http } }
    }
}

/// One port's view of the access.
#[derive(Debug, Clone)]
pub(super) struct Entrance {
    access: Option<Arc<Access>>,
    port: Port,
}

impl Entrance {
    /// What handshakes are answered with; none where the port takes plain text. Asked for each connection, so that the
    /// next one sees a new certificate.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        let configs = self.access.as_ref()?.tls.as_ref()?.get();
        Some(Arc::clone(match self.port {
            Port::Grpc => &configs.grpc,
            Port::Http => &configs.http,
            Port::Admin => &configs.admin,
        }))
    }

    /// Judges a request by its head.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(access) = &self.access else { return Ok(()) };
        access.judge(headers, self.port).map_err(|denial| access.deny(self.port, denial))
    }

    pub(super) fn count_failure(&self, failure: HandshakeFailure) {
        let Some(access) = &self.access else { return };
        let row = access.stats.handshakes.get(self.port as usize);
        if let Some(counter) = row.and_then(|row| row.get(failure as usize)) {
            counter.fetch_add(1, Relaxed);
        }
        let (port, reason) = (self.port.name(), failure.name());
        if failure.is_worth_a_word() && access.stats.failures_logged.is_due(access.clock.now_micros()) {
            tracing::warn!(
                port,
                reason,
                "a TLS handshake failed; more within a minute are only counted (esker_tls_handshake_failures)"
            );
        } else {
            tracing::debug!(port, reason, "a TLS handshake failed");
        }
    }
}

#[derive(Debug, Default)]
struct AccessStats {
    denials: [[AtomicU64; Denial::ALL.len()]; Port::ALL.len()],
    handshakes: [[AtomicU64; HandshakeFailure::ALL.len()]; Port::ALL.len()],
    denials_logged: LogPace,
    failures_logged: LogPace,
}

/// When something was logged last.
#[derive(Debug, Default)]
struct LogPace(AtomicI64);

impl LogPace {
    /// True once in an interval.
    fn is_due(&self, now_micros: i64) -> bool {
        let seen = self.0.load(Relaxed);
        now_micros.saturating_sub(seen) >= LOG_INTERVAL_MICROS
            && self.0.compare_exchange(seen, now_micros, Relaxed, Relaxed).is_ok()
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// The token in a request's head. The admin port also takes it as a password, since a browser asks for one by itself.
fn presented(headers: &HeaderMap, port: Port) -> Result<Zeroizing<Vec<u8>>, Denial> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Denial::Missing)?.as_bytes();
    if values.next().is_some() {
        return Err(Denial::Malformed);
    }
    let mut words = value.splitn(2, |byte| *byte == b' ');
    let (scheme, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim_ascii());
    if rest.is_empty() {
        return Err(Denial::Malformed);
    }
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Ok(Zeroizing::new(rest.to_vec()));
    }
    if port == Port::Admin && scheme.eq_ignore_ascii_case(b"basic") {
        let pair = Zeroizing::new(STANDARD.decode(rest).map_err(|_| Denial::Malformed)?);
        let mut halves = pair.splitn(2, |byte| *byte == b':');
        let password = halves.nth(1).ok_or(Denial::Malformed)?;
        return Ok(Zeroizing::new(password.to_vec()));
    }
    Err(Denial::Malformed)
}

impl<T> InForce<T> {
    fn new(value: T, digest: [u8; 32]) -> Self {
        Self {
            value: RwLock::new(Arc::new(value)),
            tried: Mutex::new(digest),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_stale: false.into(),
        }
    }

    fn get(&self) -> Arc<T> {
        Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes new content over, if it is new, settled and whole.
    fn replace<C>(
        &self,
        what: &'static str,
        pause: Duration,
        read: impl Fn() -> Result<C, AccessError>,
        digest: impl Fn(&C) -> [u8; 32],
        parse: impl FnOnce(&T, C) -> Result<T, AccessError>,
    ) -> Option<Reloaded> {
        // A file that cannot be read has no digest; it counts as one content.
        let digest = |content: &Result<C, AccessError>| content.as_ref().map(&digest).unwrap_or_default();
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let first = digest(&read());
        if *tried == first {
            return None;
        }
        std::thread::sleep(pause);
        let content = read();
        if digest(&content) != first {
            return None;
        }
        *tried = first;
        let outcome = content.and_then(|content| parse(&self.get(), content));
        self.is_stale.store(outcome.is_err(), Relaxed);
        if outcome.is_ok() { &self.reloads } else { &self.failures }.fetch_add(1, Relaxed);
        let outcome = outcome.map(|value| {
            *self.value.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
        });
        Some(Reloaded { what, outcome })
    }

    fn count(&self, what: &'static str) -> ReloadCount {
        ReloadCount {
            what,
            reloads: read(&self.reloads),
            failures: read(&self.failures),
            is_stale: self.is_stale.load(Relaxed),
        }
    }
}

const TOKENS_KEY: &str = "receive.tokens_file";
const CERTIFICATE_KEY: &str = "receive.tls.cert";
const PRIVATE_KEY_KEY: &str = "receive.tls.key";
const CLIENT_CA_KEY: &str = "receive.tls.client_ca";

fn parse_tokens(path: &Path, text: &[u8]) -> Result<Tokens, AccessError> {
    let text = std::str::from_utf8(text).map_err(|_| tokens_problem(path, "it is not text"))?;
    Tokens::parse(text).map_err(|problem| tokens_problem(path, &problem.to_string()))
}

fn tokens_problem(path: &Path, problem: &str) -> AccessError {
    AccessError::Content { key: TOKENS_KEY, path: path.to_owned(), problem: problem.to_owned() }
}

/// The content of the files of TLS.
struct TlsTexts {
    certificate: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Zeroizing<Vec<u8>>>,
}

impl TlsTexts {
    fn read(files: &TlsFiles) -> Result<Self, AccessError> {
        let certificate = files::read(CERTIFICATE_KEY, &files.certificate, Privacy::Unchanged)?;
        let key = files::read(PRIVATE_KEY_KEY, &files.key, Privacy::Secret)?;
        let client_ca = files.client_ca.as_ref();
        let client_ca = client_ca.map(|path| files::read(CLIENT_CA_KEY, path, Privacy::Unchanged));
        Ok(Self { certificate, key, client_ca: client_ca.transpose()? })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten()
        {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(&**part);
        }
        digest.finalize().into()
    }

    fn parse(&self, files: &TlsFiles) -> Result<ServerConfigs, AccessError> {
        let client_ca = self.client_ca.as_ref().map(|text| text.as_slice());
        ServerConfigs::new(&self.certificate, &self.key, client_ca).map_err(|problem| {
            let (key, path, problem) = match problem {
                CertificateProblem::Certificate(problem) => (CERTIFICATE_KEY, &files.certificate, problem),
                CertificateProblem::Key(problem) => (PRIVATE_KEY_KEY, &files.key, problem),
                CertificateProblem::ClientCa(problem) => {
                    (CLIENT_CA_KEY, files.client_ca.as_ref().unwrap_or(&files.certificate), problem)
                }
            };
            AccessError::Content { key, path: path.clone(), problem: problem.to_owned() }
        })
    }
}
