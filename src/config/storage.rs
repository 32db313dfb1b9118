//! The section `[storage]`: how a warehouse in a bucket is reached, in Iceberg's property names, and what the environment says
//! of it where the section does not.
//!
//! Owns: the keys, the variables, and their checks. Does not own: what a store makes of them (`table`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::ConfigError;
use super::raw::problem;
use crate::secret::{self, ValueReference};
use crate::table::{
    AssumeRole, GcsCredentials, GcsOptions, KeyId, S3Credentials, S3Encryption, S3Options, StorageOptions,
};

/// Every key.
const KEYS: [&str; 19] = [
    "client.assume-role.arn",
    "client.assume-role.external-id",
    "client.assume-role.session-name",
    "gcs.credentials-file",
    "gcs.credentials-json",
    "gcs.oauth2.token",
    "gcs.service.path",
    "gcs.user-project",
    "s3.access-key-id",
    "s3.endpoint",
    "s3.path-style-access",
    "s3.region",
    "s3.requester-pays",
    "s3.secret-access-key",
    "s3.session-token",
    "s3.sse.bucket-key-enabled",
    "s3.sse.key",
    "s3.sse.type",
    "s3.sts.endpoint",
];

/// The environment, so that tests decide what it says.
type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The process's own.
pub(super) fn environment(name: &str) -> Option<String> {
    let value = secret::environment(name).ok().map(|value| value.to_string());
    value.filter(|value| !value.is_empty())
}

/// Checks the section. `warehouses` are the locations that are in use: a key that none of them needs is a mistake. `anywhere`
/// where a catalog decides where tables lie: then each key may be needed.
pub(super) fn validate(
    section: Map<String, Value>,
    warehouses: &[&str],
    anywhere: bool,
    environment: Environment<'_>,
) -> Result<StorageOptions, ConfigError> {
    let mut keys = Keys(BTreeMap::new());
    flatten("", Value::Object(section), &mut keys.0)?;
    let uses = |scheme: &str| warehouses.iter().any(|one| one.starts_with(scheme));
    if let Some(key) = keys.0.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let known = KEYS.join(", ");
        return Err(problem(&format!("storage.{key}"), &format!("is not known; the keys are {known}")));
    }
    let given: Vec<String> = keys.0.keys().cloned().collect();
    for key in &given {
        let (scheme, is_needed) = match key.starts_with("gcs.") {
            true => ("gs://", uses("gs://")),
            false => ("s3://", uses("s3://")),
        };
        if !is_needed && !anywhere {
            return Err(problem(
                &format!("storage.{key}"),
                &format!("no table's warehouse is at {scheme}; remove the key, or set table.warehouse"),
            ));
        }
    }
    let has = |prefix: &str| given.iter().any(|key| key.starts_with(prefix));
    Ok(StorageOptions {
        s3: if uses("s3://") || has("s3.") || has("client.") {
            s3(&mut keys, environment)?
        } else if anywhere {
            // That there are no credentials is no mistake where the catalog may give them out.
            s3(&mut keys, environment).unwrap_or_default()
        } else {
            S3Options::default()
        },
        gcs: if uses("gs://") || anywhere { gcs(&mut keys, environment)? } else { GcsOptions::default() },
    })
}

/// Tables within tables to dotted keys: `s3.endpoint = "x"` is a table in TOML, and a key to whoever writes it. In a variable's
/// name `_` stands for `-`.
fn flatten(prefix: &str, value: Value, keys: &mut BTreeMap<String, String>) -> Result<(), ConfigError> {
    let text = match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = name.replace('_', "-");
                let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                flatten(&key, value, keys)?;
            }
            return Ok(());
        }
        Value::String(text) => text,
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Array(_) => {
            return Err(problem(&format!("storage.{prefix}"), "must be a text, a number, or true or false"));
        }
    };
    keys.insert(prefix.to_owned(), text);
    Ok(())
}

