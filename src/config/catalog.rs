//! The section `[catalog]`, and `catalog` of an entry of `[[tables]]`: what orders a table's commits.
//!
//! Owns: the spelling and the checks of this section. Does not own: talking to a catalog (`table`).

use serde::Deserialize;

use super::ConfigError;
use super::raw::problem;
use crate::secret::ValueReference;
use crate::table::{Auth, CatalogOptions, Endpoint, OAuth2, RestCatalogOptions};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCatalog {
    r#type: CatalogType,
    uri: Option<String>,
    warehouse: Option<String>,
    location: Option<String>,
    auth: Option<RawAuth>,
    token: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
    server: Option<String>,
    region: Option<String>,
    service: Option<String>,
    project: Option<String>,
    vended_credentials: Option<bool>,
    allow_http: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CatalogType {
    #[default]
    Files,
    Rest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawAuth {
    None,
    Bearer,
    Oauth2,
    Sigv4,
    Google,
}

impl RawAuth {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bearer => "bearer",
            Self::Oauth2 => "oauth2",
            Self::Sigv4 => "sigv4",
            Self::Google => "google",
        }
    }
}

impl RawCatalog {
    /// Checks every key on its own and against the kind of catalog and of proof.
    pub(super) fn validate(self, section: &'static str) -> Result<CatalogOptions, ConfigError> {
        let key = |name: &str| format!("{section}.{name}");
        if self.r#type == CatalogType::Files {
            return match self.set_keys().into_iter().find(|(_, is_set)| *is_set) {
                None => Ok(CatalogOptions::Files),
                Some((name, _)) => Err(problem(
                    &key(name),
                    "the files catalog has no such key; remove it, or set type = \"rest\"",
                )),
            };
        }
        let auth = self.auth(section)?;
        let uri = self.uri.ok_or_else(|| {
            problem(
                &key("uri"),
                "is missing; a rest catalog needs its address, for example https://catalog.example.com",
            )
        })?;
        let allow_http = self.allow_http.unwrap_or_default();
        let is_secret = auth != Auth::None;
        let uri = address(&key("uri"), uri, is_secret && !allow_http)?;
        // Who copies the address of a request has the version in it.
        let uri = uri.strip_suffix("/v1").unwrap_or(&uri).to_owned();
        let auth = match auth {
            Auth::OAuth2(OAuth2 { client_id, client_secret, scope, server: Some(server) }) => {
                let server = Some(address(&key("server"), server, !allow_http)?);
                Auth::OAuth2(OAuth2 { client_id, client_secret, scope, server })
            }
            other => other,
        };
        let location = self.location.map(|location| location.trim_end_matches('/').to_owned());
        if location.as_deref().is_some_and(|location| !location.contains(":/")) {
            return Err(problem(
                &key("location"),
                "must be a URL, for example s3://bucket/events; leave it out where the catalog decides",
            ));
        }
        Ok(CatalogOptions::Rest(RestCatalogOptions::new(Endpoint {
            section,
            uri,
            warehouse: self.warehouse.unwrap_or_default(),
            location,
            auth,
            vended_credentials: self.vended_credentials.unwrap_or(true),
        })))
    }

    fn set_keys(&self) -> [(&'static str, bool); 14] {
        [
            ("uri", self.uri.is_some()),
            ("warehouse", self.warehouse.is_some()),
            ("location", self.location.is_some()),
            ("auth", self.auth.is_some()),
            ("token", self.token.is_some()),
            ("client_id", self.client_id.is_some()),
            ("client_secret", self.client_secret.is_some()),
            ("scope", self.scope.is_some()),
            ("server", self.server.is_some()),
            ("region", self.region.is_some()),
            ("service", self.service.is_some()),
            ("project", self.project.is_some()),
            ("vended_credentials", self.vended_credentials.is_some()),
            ("allow_http", self.allow_http.is_some()),
        ]
    }

    fn auth(&self, section: &'static str) -> Result<Auth, ConfigError> {
        let key = |name: &str| format!("{section}.{name}");
        let auth = self.auth.unwrap_or(RawAuth::None);
        let own: &[&str] = match auth {
            RawAuth::None => &[],
            RawAuth::Bearer => &["token"],
            RawAuth::Oauth2 => &["client_id", "client_secret", "scope", "server"],
            RawAuth::Sigv4 => &["region", "service"],
            RawAuth::Google => &["project"],
        };
        let of_any =
            ["token", "client_id", "client_secret", "scope", "server", "region", "service", "project"];
        for (name, is_set) in self.set_keys() {
            if is_set && of_any.contains(&name) && !own.contains(&name) {
                let text = format!(
                    "{section}.auth = \"{}\" has no such key; remove it, or change auth",
                    auth.as_str()
                );
                return Err(problem(&key(name), &text));
            }
        }
        let needed = |name: &str, value: &Option<String>| {
            let missing =
                || problem(&key(name), &format!("is missing; auth = \"{}\" needs it", auth.as_str()));
            value.clone().filter(|text| !text.is_empty()).ok_or_else(missing)
        };
        let secret = |name: &str, value: &Option<String>| {
            // The text may be the secret itself: it is not repeated.
            let wrong = || {
                problem(
                    &key(name),
                    "a secret is given by reference, file:PATH or env:NAME, never by its value",
                )
            };
            ValueReference::parse(&needed(name, value)?).ok_or_else(wrong)
        };
        Ok(match auth {
            RawAuth::None => Auth::None,
            RawAuth::Bearer => Auth::Bearer { token: secret("token", &self.token)? },
            RawAuth::Oauth2 => Auth::OAuth2(OAuth2 {
                client_id: needed("client_id", &self.client_id)?,
                client_secret: secret("client_secret", &self.client_secret)?,
                scope: self.scope.clone(),
                server: self.server.clone(),
            }),
            RawAuth::Sigv4 => {
                let service = needed("service", &self.service)?;
                if !["glue", "s3tables"].contains(&service.as_str()) {
                    return Err(problem(&key("service"), "must be glue or s3tables"));
                }
                Auth::SigV4 { region: needed("region", &self.region)?, service }
            }
            RawAuth::Google => Auth::Google { project: self.project.clone() },
        })
    }
}

/// A server's address, without a slash at its end.
fn address(key: &str, text: String, must_be_secret: bool) -> Result<String, ConfigError> {
    let wrong = |text: &str| Err(problem(key, text));
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty() && !rest.contains(['?', '#', ' '])) else {
        return wrong(
            "must be an http:// or https:// address without a query, for example https://catalog.example.com",
        );
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        // What stands there is a password; it is not repeated.
        return wrong("must not contain a user or a password; use auth");
    }
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_loopback =
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if must_be_secret && text.starts_with("http://") && !is_loopback {
        return wrong(
            "would carry the credential over the network for everyone to read; use https://, or set allow_http = true \
             where the network is trusted",
        );
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests;
