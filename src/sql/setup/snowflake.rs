//! Snowflake: an external volume, a catalog integration, one Iceberg table for each table.
//!
//! Owns: those statements. Does not own: refreshing the table when there is no shared catalog, beyond saying so.

use std::fmt::Write as _;

use super::super::lake::Store;
use super::super::{Auth, Catalog, Script, comment};
use super::{local_warning, placeholder};

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    volume(script, text);
    integration(script, text);
    writeln!(text, "\nCREATE SCHEMA IF NOT EXISTS {};", script.schema).ok();
    tables(script, text);
}

fn volume(script: &Script<'_>, text: &mut String) {
    let engine = script.engine;
    let warehouse = script.lake.events.warehouse();
    let (provider, base, role) = match script.lake.events.store() {
        Store::S3 => ("S3", warehouse.to_owned(), true),
        Store::Gcs => ("GCS", warehouse.replacen("gs://", "gcs://", 1), false),
        Store::Local => {
            local_warning(script, text);
            ("S3", format!("s3://{}", placeholder("bucket")), true)
        }
    };
    let mut parts = vec![
        "NAME = 'esker'".to_owned(),
        format!("STORAGE_PROVIDER = '{provider}'"),
        format!("STORAGE_BASE_URL = {}", engine.text(&format!("{base}/"))),
    ];
    if role {
        parts.push(format!(
            "STORAGE_AWS_ROLE_ARN = {}",
            engine.text(&placeholder("ARN of a role that may read the bucket"))
        ));
    }
    comment(
        text,
        "An account administrator runs these two once. DESC EXTERNAL VOLUME esker_volume then names the identity that must be trusted by the \
         role, or granted on the bucket.",
    );
    writeln!(
        text,
        "CREATE EXTERNAL VOLUME IF NOT EXISTS esker_volume\n  STORAGE_LOCATIONS = (({}))\n  ALLOW_WRITES = FALSE;",
        parts.join(" ")
    )
    .ok();
}

fn integration(script: &Script<'_>, text: &mut String) {
    let engine = script.engine;
    let (namespace, _) = script.lake.events.parts();
    match &script.lake.catalog {
        Catalog::Files => text.push_str(
            "CREATE CATALOG INTEGRATION IF NOT EXISTS esker_catalog\n  CATALOG_SOURCE = OBJECT_STORE\n  TABLE_FORMAT = ICEBERG\n  ENABLED = \
             TRUE;\n",
        ),
        Catalog::Rest { uri, warehouse, auth } => {
            let mut config = vec![format!("CATALOG_URI = {}", engine.text(uri))];
            if let Auth::SigV4 { service, .. } = auth {
                if service == "s3tables" {
                    comment(text, "Snowflake reaches S3 Tables through Glue: put Glue's address and the catalog's name there.");
                }
                config.push("CATALOG_API_TYPE = AWS_GLUE".to_owned());
            }
            config.extend(warehouse.as_ref().map(|warehouse| format!("CATALOG_NAME = {}", engine.text(warehouse))));
            writeln!(
                text,
                "CREATE CATALOG INTEGRATION IF NOT EXISTS esker_catalog\n  CATALOG_SOURCE = ICEBERG_REST\n  TABLE_FORMAT = ICEBERG\n  \
                 CATALOG_NAMESPACE = {}\n  REST_CONFIG = ({})\n  REST_AUTHENTICATION = ({})\n  ENABLED = TRUE\n  REFRESH_INTERVAL_SECONDS = \
                 60;",
                engine.text(namespace),
                config.join(" "),
                authentication(script, uri, auth)
            )
            .ok();
        }
    }
}

fn authentication(script: &Script<'_>, uri: &str, auth: &Auth) -> String {
    let text = |text: &str| script.engine.text(text);
    match auth {
        Auth::OAuth2 { server_uri, scope } => {
            let tokens = format!("{}/v1/oauth/tokens", uri.trim_end_matches('/'));
            format!(
                "TYPE = OAUTH OAUTH_TOKEN_URI = {} OAUTH_CLIENT_ID = {} OAUTH_CLIENT_SECRET = {} OAUTH_ALLOWED_SCOPES = ({})",
                text(server_uri.as_deref().unwrap_or(&tokens)),
                text(&placeholder("client id")),
                text(&placeholder("client secret")),
                text(scope.as_deref().unwrap_or("PRINCIPAL_ROLE:ALL")),
            )
        }
        Auth::SigV4 { region, .. } => {
            let region = region.as_ref().map(|region| format!(" SIGV4_SIGNING_REGION = {}", text(region)));
            let role = text(&placeholder("ARN of a role that may read the catalog"));
            format!("TYPE = SIGV4 SIGV4_IAM_ROLE = {role}{}", region.unwrap_or_default())
        }
        Auth::None | Auth::Bearer | Auth::Google => {
            format!("TYPE = BEARER BEARER_TOKEN = {}", text(&placeholder("catalog token")))
        }
    }
}

fn tables(script: &Script<'_>, text: &mut String) {
    let engine = script.engine;
    let by_file = script.lake.catalog == Catalog::Files;
    if by_file {
        comment(
            text,
            "Without a shared catalog a table stands at one metadata file until it is told of another: ALTER ICEBERG TABLE ... REFRESH \
             'metadata file'. Esker tells the newest in metadata/version-hint.text, and `esker status` shows it.",
        );
    }
    for table in script.lake.tables() {
        let (namespace, name) = table.parts();
        let full = script.view(&table.name.replace('.', "_"));
        let source = if by_file {
            let path = format!("{namespace}/{name}/{}", table.metadata_file());
            format!("METADATA_FILE_PATH = {}", engine.text(&path))
        } else {
            format!("CATALOG_TABLE_NAME = {}\n  AUTO_REFRESH = TRUE", engine.text(name))
        };
        writeln!(
            text,
            "CREATE ICEBERG TABLE IF NOT EXISTS {full}\n  EXTERNAL_VOLUME = 'esker_volume'\n  CATALOG = 'esker_catalog'\n  {source};"
        )
        .ok();
    }
}
