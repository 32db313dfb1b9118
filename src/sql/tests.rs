//! Tests of the script as a whole, over tables in every kind of place.

use std::sync::Arc;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::privacy::{Gate, GateOptions, MappedTable};
use crate::registry::{ColumnType, Registry};
use crate::secret::Keyring;

const FILES: [(&str, &str); 1] = [(
    "shop.yaml",
    "file_format: definition/2\nattributes:\n\
     - {key: organisation.id, type: int, stability: stable, brief: 'The organisation; it''s one;', annotations: {esker: {privacy: internal}}}\n\
     - {key: user.id, type: string, stability: stable, brief: 'The user.', annotations: {esker: {privacy: pseudonymous}}}\n\
     - {key: user.email, type: string, stability: stable, brief: 'An address.', annotations: {esker: {privacy: personal}}}\n\
     - {key: order, type: int, stability: stable, brief: 'A \\ number.', annotations: {esker: {privacy: internal}}}\n\
     events:\n\
     - name: shop.item.bought\n  stability: stable\n  requirement_level: recommended\n  brief: Bought.\n  annotations: {esker: {category: product}}\n  \
       attributes: [{ref: organisation.id, requirement_level: recommended}, {ref: user.id, requirement_level: recommended}, {ref: user.email, \
     requirement_level: opt_in}, {ref: order, requirement_level: recommended}]\n\
     - name: shop.item_bought\n  stability: stable\n  requirement_level: recommended\n  brief: Also bought.\n  annotations: {esker: {category: product}}\n  \
       attributes: [{ref: user.id, requirement_level: recommended}]\n\
     - name: events.unique\n  stability: stable\n  requirement_level: recommended\n  brief: A job.\n  annotations: {esker: {category: operational}}\n  \
       attributes: [{ref: order, requirement_level: recommended}]\n",
)];

fn declared() -> (DataMap, Layout) {
    let files = FILES.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let registry = Arc::new(Registry::from_files(&files).unwrap());
    let keys = Keyring::generate(SystemClock.now_micros()).unwrap();
    let layout = Layout::new(&registry).unwrap();
    let gate = Gate::new(registry, &keys, GateOptions::default()).unwrap();
    let table = MappedTable { name: "product.events".to_owned(), ..MappedTable::default() };
    (DataMap::of(&gate, vec![table]), layout)
}

fn lake(warehouse: &str, catalog: Catalog) -> Lake {
    let table = |name: &str, metadata: Option<&str>| LakeTable {
        name: name.to_owned(),
        location: format!("{warehouse}/{}", name.replace('.', "/")),
        metadata: metadata.map(str::to_owned),
    };
    Lake {
        catalog,
        storage: Storage::default(),
        events: table("product.events", Some("metadata/v12.metadata.json")),
        quarantine: Some(table("product.events_quarantine", None)),
        withdrawals: None,
    }
}

fn rest(auth: Auth) -> Catalog {
    Catalog::Rest { uri: "https://catalog.example/api".to_owned(), warehouse: Some("main".to_owned()), auth }
}

fn options(engine: Engine) -> Options {
    Options { engine, section: Section::All, schema: "esker".to_owned(), roles: RoleOptions::default() }
}

fn printed(engine: Engine, lake: &Lake) -> String {
    let (map, layout) = declared();
    script(&map, &layout, lake, &options(engine)).unwrap()
}

/// Every place and every way to sign in.
fn lakes() -> Vec<Lake> {
    let oauth = Auth::OAuth2 {
        server_uri: Some("https://login.example/token".to_owned()),
        scope: Some("lake".to_owned()),
    };
    let sigv4 =
        |service: &str| Auth::SigV4 { service: service.to_owned(), region: Some("eu-west-1".to_owned()) };
    let mut endpoint = lake("s3://bucket/some/prefix", Catalog::Files);
    endpoint.storage = Storage {
        endpoint: Some("http://127.0.0.1:8333".to_owned()),
        region: Some("eu-west-1".to_owned()),
        path_style: true,
    };
    let mut lakes = vec![endpoint];
    for warehouse in ["file:///srv/lake", "s3://bucket/some/prefix", "gs://bucket/some/prefix"] {
        lakes.push(lake(warehouse, Catalog::Files));
    }
    for auth in [Auth::None, Auth::Bearer, oauth, sigv4("glue"), sigv4("s3tables"), Auth::Google] {
        lakes.push(lake("s3://bucket/some/prefix", rest(auth)));
    }
    lakes
}

#[test]
fn every_statement_ends_at_the_end_of_a_line_and_nothing_else_does() {
    for engine in Engine::ALL {
        for lake in lakes() {
            let text = printed(engine, &lake);
            let mut open = false;
            for line in text.lines() {
                if line.starts_with("--") {
                    assert!(!open, "a comment in the middle of a statement: {line}");
                    assert!(!line.ends_with(';'), "{line}");
                } else if line.ends_with(';') {
                    open = false;
                } else if !line.is_empty() {
                    open = true;
                }
            }
            assert!(!open, "the last statement of {engine:?} has no end");
        }
    }
}

