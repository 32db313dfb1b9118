//! Keys of `[receive]` that say who may come in: `tls`, `tokens_file`, `insecure`.
//!
//! Owns: that an address which others can reach has both TLS and tokens, unless the operator says otherwise. Does not own:
//! the files' content (`receive::access`).

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::ConfigError;
use super::raw::problem;
use crate::receive::access::{AccessFiles, TlsFiles};

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct AccessConfig {
    /// The files of certificates and tokens.
    pub files: AccessFiles,
    /// Addresses may be reachable from elsewhere without both.
    pub insecure: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
}

impl AccessConfig {
    /// Checks the keys against each other and against the addresses, each with its key.
    pub(super) fn new(
        tls: RawTls,
        tokens: Option<PathBuf>,
        insecure: bool,
        addresses: [(&str, SocketAddr); 3],
    ) -> Result<Self, ConfigError> {
        let tls = match (tls.cert, tls.key, tls.client_ca) {
            (Some(certificate), Some(key), client_ca) => Some(TlsFiles { certificate, key, client_ca }),
            (None, None, None) => None,
            (Some(_), None, _) => {
                return Err(problem("receive.tls.key", "is missing beside receive.tls.cert"));
            }
            (None, ..) => {
                return Err(problem("receive.tls.cert", "is missing beside the other keys of receive.tls"));
            }
        };
        let of_tls = tls.iter().flat_map(TlsFiles::named);
        for (key, path) in of_tls.chain(tokens.as_deref().map(|path| ("receive.tokens_file", path))) {
            if path.as_os_str().is_empty() {
                return Err(problem(key, "names no file; remove the key or name one"));
            }
        }
        let missing = match (&tls, &tokens) {
            (Some(_), Some(_)) => None,
            (Some(_), None) => Some("receive.tokens_file"),
            (None, Some(_)) => Some("receive.tls.cert and receive.tls.key"),
            (None, None) => Some("receive.tls.cert, receive.tls.key and receive.tokens_file"),
        };
        let reachable = addresses.into_iter().find(|(_, address)| !is_loopback(*address));
        if let (Some((key, address)), Some(missing), false) = (reachable, missing, insecure) {
            return Err(problem(
                key,
                &format!(
                    "{address} can be reached from other machines, which needs TLS and tokens; set {missing}, or \
                     use 127.0.0.1, or set receive.insecure = true if a mesh or a proxy in front does both \
                     (docs/security.md)"
                ),
            ));
        }
        Ok(Self { files: AccessFiles { tls, tokens }, insecure })
    }
}

/// An IPv4 address in IPv6's clothes is what it is in IPv4.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn said(receive: &str) -> String {
        match Config::from_toml(&format!("[receive]\n{receive}")) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    const TLS: &str = "tls = { cert = \"c.pem\", key = \"k.pem\" }\n";
    const TOKENS: &str = "tokens_file = \"tokens\"\n";

    #[test]
    fn an_address_that_others_reach_needs_tls_and_tokens_and_the_message_names_what_is_missing() {
        for key in ["grpc", "http", "admin"] {
            for address in
                ["0.0.0.0:4317", "10.0.0.7:4317", "[::]:4317", "[2001:db8::1]:4317", "[::ffff:10.0.0.7]:1"]
            {
                let listen = format!("{key} = \"{address}\"\n");
                let all = said(&listen);
                assert!(all.contains(&format!("receive.{key}")), "{all}");
                for part in
                    ["receive.tls.cert", "receive.tls.key", "receive.tokens_file", "receive.insecure = true"]
                {
                    assert!(all.contains(part), "{all}");
                }
                let no_tokens = said(&format!("{listen}{TLS}"));
                assert!(no_tokens.contains("set receive.tokens_file, or"), "{no_tokens}");
                let no_tls = said(&format!("{listen}{TOKENS}"));
                assert!(no_tls.contains("set receive.tls.cert and receive.tls.key, or"), "{no_tls}");
                assert_eq!(said(&format!("{listen}{TLS}{TOKENS}")), "ok");
                assert_eq!(said(&format!("{listen}insecure = true\n")), "ok");
            }
        }
    }

    #[test]
    fn loopback_needs_neither_and_may_have_either() {
        for address in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            for more in ["", TLS, TOKENS] {
                assert_eq!(said(&format!("grpc = \"{address}\"\n{more}")), "ok");
            }
        }
    }

    #[test]
    fn half_a_key_pair_is_refused() {
        assert!(said("tls = { cert = \"c\" }").contains("receive.tls.key (configuration): is missing"));
        assert!(said("tls = { key = \"k\" }").contains("receive.tls.cert (configuration): is missing"));
        assert!(said("tls = { client_ca = \"k\" }").contains("receive.tls.cert"));
        assert!(said("tls = { cert = \"c\", key = \"k\", ca = \"x\" }").contains("ca"));
        assert!(said("tokens_file = \"\"").contains("names no file"));
        for (tls, key) in [("cert = \"\", key = \"k\"", "cert"), ("cert = \"c\", key = \"\"", "key")] {
            let said = said(&format!("tls = {{ {tls} }}"));
            assert!(said.contains("names no file") && said.contains(&format!("receive.tls.{key}")), "{said}");
        }
    }
}
