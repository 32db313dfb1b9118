//! The TLS handshake of one connection, or none.
//!
//! Owns: its end within a deadline, and why it failed. Does not own: the deadline (`Limits`), certificates.
//!
//! What rustls buffers of a connection is bounded by rustls: 64 KiB of a handshake, one record of 16 KiB after it, 64 KiB to
//! be sent. So `connections_max` bounds that memory too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::server::ServerConfig;
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It did not end in time.
    Slow,
    /// What was sent is no TLS: mostly plain HTTP.
    NotTls,
    /// The client did not accept the server's certificate, or gave up for another reason of its own.
    RefusedByClient,
    /// The client's certificate is missing, or none of the authorities vouches for it.
    ClientCertificate,
    /// There is no version, cipher suite or protocol that both know.
    Incompatible,
    /// The connection broke.
    Broken,
}

impl HandshakeFailure {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Slow,
        Self::NotTls,
        Self::RefusedByClient,
        Self::ClientCertificate,
        Self::Incompatible,
        Self::Broken,
    ];

    /// Its name in a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::NotTls => "not_tls",
            Self::RefusedByClient => "refused_by_client",
            Self::ClientCertificate => "client_certificate",
            Self::Incompatible => "incompatible",
            Self::Broken => "broken",
        }
    }

    /// Whether an operator should hear of it: what breaks off is mostly a health check that opens a connection and leaves.
    pub(super) fn is_worth_a_word(self) -> bool {
        self != Self::Broken
    }

    fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return Self::Broken;
        };
        match error {
            Error::InvalidMessage(_) => Self::NotTls,
            Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
                Self::Incompatible
            }
            Error::AlertReceived(_) => Self::RefusedByClient,
            Error::NoCertificatesPresented | Error::InvalidCertificate(_) => Self::ClientCertificate,
            _ => Self::Incompatible,
        }
    }
}

/// Does the server's half of the handshake, if there is to be one.
pub(in crate::receive) async fn handshake(
    stream: TcpStream,
    config: Option<Arc<ServerConfig>>,
    deadline: Instant,
) -> Result<Channel, HandshakeFailure> {
    let Some(config) = config else { return Ok(Channel::Plain(stream)) };
    match timeout_at(deadline, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => Ok(Channel::Tls(Box::new(stream))),
        Ok(Err(error)) => Err(HandshakeFailure::of(&error)),
        Err(_) => Err(HandshakeFailure::Slow),
    }
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub(in crate::receive) enum Channel {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Channel {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