#[test]
fn a_place_that_is_known_needs_no_placeholder_and_a_secret_always_is_one() {
    for engine in Engine::ALL {
        let local = printed(engine, &lake("file:///srv/lake", Catalog::Files));
        let runs_here = matches!(engine, Engine::DuckDb | Engine::Spark | Engine::ClickHouse);
        let statements =
            |text: &str| text.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
        let has_place = statements(&local)
            .split('<')
            .skip(1)
            .any(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
        assert_eq!(has_place, !runs_here && engine != Engine::Trino, "{engine:?}");
        for lake in lakes() {
            for line in printed(engine, &lake).lines() {
                for word in [
                    "SECRET '",
                    "SECRET = '",
                    "TOKEN '",
                    "TOKEN = '",
                    "secret_access_key = '",
                    "token=",
                    "credential=",
                ] {
                    if let Some((_, rest)) = line.split_once(word) {
                        assert!(rest.starts_with('<'), "{line}");
                    }
                }
            }
        }
    }
}

#[test]
fn each_engine_is_told_the_place_in_its_own_words() {
    let s3 = lake("s3://bucket/some/prefix", Catalog::Files);
    let gcs = lake("gs://bucket/some/prefix", Catalog::Files);
    let local = lake("file:///srv/lake", Catalog::Files);
    let oauth = lake("s3://bucket/p", rest(Auth::OAuth2 { server_uri: None, scope: None }));
    let glue = lake(
        "s3://bucket/p",
        rest(Auth::SigV4 { service: "glue".to_owned(), region: Some("eu-west-1".to_owned()) }),
    );
    for (engine, lake, wanted) in [
        (Engine::DuckDb, &local, "FROM iceberg_scan('/srv/lake/product/events')"),
        (Engine::DuckDb, &s3, "FROM iceberg_scan('s3://bucket/some/prefix/product/events')"),
        (Engine::DuckDb, &s3, "(TYPE s3, PROVIDER credential_chain, SCOPE 's3://bucket')"),
        (
            Engine::DuckDb,
            &gcs,
            "(TYPE gcs, KEY_ID '<HMAC key id>', SECRET '<HMAC secret>', SCOPE 'gs://bucket')",
        ),
        (Engine::DuckDb, &oauth, "OAUTH2_SERVER_URI 'https://catalog.example/api/v1/oauth/tokens'"),
        (
            Engine::DuckDb,
            &oauth,
            "ATTACH IF NOT EXISTS 'main' AS lake (TYPE iceberg, ENDPOINT 'https://catalog.example/api'",
        ),
        (Engine::DuckDb, &oauth, "FROM lake.\"product\".\"events\""),
        (Engine::DuckDb, &glue, "ENDPOINT_TYPE glue"),
        (Engine::Snowflake, &s3, "STORAGE_PROVIDER = 'S3' STORAGE_BASE_URL = 's3://bucket/some/prefix/'"),
        (Engine::Snowflake, &gcs, "STORAGE_PROVIDER = 'GCS' STORAGE_BASE_URL = 'gcs://bucket/some/prefix/'"),
        (Engine::Snowflake, &s3, "METADATA_FILE_PATH = 'product/events/metadata/v12.metadata.json'"),
        (
            Engine::Snowflake,
            &s3,
            "METADATA_FILE_PATH = 'product/events_quarantine/metadata/v<N>.metadata.json'",
        ),
        (Engine::Snowflake, &oauth, "CATALOG_TABLE_NAME = 'events'\n  AUTO_REFRESH = TRUE"),
        (Engine::Snowflake, &glue, "CATALOG_API_TYPE = AWS_GLUE CATALOG_NAME = 'main'"),
        (
            Engine::BigQuery,
            &gcs,
            "uris = ['gs://bucket/some/prefix/product/events/metadata/v12.metadata.json']",
        ),
        (Engine::Spark, &local, "SET `spark.sql.catalog.lake.warehouse`=`file:///srv/lake`;"),
        (Engine::Spark, &s3, "SET `spark.sql.catalog.lake.warehouse`=`s3a://bucket/some/prefix`;"),
        (Engine::Spark, &oauth, "SET `spark.sql.catalog.lake.credential`=`<client id>:<client secret>`;"),
        (Engine::Spark, &glue, "SET `spark.sql.catalog.lake.rest.signing-name`=`glue`;"),
        (
            Engine::Trino,
            &s3,
            "table_location => 's3://bucket/some/prefix/product/events', metadata_file_name => 'v12.metadata.json'",
        ),
        (Engine::Trino, &oauth, "--   iceberg.rest-catalog.oauth2.credential=<client id>:<client secret>"),
        (Engine::ClickHouse, &local, "FROM icebergLocal('/srv/lake/product/events/')"),
        (Engine::ClickHouse, &s3, "url = 'https://bucket.s3.<region>.amazonaws.com/'"),
        (Engine::ClickHouse, &gcs, "FROM icebergS3(esker_store, filename = 'some/prefix/product/events/')"),
        (Engine::ClickHouse, &oauth, "FROM lake.`product.events`"),
    ] {
        let text = printed(engine, lake);
        assert!(text.contains(wanted), "{engine:?} lacks {wanted}:\n{}", &text[..text.len().min(4000)]);
    }
}

#[test]
fn two_events_never_share_a_view_nor_take_one_of_eskers_own() {
    let text = printed(Engine::DuckDb, &lake("file:///srv/lake", Catalog::Files));
    let mut made: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("CREATE OR REPLACE VIEW ")).collect();
    made.sort_unstable();
    let views = made.len();
    made.dedup();
    assert_eq!(made.len(), views);
    assert!(made.contains(&"esker.\"shop_item_bought\" AS") && made.contains(&"esker.events_unique AS"));
    // The ends depend on the events' names alone, so that people's queries stay true.
    assert!(made.contains(&"esker.\"shop_item_bought_ab259766\" AS"), "{made:?}");
    assert!(made.contains(&"esker.\"events_unique_f88b6877\" AS"));
}

