//! DuckDB: the iceberg extension reads the table's folder, or attaches a REST catalog.
//!
//! Owns: extensions, secrets, `ATTACH`. Does not own: views.

use std::fmt::Write as _;

use super::super::lake::Store;
use super::super::{Auth, Catalog, LakeTable, Script, comment};
use super::{CATALOG, in_catalog, placeholder};

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    text.push_str("INSTALL iceberg;\nLOAD iceberg;\n");
    store(script, text);
    if let Catalog::Rest { uri, warehouse, auth } = &script.lake.catalog {
        attach(script, text, uri, warehouse.as_deref(), auth);
    } else {
        comment(
            text,
            "The table is read by its folder: metadata/version-hint.text names the newest snapshot each time a query begins.",
        );
    }
    writeln!(text, "CREATE SCHEMA IF NOT EXISTS {};", script.schema).ok();
}

pub(super) fn relation(script: &Script<'_>, table: &LakeTable) -> String {
    match &script.lake.catalog {
        Catalog::Files => {
            let place = match table.store() {
                Store::Local => table.path(),
                Store::S3 | Store::Gcs => &table.location,
            };
            format!("iceberg_scan({})", script.engine.text(place))
        }
        Catalog::Rest { .. } => in_catalog(script, table),
    }
}

/// Credentials for the bucket.
fn store(script: &Script<'_>, text: &mut String) {
    let (engine, storage) = (script.engine, &script.lake.storage);
    let bucket = script.lake.events.bucket().0;
    match script.lake.events.store() {
        Store::Local => {}
        Store::S3 => {
            comment(
                text,
                "Credentials as the AWS command line finds them. With keys: leave PROVIDER out, add KEY_ID and SECRET.",
            );
            text.push_str("INSTALL httpfs;\nLOAD httpfs;\nINSTALL aws;\nLOAD aws;\n");
            let mut options = vec!["TYPE s3".to_owned(), "PROVIDER credential_chain".to_owned()];
            options.extend(storage.region.as_ref().map(|region| format!("REGION {}", engine.text(region))));
            if let Some(endpoint) = &storage.endpoint {
                let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host);
                options.push(format!("ENDPOINT {}", engine.text(host.trim_end_matches('/'))));
                if endpoint.starts_with("http://") {
                    options.push("USE_SSL false".to_owned());
                }
            }
            if storage.path_style {
                options.push("URL_STYLE 'path'".to_owned());
            }
            options.push(format!("SCOPE {}", engine.text(&format!("s3://{bucket}"))));
            writeln!(text, "CREATE OR REPLACE SECRET esker_store ({});", options.join(", ")).ok();
        }
        Store::Gcs => {
            comment(
                text,
                "An HMAC key of a service account that may read the bucket (Cloud Storage, Settings, Interoperability).",
            );
            text.push_str("INSTALL httpfs;\nLOAD httpfs;\n");
            writeln!(
                text,
                "CREATE OR REPLACE SECRET esker_store (TYPE gcs, KEY_ID {}, SECRET {}, SCOPE {});",
                engine.text(&placeholder("HMAC key id")),
                engine.text(&placeholder("HMAC secret")),
                engine.text(&format!("gs://{bucket}")),
            )
            .ok();
        }
    }
}

fn attach(script: &Script<'_>, text: &mut String, uri: &str, warehouse: Option<&str>, auth: &Auth) {
    let engine = script.engine;
    let mut secret = Vec::new();
    let mut options = vec!["TYPE iceberg".to_owned()];
    match auth {
        Auth::None => {
            options.push(format!("ENDPOINT {}", engine.text(uri)));
            options.push("AUTHORIZATION_TYPE 'none'".to_owned());
        }
        Auth::Bearer | Auth::Google => {
            if *auth == Auth::Google {
                comment(
                    text,
                    "The token ends after an hour: `gcloud auth print-access-token` makes another.",
                );
            }
            secret.push(format!("TOKEN {}", engine.text(&placeholder("catalog token"))));
            options.push(format!("ENDPOINT {}", engine.text(uri)));
        }
        Auth::OAuth2 { server_uri, scope } => {
            secret.push(format!("CLIENT_ID {}", engine.text(&placeholder("client id"))));
            secret.push(format!("CLIENT_SECRET {}", engine.text(&placeholder("client secret"))));
            let tokens = format!("{}/v1/oauth/tokens", uri.trim_end_matches('/'));
            secret
                .push(format!("OAUTH2_SERVER_URI {}", engine.text(server_uri.as_deref().unwrap_or(&tokens))));
            secret.extend(scope.as_ref().map(|scope| format!("OAUTH2_SCOPE {}", engine.text(scope))));
            options.push(format!("ENDPOINT {}", engine.text(uri)));
        }
        Auth::SigV4 { service, .. } => {
            comment(text, "Requests are signed with the credentials of the secret above.");
            options
                .push(format!("ENDPOINT_TYPE {}", if service == "s3tables" { "s3_tables" } else { "glue" }));
        }
    }
    if !secret.is_empty() {
        writeln!(text, "CREATE OR REPLACE SECRET esker_catalog (TYPE iceberg, {});", secret.join(", ")).ok();
        options.push("SECRET esker_catalog".to_owned());
    }
    let warehouse = warehouse.unwrap_or_default();
    writeln!(text, "ATTACH IF NOT EXISTS {} AS {CATALOG} ({});", engine.text(warehouse), options.join(", "))
        .ok();
}
