//! ClickHouse: table functions over the table's folder, or a database over a REST catalog.
//!
//! Owns: named collections for credentials, the database. Does not own: views.

use std::fmt::Write as _;

use super::super::lake::Store;
use super::super::{Auth, Catalog, LakeTable, Script, comment};
use super::{CATALOG, placeholder};

/// The named collection with the bucket's address and credentials, so that no view holds them.
const COLLECTION: &str = "esker_store";

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    match &script.lake.catalog {
        Catalog::Files => files(script, text),
        Catalog::Rest { uri, warehouse, auth } => database(script, text, uri, warehouse.as_deref(), auth),
    }
    writeln!(text, "CREATE DATABASE IF NOT EXISTS {};", script.schema).ok();
}

pub(super) fn relation(script: &Script<'_>, table: &LakeTable) -> String {
    let engine = script.engine;
    match (&script.lake.catalog, table.store()) {
        (Catalog::Rest { .. }, _) => format!("{CATALOG}.{}", engine.ident(&table.name)),
        (Catalog::Files, Store::Local) => {
            format!("icebergLocal({})", engine.text(&format!("{}/", table.path())))
        }
        (Catalog::Files, _) => {
            let path = format!("{}/", table.bucket().1);
            format!("icebergS3({COLLECTION}, filename = {})", engine.text(&path))
        }
    }
}

fn files(script: &Script<'_>, text: &mut String) {
    let (engine, storage, events) = (script.engine, &script.lake.storage, &script.lake.events);
    let bucket = events.bucket().0;
    let url = match (events.store(), &storage.endpoint) {
        (Store::Local, _) => {
            comment(
                text,
                "The folder must lie below the server's user_files_path, and the server must be allowed to read it. A view finds the newest \
                 metadata each time a query begins.",
            );
            return;
        }
        (_, Some(endpoint)) => format!("{}/{bucket}/", endpoint.trim_end_matches('/')),
        (Store::Gcs, None) => format!("https://storage.googleapis.com/{bucket}/"),
        (Store::S3, None) => {
            let region = storage.region.clone().unwrap_or_else(|| placeholder("region"));
            format!("https://{bucket}.s3.{region}.amazonaws.com/")
        }
    };
    comment(
        text,
        "The key of someone who may read the bucket; an HMAC key for Cloud Storage. Views name the collection, not the key.",
    );
    writeln!(
        text,
        "CREATE NAMED COLLECTION IF NOT EXISTS {COLLECTION} AS\n  url = {},\n  access_key_id = {},\n  secret_access_key = {};",
        engine.text(&url),
        engine.text(&placeholder("access key id")),
        engine.text(&placeholder("secret access key")),
    )
    .ok();
}

fn database(script: &Script<'_>, text: &mut String, uri: &str, warehouse: Option<&str>, auth: &Auth) {
    let engine = script.engine;
    let mut settings = vec![("catalog_type", "rest".to_owned())];
    settings.extend(warehouse.map(|warehouse| ("warehouse", warehouse.to_owned())));
    match auth {
        Auth::None => {}
        Auth::Bearer | Auth::Google => {
            settings.push(("auth_header", format!("Authorization: Bearer {}", placeholder("catalog token"))))
        }
        Auth::OAuth2 { server_uri, scope } => {
            let credential = format!("{}:{}", placeholder("client id"), placeholder("client secret"));
            settings.push(("catalog_credential", credential));
            settings.extend(server_uri.as_ref().map(|uri| ("oauth_server_uri", uri.clone())));
            settings.push(("auth_scope", scope.clone().unwrap_or_default()));
        }
        Auth::SigV4 { service, region } => {
            settings.clear();
            settings.push(("catalog_type", if service == "glue" { "glue" } else { "rest" }.to_owned()));
            settings.push(("region", region.clone().unwrap_or_else(|| placeholder("region"))));
            settings.push(("aws_access_key_id", placeholder("access key id")));
            settings.push(("aws_secret_access_key", placeholder("secret access key")));
        }
    }
    settings
        .extend(script.lake.storage.endpoint.as_ref().map(|endpoint| ("storage_endpoint", endpoint.clone())));
    let settings: Vec<_> =
        settings.iter().map(|(key, value)| format!("{key} = {}", engine.text(value))).collect();
    comment(
        text,
        "Catalogs as databases are a preview in ClickHouse, hence the first line. Tables are named `namespace.table` in it.",
    );
    text.push_str("SET allow_experimental_database_iceberg = 1;\n");
    writeln!(
        text,
        "CREATE DATABASE IF NOT EXISTS {CATALOG}\nENGINE = DataLakeCatalog({})\nSETTINGS {};",
        engine.text(uri),
        settings.join(", ")
    )
    .ok();
}