struct Keys(BTreeMap<String, String>);

impl Keys {
    fn text(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    fn truth(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.text(key).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(problem(&format!("storage.{key}"), "must be true or false")),
        }
    }

    fn secret(&mut self, key: &str) -> Result<Option<ValueReference>, ConfigError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        // The text may be the secret itself: it is not repeated.
        let wrong = || {
            problem(
                &format!("storage.{key}"),
                "a secret is given by reference, file:PATH or env:NAME, never by its value",
            )
        };
        Ok(Some(ValueReference::parse(&text).ok_or_else(wrong)?))
    }

    fn endpoint(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(text) = self.text(key) else { return Ok(None) };
        endpoint(&format!("storage.{key}"), text).map(Some)
    }
}

fn endpoint(key: &str, text: String) -> Result<String, ConfigError> {
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match address {
        // A name or a password in an address would be logged with it.
        Some(address) if !address.is_empty() && !address.contains(['@', '?', '#', ' ']) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(problem(key, "must be http://HOST:PORT or https://HOST:PORT, without credentials")),
    }
}

fn s3(keys: &mut Keys, environment: Environment<'_>) -> Result<S3Options, ConfigError> {
    let from = |names: &[&str]| names.iter().find_map(|name| environment(name));
    let variable_endpoint = |names: &[&str]| {
        let found = names.iter().find_map(|name| Some((*name, environment(name)?)));
        found.map(|(name, text)| endpoint(name, text)).transpose()
    };
    let endpoint = match keys.endpoint("s3.endpoint")? {
        Some(endpoint) => Some(endpoint),
        None => variable_endpoint(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])?,
    };
    let region = keys.text("s3.region").or_else(|| from(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if region.as_ref().is_some_and(|region| region.is_empty() || !region.chars().all(plain)) {
        return Err(problem("storage.s3.region", "must be a region's name, for example eu-central-1"));
    }
    let sts_endpoint = match keys.endpoint("s3.sts.endpoint")? {
        Some(endpoint) => Some(endpoint),
        None => variable_endpoint(&["AWS_ENDPOINT_URL_STS"])?,
    };
    let options = S3Options {
        path_style: keys.truth("s3.path-style-access")?,
        credentials: s3_credentials(keys, environment)?,
        assume_role: assume_role(keys)?,
        sts_endpoint,
        requester_pays: keys.truth("s3.requester-pays")?.unwrap_or(false),
        encryption: encryption(keys)?,
        bucket_key: keys.truth("s3.sse.bucket-key-enabled")?,
        endpoint,
        region,
    };
    let has_kms = matches!(options.encryption, Some(S3Encryption::Kms { .. } | S3Encryption::DsseKms { .. }));
    if options.bucket_key.is_some() && !has_kms {
        return Err(problem(
            "storage.s3.sse.bucket-key-enabled",
            "needs s3.sse.type = \"kms\" or \"dsse-kms\"",
        ));
    }
    Ok(options)
}

fn s3_credentials(keys: &mut Keys, environment: Environment<'_>) -> Result<S3Credentials, ConfigError> {
    let id = keys.text("s3.access-key-id").map(|text| match ValueReference::parse(&text) {
        Some(reference) => KeyId::Reference(reference),
        None => KeyId::Plain(text),
    });
    let configured = (id, keys.secret("s3.secret-access-key")?, keys.secret("s3.session-token")?);
    match configured {
        (Some(KeyId::Plain(id)), _, _)
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            return Err(problem("storage.s3.access-key-id", "must be one word"));
        }
        (Some(id), Some(secret), session_token) => {
            return Ok(S3Credentials::Keys { id, secret, session_token });
        }
        (None, None, None) => {}
        _ => {
            return Err(problem(
                "storage.s3.access-key-id",
                "s3.access-key-id and s3.secret-access-key are set together, or neither is; s3.session-token only with them",
            ));
        }
    }
    let variable = |name: &str| environment(name).map(|_| ValueReference::Environment(name.to_owned()));
    if let (Some(id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        let session_token = variable("AWS_SESSION_TOKEN");
        return Ok(S3Credentials::Keys { id: KeyId::Reference(id), secret, session_token });
    }
    if let (Some(file), Some(role_arn)) =
        (environment("AWS_WEB_IDENTITY_TOKEN_FILE"), environment("AWS_ROLE_ARN"))
    {
        let session_name = environment("AWS_ROLE_SESSION_NAME");
        return Ok(S3Credentials::WebIdentity { token_file: PathBuf::from(file), role_arn, session_name });
    }
    if let Some(relative_uri) = environment("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Ok(S3Credentials::Container { relative_uri });
    }
    if let (Some(uri), Some(file)) = (
        environment("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        environment("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ) {
        return Ok(S3Credentials::ContainerFull { uri, token_file: PathBuf::from(file) });
    }
    if environment("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(problem(
            "storage.s3.access-key-id",
            "there are no credentials: no keys are set here or in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, there is no web \
             identity and no container's role, and AWS_EC2_METADATA_DISABLED forbids to ask the machine (profiles in \
             ~/.aws are not read)",
        ));
    }
    Ok(match environment("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        Some(address) => S3Credentials::InstanceAt(endpoint("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)?),
        None => S3Credentials::Instance,
    })
}

