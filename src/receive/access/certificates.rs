//! Certificates and private keys: from PEM files to what a TLS handshake needs.
//!
//! Owns: which versions and protocols of TLS are spoken, and what the files must hold. Does not own: reading the files
//! (`files`), handshakes (`connection`).

use std::fmt::Write as _;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, RootCertStore};
use sha2::{Digest as _, Sha256};

use super::validity::not_after;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// What the ports answer handshakes with. TLS 1.2 and 1.3, with the cipher suites that rustls holds safe.
#[derive(Debug, Clone)]
pub(super) struct ServerConfigs {
    /// HTTP/2 alone.
    pub(super) grpc: Arc<ServerConfig>,
    /// HTTP/2 and HTTP/1.1.
    pub(super) http: Arc<ServerConfig>,
    /// As `http`, and never asks for a client's certificate: orchestrators, which probe health here, have none.
    pub(super) admin: Arc<ServerConfig>,
    /// SHA-256 of the server's own certificate, in hex.
    pub(super) fingerprint: Arc<str>,
    /// When that certificate ends.
    pub(super) expires: Option<jiff::Timestamp>,
}

/// Why PEM files are not usable; never their content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CertificateProblem {
    /// Of `tls.cert`.
    Certificate(&'static str),
    /// Of `tls.key`.
    Key(&'static str),
    /// Of `tls.client_ca`.
    ClientCa(&'static str),
}

/// The provider of all cryptography in TLS.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// SHA-256 of a certificate, in hex.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(certificate) {
        // Writing to a String cannot fail.
        write!(hex, "{byte:02x}").ok();
    }
    hex
}

impl ServerConfigs {
    /// From the text of a certificate chain, its key, and the authorities that clients' certificates must come from.
    pub(super) fn new(
        certificate: &[u8],
        key: &[u8],
        client_ca: Option<&[u8]>,
    ) -> Result<Self, CertificateProblem> {
        use CertificateProblem::{Certificate, ClientCa, Key};
        let chain = certificates(certificate)
            .ok_or(Certificate("it holds no PEM certificate, or a broken one; put the whole chain into it, the server's own first"))?;
        let own = chain.first().ok_or(Certificate("it holds no PEM certificate"))?;
        let (fingerprint, expires) = (fingerprint(own).into(), not_after(own));
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            Key("it holds no PEM private key that can be read; PKCS#8, PKCS#1 and SEC1 are known, without a passphrase")
        })?;
        let provider = provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                Key("it is not the key of the certificate in receive.tls.cert")
            }
            rustls::Error::InvalidCertificate(_) => {
                Certificate("its first certificate cannot be read; put the server's own first")
            }
            _ => Key("a key of this kind cannot be used; make one of ECDSA (P-256, P-384), Ed25519 or RSA"),
        })?;
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let roots = client_ca.map(roots).transpose().map_err(ClientCa)?.map(Arc::new);
        let config = |roots: Option<&Arc<RootCertStore>>, protocols: &[&[u8]]| {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|_| Certificate("TLS 1.2 and 1.3 are not to be had from this build"))?;
            let builder = match roots {
                None => builder.with_no_client_auth(),
                Some(roots) => {
                    let verifier =
                        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider));
                    let verifier = verifier
                        .build()
                        .map_err(|_| ClientCa("no certificate in it can vouch for a client's"))?;
                    builder.with_client_cert_verifier(verifier)
                }
            };
            let mut config = builder.with_cert_resolver(Arc::clone(&resolver) as _);
            if roots.is_some() {
                // A resumed session would vouch for a client whose certificate has ended, or whose authority is gone.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
            }
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            Ok(Arc::new(config))
        };
        Ok(Self {
            grpc: config(roots.as_ref(), &[HTTP2])?,
            http: config(roots.as_ref(), &[HTTP2, HTTP1])?,
            admin: config(None, &[HTTP2, HTTP1])?,
            fingerprint,
            expires,
        })
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    Some(chain).filter(|chain| !chain.is_empty())
}

fn roots(pem: &[u8]) -> Result<RootCertStore, &'static str> {
    let found = certificates(pem).ok_or("it holds no PEM certificate, or a broken one")?;
    let mut roots = RootCertStore::empty();
    for certificate in found {
        roots.add(certificate).map_err(|_| "a certificate in it cannot be read as an authority's")?;
    }
    Ok(roots)
}
