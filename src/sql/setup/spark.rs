//! Spark: a catalog of its Iceberg runtime.
//!
//! Owns: the `SET` statements. Does not own: views, which go to the session's own catalog: a Hadoop catalog has none.

use std::fmt::Write as _;

use super::super::lake::Store;
use super::super::{Auth, Catalog, Script, comment};
use super::{CATALOG, placeholder};

/// Which runtime the set-up was tried with.
const RUNTIME: &str = "org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.2";

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    let lake = script.lake;
    comment(
        text,
        &format!(
            "Start Spark with Iceberg's runtime, for example: spark-sql --packages {RUNTIME}{}. The settings may stand in \
             spark-defaults.conf as well.",
            match lake.events.store() {
                Store::Local => "",
                Store::S3 => ",org.apache.iceberg:iceberg-aws-bundle:1.10.2",
                Store::Gcs => ",org.apache.iceberg:iceberg-gcp-bundle:1.10.2",
            }
        ),
    );
    let mut set = |key: &str, value: &str| {
        let dot = if key.is_empty() { "" } else { "." };
        // Without the quotes a key may hold no hyphen and a value no semicolon.
        writeln!(text, "SET `spark.sql.catalog.{CATALOG}{dot}{key}`=`{value}`;").ok();
    };
    set("", "org.apache.iceberg.spark.SparkCatalog");
    match &lake.catalog {
        Catalog::Files => {
            set("type", "hadoop");
            set("warehouse", &hadoop_location(lake.events.warehouse()));
        }
        Catalog::Rest { uri, warehouse, auth } => {
            set("type", "rest");
            set("uri", uri);
            if let Some(warehouse) = warehouse {
                set("warehouse", warehouse);
            }
            authentication(&mut set, auth);
            io(script, &mut set);
        }
    }
    // Another process writes: what was read a moment ago is not what is there.
    set("cache-enabled", "false");
    if lake.catalog == Catalog::Files {
        hadoop_note(script, text);
    }
    writeln!(text, "CREATE SCHEMA IF NOT EXISTS spark_catalog.{};", script.schema).ok();
}

fn authentication(set: &mut impl FnMut(&str, &str), auth: &Auth) {
    match auth {
        Auth::None => {}
        Auth::Bearer => set("token", &placeholder("catalog token")),
        Auth::OAuth2 { server_uri, scope } => {
            set("credential", &format!("{}:{}", placeholder("client id"), placeholder("client secret")));
            if let Some(server) = server_uri {
                set("oauth2-server-uri", server);
            }
            if let Some(scope) = scope {
                set("scope", scope);
            }
        }
        Auth::SigV4 { service, region } => {
            set("rest.sigv4-enabled", "true");
            set("rest.signing-name", service);
            if let Some(region) = region {
                set("rest.signing-region", region);
            }
        }
        Auth::Google => set("rest.auth.type", "google"),
    }
}

/// How files are read where the catalog does not bring it.
fn io(script: &Script<'_>, set: &mut impl FnMut(&str, &str)) {
    let storage = &script.lake.storage;
    match script.lake.events.store() {
        Store::Local => {}
        Store::S3 => {
            set("io-impl", "org.apache.iceberg.aws.s3.S3FileIO");
            if let Some(endpoint) = &storage.endpoint {
                set("s3.endpoint", endpoint);
            }
            if let Some(region) = &storage.region {
                set("client.region", region);
            }
            if storage.path_style {
                set("s3.path-style-access", "true");
            }
        }
        Store::Gcs => set("io-impl", "org.apache.iceberg.gcp.gcs.GCSFileIO"),
    }
}

/// Hadoop's file systems have names of their own.
fn hadoop_location(warehouse: &str) -> String {
    warehouse.strip_prefix("s3://").map_or_else(|| warehouse.to_owned(), |rest| format!("s3a://{rest}"))
}

fn hadoop_note(script: &Script<'_>, text: &mut String) {
    match script.lake.events.store() {
        Store::Local => {}
        Store::S3 => comment(
            text,
            "The folder is read by Hadoop's S3A file system: add --packages org.apache.hadoop:hadoop-aws of your Spark's Hadoop version, and \
             spark.hadoop.fs.s3.impl=org.apache.hadoop.fs.s3a.S3AFileSystem, since the table's own files are named s3://.",
        ),
        Store::Gcs => comment(
            text,
            "The folder is read by Google's Hadoop connector: add com.google.cloud.bigdataoss:gcs-connector.",
        ),
    }
}