fn assume_role(keys: &mut Keys) -> Result<Option<AssumeRole>, ConfigError> {
    let (arn, external_id, session_name) = (
        keys.text("client.assume-role.arn"),
        keys.text("client.assume-role.external-id"),
        keys.text("client.assume-role.session-name"),
    );
    match arn {
        Some(arn) if arn.starts_with("arn:") => Ok(Some(AssumeRole { arn, external_id, session_name })),
        Some(_) => Err(problem(
            "storage.client.assume-role.arn",
            "must be a role's ARN, for example arn:aws:iam::123456789012:role/esker",
        )),
        None if external_id.is_some() || session_name.is_some() => {
            Err(problem("storage.client.assume-role.arn", "the other client.assume-role keys need it"))
        }
        None => Ok(None),
    }
}

fn encryption(keys: &mut Keys) -> Result<Option<S3Encryption>, ConfigError> {
    let key = keys.text("s3.sse.key");
    let (kind, key) = match (keys.text("s3.sse.type").as_deref(), key) {
        (None | Some("none" | "s3"), Some(_)) => {
            return Err(problem("storage.s3.sse.key", "needs s3.sse.type = \"kms\" or \"dsse-kms\""));
        }
        (None | Some("none"), None) => (None, None),
        (Some("s3"), None) => (Some(S3Encryption::S3), None),
        (Some("kms"), key) => (Some(S3Encryption::Kms { key: key.clone() }), key),
        (Some("dsse-kms"), key) => (Some(S3Encryption::DsseKms { key: key.clone() }), key),
        // A key of the customer's own would have to be given to every reader, which no engine's documentation makes easy.
        (Some(_), _) => {
            return Err(problem("storage.s3.sse.type", "must be none, s3, kms or dsse-kms"));
        }
    };
    let printable = |key: &String| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    if key.as_ref().is_some_and(|key| !printable(key)) {
        return Err(problem("storage.s3.sse.key", "must be the id or the ARN of a KMS key"));
    }
    Ok(kind)
}

