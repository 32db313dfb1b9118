//! BigQuery: a connection that may read the bucket, and one external Iceberg table for each table.
//!
//! Owns: those statements. Does not own: pointing the table at newer metadata, beyond saying so.

use std::fmt::Write as _;

use super::super::lake::Store;
use super::super::{Auth, Catalog, Script, comment};
use super::{local_warning, placeholder};

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    let engine = script.engine;
    let events = &script.lake.events;
    let location = match events.store() {
        Store::Gcs => placeholder("the bucket's location, such as europe-west1"),
        Store::S3 => {
            format!("aws-{}", script.lake.storage.region.clone().unwrap_or_else(|| placeholder("region")))
        }
        Store::Local => {
            local_warning(script, text);
            placeholder("the bucket's location")
        }
    };
    comment(
        text,
        "Make a connection once (bq mk --connection --connection_type=CLOUD_RESOURCE, or of type AWS for a bucket in S3), and let its \
         service account or role read the bucket. Dataset, connection and bucket have one location.",
    );
    writeln!(
        text,
        "CREATE SCHEMA IF NOT EXISTS {}\nOPTIONS (location = {});",
        script.schema,
        engine.text(&location)
    )
    .ok();
    if matches!(&script.lake.catalog, Catalog::Rest { auth: Auth::Google, .. }) {
        comment(
            text,
            "BigQuery reads tables of the BigLake catalog under project.catalog.namespace.table as well, and always as they are now.",
        );
    }
    comment(
        text,
        "The table stands at one metadata file until it is made again with a newer one. Esker tells the newest in \
         metadata/version-hint.text, and `esker status` shows it.",
    );
    for table in script.lake.tables() {
        let root = match table.store() {
            Store::Local => {
                let (namespace, name) = table.parts();
                format!("gs://{}/{namespace}/{name}", placeholder("bucket"))
            }
            Store::S3 | Store::Gcs => table.location.clone(),
        };
        writeln!(
            text,
            "CREATE OR REPLACE EXTERNAL TABLE {}\nWITH CONNECTION {}\nOPTIONS (format = 'ICEBERG', uris = [{}]);",
            script.view(&table.name.replace('.', "_")),
            engine.ident(&format!("{}.{}", placeholder("location"), placeholder("connection"))),
            engine.text(&format!("{root}/{}", table.metadata_file()))
        )
        .ok();
    }
}