#[test]
fn an_events_view_has_what_is_stored_of_it_and_says_what_is_not() {
    let text = printed(Engine::Trino, &lake("file:///srv/lake", Catalog::Files));
    let view = text.split("VIEW lake.esker.\"shop_item_bought\"\n").nth(1).unwrap();
    let view = view.split(";\n").next().unwrap();
    assert!(view.contains("\"order\",  -- A \\ number. Attribute order; internal."), "{view}");
    assert!(!view.contains("user_email"));
    assert!(text.contains("-- shop.item.bought: not stored, by policy: user.email (personal).\nCREATE"));
}

#[test]
fn a_literal_means_the_same_in_every_engine() {
    let spelt = Engine::ALL.map(|engine| engine.text("it's \\"));
    assert_eq!(
        spelt,
        ["'it''s \\'", "'it''s \\\\'", "'it\\'s \\\\'", "'it\\'s \\\\'", "'it''s \\'", "'it''s \\\\'"]
    );
    assert_eq!(Engine::Snowflake.ident("order"), "\"ORDER\"");
    assert_eq!(Engine::BigQuery.ident("order"), "`order`");
}

#[test]
fn every_type_that_is_written_is_in_every_vendors_table() {
    use ColumnType::{Binary, Boolean, Double, Long, String, Timestamp};
    let docs = include_str!("../../docs/sql.md");
    for ty in [String, Long, Double, Boolean, Timestamp, Binary] {
        let row: Vec<_> =
            Engine::ALL.iter().map(|engine| format!("`{}`", mapping(*engine, ty).engine_type)).collect();
        let iceberg = mapping(Engine::DuckDb, ty).iceberg_type;
        let row = format!("| `{iceberg}` | {} |", row.join(" | "));
        assert!(docs.contains(&row), "docs/sql.md lacks the row\n{row}");
    }
    for engine in Engine::ALL {
        let source = mapping(engine, String).source;
        assert!(docs.contains(&format!("({source})")), "docs/sql.md does not name {source}");
    }
    // What the tables have is what the mapping knows.
    let (_, layout) = declared();
    let own = [crate::columns::quarantine::columns(), crate::columns::withdrawals::columns()].concat();
    for column in layout.columns().iter().chain(&own) {
        assert!(Engine::ALL.iter().all(|engine| !mapping(*engine, column.ty).engine_type.is_empty()));
    }
}

#[test]
fn what_lacks_is_named_with_the_way_out() {
    let (map, layout) = declared();
    let lake = lake("file:///srv/lake", Catalog::Files);
    let refused = |change: fn(&mut Options)| {
        let mut options = options(Engine::DuckDb);
        change(&mut options);
        script(&map, &layout, &lake, &options).unwrap_err().to_string()
    };
    assert!(refused(|one| one.schema = "a.b".to_owned()).starts_with("--schema a.b: use lower case letters"));
    let error = refused(|one| one.roles.user = Some("user.email".to_owned()));
    assert_eq!(
        error,
        "--user user.email: no event stores such an attribute in this table; did you mean user.id?"
    );
    let error = refused(|one| one.roles.then = Some("nobody".to_owned()));
    assert_eq!(
        error,
        "--then nobody: no such event is declared and stored; `esker catalogue` lists what there is"
    );
}

#[test]
fn a_session_that_nobody_names_leaves_its_query_out() {
    let text = printed(Engine::Spark, &lake("file:///srv/lake", Catalog::Files));
    assert!(text.contains("-- [sessions] is left out: no stored attribute names a session"));
    assert!(text.contains("--tenant organisation.id, --user user.id, --session (none found)"), "{text}");
}