fn gcs(keys: &mut Keys, environment: Environment<'_>) -> Result<GcsOptions, ConfigError> {
    let endpoint = keys.endpoint("gcs.service.path")?;
    let token = keys.secret("gcs.oauth2.token")?.map(GcsCredentials::Token);
    let json = keys.secret("gcs.credentials-json")?.map(GcsCredentials::Json);
    let file = keys.text("gcs.credentials-file").map(PathBuf::from).map(GcsCredentials::File);
    let mut given = [token, json, file].into_iter().flatten();
    let credentials = given.next();
    if given.next().is_some() {
        return Err(problem(
            "storage.gcs.oauth2.token",
            "one of gcs.oauth2.token, gcs.credentials-json and gcs.credentials-file is enough; remove the others",
        ));
    }
    let ambient = || match environment("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) => GcsCredentials::File(PathBuf::from(path)),
        None => GcsCredentials::Ambient,
    };
    let user_project = keys.text("gcs.user-project");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.');
    if user_project.as_ref().is_some_and(|project| project.is_empty() || !project.chars().all(plain)) {
        return Err(problem("storage.gcs.user-project", "must be a project's id"));
    }
    Ok(GcsOptions { endpoint, credentials: credentials.unwrap_or_else(ambient), user_project })
}

#[cfg(test)]
mod tests {
    use figment::Figment;
    use figment::providers::{Format, Toml};

    use super::*;

    fn read(toml: &str, warehouse: &str, variables: &[(&str, &str)]) -> Result<StorageOptions, String> {
        let figment = Figment::new().merge(Toml::string(toml));
        let environment =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        validate(figment.extract().unwrap(), &[warehouse], false, &environment)
            .map_err(|error| error.to_string())
    }

    fn s3(toml: &str, variables: &[(&str, &str)]) -> S3Options {
        read(toml, "s3://bucket/prefix", variables).unwrap().s3
    }

    fn refused(toml: &str) -> String {
        let warehouse = if toml.contains("gcs") { "gs://bucket" } else { "s3://bucket" };
        read(toml, warehouse, &[]).unwrap_err()
    }

    fn variable(name: &str) -> ValueReference {
        ValueReference::Environment(name.to_owned())
    }

    #[test]
    fn dotted_and_quoted_keys_and_variables_say_the_same() {
        let dotted =
            "s3.endpoint = 'http://127.0.0.1:8333/'\ns3.path-style-access = true\ns3.region = 'eu-west-1'";
        let quoted = "'s3.endpoint' = 'http://127.0.0.1:8333'\n's3.path-style-access' = 'true'\n's3.region' = 'eu-west-1'";
        let variables =
            "[s3]\nendpoint = 'http://127.0.0.1:8333'\npath_style_access = true\nregion = 'eu-west-1'";
        for toml in [dotted, quoted, variables] {
            let options = s3(toml, &[]);
            assert_eq!(options.endpoint.as_deref(), Some("http://127.0.0.1:8333"), "{toml}");
            assert_eq!(
                (options.path_style, options.region.as_deref()),
                (Some(true), Some("eu-west-1")),
                "{toml}"
            );
        }
    }

