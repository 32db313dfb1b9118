//! HTTP clients of Esker's own ports, for commands: what they trust, and who they say they are.
//!
//! Owns: pinning the certificate of the process that serves from this data directory, credentials for another server. Does
//! not own: what is asked.
//!
//! The process on this machine is known by the file that it leaves in its data directory, where its certificate's
//! fingerprint and a token for this run are. So commands need no configuration, and a certificate for another name is no
//! hindrance when it is asked as 127.0.0.1.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use zeroize::Zeroizing;

use super::status::RunFile;
use crate::receive::access;

/// What a command may need to send to a server.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// A file that holds a token.
    pub token_file: Option<PathBuf>,
    /// The authority of the server's certificate, instead of the system's.
    pub ca: Option<PathBuf>,
    /// This side's certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// A client, and the token that it sends.
pub(super) struct Client {
    http: reqwest::Client,
    token: Option<Zeroizing<String>>,
}

impl Client {
    /// For the process that left `run`.
    pub(super) fn local(run: &RunFile, credentials: &Credentials, timeout: Duration) -> anyhow::Result<Self> {
        let mut builder = builder(timeout);
        if let Some(fingerprint) = &run.fingerprint {
            builder = builder.use_preconfigured_tls(pinned(fingerprint, credentials)?);
        }
        let token = match &credentials.token_file {
            Some(file) => Some(token(file)?),
            None => run.token.clone().map(Zeroizing::new),
        };
        Ok(Self { http: builder.build()?, token })
    }

    /// For any server.
    pub(super) fn remote(
        endpoint: &str,
        credentials: &Credentials,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        if credentials.token_file.is_some() && !keeps_secrets(endpoint) {
            bail!(
                "{endpoint} would carry the token of --token-file unencrypted to another machine; use https"
            );
        }
        let mut builder = builder(timeout);
        if let Some(file) = &credentials.ca {
            let pem = std::fs::read(file).with_context(|| format!("--ca {}", file.display()))?;
            let found = reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|found| !found.is_empty());
            let Some(found) = found else { bail!("--ca {} holds no PEM certificate", file.display()) };
            builder = builder.tls_built_in_root_certs(false);
            for certificate in found {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some((certificate, key)) = pair(credentials)? {
            let both = Zeroizing::new([&certificate[..], b"\n", &key[..]].concat());
            let identity = reqwest::Identity::from_pem(&both).map_err(|_| {
                anyhow::anyhow!("--client-cert and --client-key are no PEM certificate and key")
            })?;
            builder = builder.identity(identity);
        }
        let token = credentials.token_file.as_deref().map(token).transpose()?;
        Ok(Self { http: builder.build()?, token })
    }

    /// A request with the token.
    pub(super) fn request(&self, method: reqwest::Method, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.as_str()),
            None => request,
        }
    }
}

fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    // A token goes to the address that was named, and nowhere else.
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(timeout)
}

/// Whether what is sent there can be read on the way by nobody.
fn keeps_secrets(endpoint: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(endpoint) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback());
    url.scheme() == "https" || is_loopback || host == "localhost"
}

fn token(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.with_context(|| format!("the token file {}", file.display()))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// The texts of a certificate and its key.
type Pair = (Vec<u8>, Zeroizing<Vec<u8>>);

fn pair(credentials: &Credentials) -> anyhow::Result<Option<Pair>> {
    let (certificate, key) = match (&credentials.certificate, &credentials.key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(None),
        _ => bail!("--client-cert and --client-key belong together; give both"),
    };
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    Ok(Some((read(certificate)?, Zeroizing::new(read(key)?))))
}

fn pinned(fingerprint: &str, credentials: &Credentials) -> anyhow::Result<ClientConfig> {
    let provider = access::provider();
    let verifier = Arc::new(Pinned { fingerprint: fingerprint.to_owned(), provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = pair(credentials)? else { return Ok(builder.with_no_client_auth()) };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate).flatten().collect();
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| anyhow::anyhow!("--client-key holds no PEM private key"))?;
    builder.with_client_auth_cert(chain, key).context("--client-cert and --client-key")
}

/// Takes one certificate, whatever name it is for and whoever signed it. Its owner still has to prove the key.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if access::fingerprint(certificate) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_another_machine_only_encrypted() {
        for safe in
            ["https://esker.example.com:4318", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost/"]
        {
            assert!(keeps_secrets(safe), "{safe}");
        }
        for open in
            ["http://esker.example.com", "http://10.0.0.7:1", "http://localhost.example.com", "esker:4318"]
        {
            assert!(!keeps_secrets(open), "{open}");
        }
        let credentials = Credentials { token_file: Some("token".into()), ..Credentials::default() };
        let refused = Client::remote("http://10.0.0.7:4318", &credentials, Duration::from_secs(1));
        assert!(refused.err().unwrap().to_string().contains("use https"));
    }
}
