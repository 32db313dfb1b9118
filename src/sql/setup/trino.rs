//! Trino: a catalog of its Iceberg connector.
//!
//! Owns: the catalog's properties, which an administrator writes into a file, and registering a table. Does not own: views.

use std::fmt::Write as _;

use super::super::lake::Store;
use super::super::{Auth, Catalog, Script, comment};
use super::{CATALOG, placeholder};

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    comment(
        text,
        &format!(
            "An administrator writes this file on every node, etc/catalog/{CATALOG}.properties, and restarts Trino:"
        ),
    );
    for line in properties(script) {
        writeln!(text, "--   {line}").ok();
    }
    writeln!(text, "CREATE SCHEMA IF NOT EXISTS {CATALOG}.{};", script.schema).ok();
    if script.lake.catalog == Catalog::Files {
        register(script, text);
    }
}

fn properties(script: &Script<'_>) -> Vec<String> {
    let lake = script.lake;
    let mut lines = vec!["connector.name=iceberg".to_owned()];
    match &lake.catalog {
        Catalog::Files => {
            lines.push("iceberg.catalog.type=hive_metastore".to_owned());
            lines.push(format!("hive.metastore.uri=thrift://{}", placeholder("host:9083")));
            lines.push("iceberg.register-table-procedure.enabled=true".to_owned());
        }
        Catalog::Rest { uri, warehouse, auth } => {
            lines.push("iceberg.catalog.type=rest".to_owned());
            lines.push(format!("iceberg.rest-catalog.uri={uri}"));
            lines.extend(
                warehouse.as_ref().map(|warehouse| format!("iceberg.rest-catalog.warehouse={warehouse}")),
            );
            authentication(&mut lines, auth);
        }
    }
    match lake.events.store() {
        Store::Local => lines.push("fs.native-local.enabled=true".to_owned()),
        Store::S3 => {
            lines.push("fs.native-s3.enabled=true".to_owned());
            lines.extend(lake.storage.region.as_ref().map(|region| format!("s3.region={region}")));
            lines.extend(lake.storage.endpoint.as_ref().map(|endpoint| format!("s3.endpoint={endpoint}")));
            if lake.storage.path_style {
                lines.push("s3.path-style-access=true".to_owned());
            }
        }
        Store::Gcs => lines.push("fs.native-gcs.enabled=true".to_owned()),
    }
    lines
}

fn authentication(lines: &mut Vec<String>, auth: &Auth) {
    let prefix = "iceberg.rest-catalog";
    match auth {
        Auth::None => {}
        Auth::Bearer => {
            lines.push(format!("{prefix}.security=OAUTH2"));
            lines.push(format!("{prefix}.oauth2.token={}", placeholder("catalog token")));
        }
        Auth::OAuth2 { server_uri, scope } => {
            lines.push(format!("{prefix}.security=OAUTH2"));
            let credential = format!("{}:{}", placeholder("client id"), placeholder("client secret"));
            lines.push(format!("{prefix}.oauth2.credential={credential}"));
            lines.extend(server_uri.as_ref().map(|uri| format!("{prefix}.oauth2.server-uri={uri}")));
            lines.extend(scope.as_ref().map(|scope| format!("{prefix}.oauth2.scope={scope}")));
        }
        Auth::SigV4 { service, .. } => {
            lines.push(format!("{prefix}.security=SIGV4"));
            lines.push(format!("{prefix}.signing-name={service}"));
        }
        Auth::Google => lines.push(format!("{prefix}.security=GOOGLE")),
    }
}

/// Without a shared catalog a metastore must be told of the table.
fn register(script: &Script<'_>, text: &mut String) {
    comment(
        text,
        "Trino reads no folder without a metastore: a table is registered at its newest metadata file, and stands there until it is \
         registered again (CALL lake.system.unregister_table first). A REST catalog spares you this.",
    );
    let engine = script.engine;
    // All of them lie beside the first.
    writeln!(text, "CREATE SCHEMA IF NOT EXISTS {CATALOG}.{};", engine.ident(script.lake.events.parts().0))
        .ok();
    for table in script.lake.tables() {
        let (namespace, name) = table.parts();
        let mut arguments = vec![
            format!("schema_name => {}", engine.text(namespace)),
            format!("table_name => {}", engine.text(name)),
            format!("table_location => {}", engine.text(&table.location)),
        ];
        arguments.extend(table.metadata.as_ref().map(|file| {
            let file = file.rsplit('/').next().unwrap_or(file);
            format!("metadata_file_name => {}", engine.text(file))
        }));
        writeln!(text, "CALL {CATALOG}.system.register_table({});", arguments.join(", ")).ok();
    }
}