    #[test]
    fn secrets_are_references_and_a_literal_is_not_repeated() {
        let toml = "s3.access-key-id = 'AKIA'\ns3.secret-access-key = 'env:KEY'\ns3.session-token = 'file:/run/token'";
        let S3Credentials::Keys { id, secret, session_token } = s3(toml, &[]).credentials else { panic!() };
        assert_eq!((id, secret), (KeyId::Plain("AKIA".to_owned()), variable("KEY")));
        assert_eq!(session_token, Some(ValueReference::File("/run/token".into())));
        for key in ["s3.secret-access-key", "s3.session-token", "gcs.oauth2.token", "gcs.credentials-json"] {
            let text = refused(&format!("{key} = 'hunter2hunter2'"));
            assert!(text.contains(key) && text.contains("env:NAME") && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn ambient_credentials_are_found_in_the_order_of_the_vendors_tools() {
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
        let identity = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")];
        let task = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")];
        let pod = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/t"),
        ];
        let all = [&keys[..], &identity, &task, &pod].concat();
        let kind = |variables: &[(&str, &str)]| s3("", variables).credentials;
        let S3Credentials::Keys { id, secret, session_token } = kind(&all) else { panic!("keys come first") };
        assert_eq!(id, KeyId::Reference(variable("AWS_ACCESS_KEY_ID")));
        assert_eq!((secret, session_token), (variable("AWS_SECRET_ACCESS_KEY"), None));
        assert!(matches!(kind(&all[2..]), S3Credentials::WebIdentity { .. }));
        assert!(matches!(kind(&all[4..]), S3Credentials::Container { .. }));
        assert!(matches!(kind(&all[5..]), S3Credentials::ContainerFull { .. }));
        assert_eq!(kind(&[]), S3Credentials::Instance);
        let disabled = read("", "s3://bucket", &[("AWS_EC2_METADATA_DISABLED", "TRUE")]).unwrap_err();
        assert!(disabled.contains("AWS_ACCESS_KEY_ID") && disabled.contains("profiles"), "{disabled}");
        let options =
            s3("", &[("AWS_ENDPOINT_URL", "https://s3.example"), ("AWS_REGION", "auto"), keys[0], keys[1]]);
        assert_eq!(options.endpoint.as_deref(), Some("https://s3.example"));
        assert_eq!(options.region.as_deref(), Some("auto"));
        let gcs = |variables: &[(&str, &str)]| read("", "gs://bucket", variables).unwrap().gcs.credentials;
        assert_eq!(gcs(&[]), GcsCredentials::Ambient);
        assert_eq!(gcs(&[("GOOGLE_APPLICATION_CREDENTIALS", "/k")]), GcsCredentials::File("/k".into()));
    }

    #[test]
    fn encryption_and_roles_are_read_whole() {
        let toml = "s3.sse.type = 'kms'\ns3.sse.key = 'arn:aws:kms:k'\ns3.sse.bucket-key-enabled = true\n\
                    client.assume-role.arn = 'arn:aws:iam::1:role/r'\nclient.assume-role.external-id = 'x'\n\
                    s3.requester-pays = true";
        let options = s3(toml, &[]);
        assert_eq!(options.encryption, Some(S3Encryption::Kms { key: Some("arn:aws:kms:k".to_owned()) }));
        assert_eq!((options.bucket_key, options.requester_pays), (Some(true), true));
        let role = options.assume_role.unwrap();
        assert_eq!((role.arn.as_str(), role.external_id.as_deref()), ("arn:aws:iam::1:role/r", Some("x")));
        assert_eq!(s3("s3.sse.type = 's3'", &[]).encryption, Some(S3Encryption::S3));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (toml, named) in [
            ("s3.endpiont = 'http://x'", "s3.endpoint"),
            ("s3.endpoint = 'x:80'", "http://HOST"),
            ("s3.endpoint = 'https://user:pass@x'", "without credentials"),
            ("s3.region = 'eu west'", "region's name"),
            ("s3.path-style-access = 'maybe'", "true or false"),
            ("s3.access-key-id = 'AKIA'", "set together"),
            ("s3.session-token = 'env:X'", "only with them"),
            ("s3.sse.type = 'custom'", "dsse-kms"),
            ("s3.sse.key = 'k'", "s3.sse.type"),
            ("s3.sse.bucket-key-enabled = true", "s3.sse.type"),
            ("client.assume-role.external-id = 'x'", "client.assume-role.arn"),
            ("client.assume-role.arn = 'role'", "ARN"),
            ("gcs.oauth2.token = 'env:T'\ngcs.credentials-file = '/k'", "one of"),
            ("gcs.user-project = ''", "project"),
            ("s3.region = ['a']", "must be a text"),
        ] {
            let text = refused(toml);
            assert!(text.contains(named) && text.starts_with("storage."), "{toml}: {text}");
            assert!(!text.contains("user:pass"), "{text}");
        }
        let text = read("s3.region = 'x'", "file://x", &[]).unwrap_err();
        assert!(text.contains("no table's warehouse is at s3://"), "{text}");
        assert!(read("gcs.user-project = 'x'", "s3://x", &[]).unwrap_err().contains("gs://"));
    }
}
