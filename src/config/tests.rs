use super::*;
use crate::receive::decode::{Rule, Source};

fn message(toml: &str) -> String {
    Config::from_toml(toml).expect_err("must be refused").to_string()
}

#[test]
fn empty_configuration_is_the_embedded_default() {
    let config = Config::from_toml("").unwrap();
    assert_eq!(config.receive.http, SocketAddr::from(([127, 0, 0, 1], 4318)));
    assert_eq!(config.tables[0].warehouse, "file://./esker-data/warehouse");
    assert_eq!(config.tables[0].name, "product.events");
    assert_eq!(config.flush.max_age, Duration::from_secs(30));
    assert_eq!(config.flush.max_bytes, 256 << 20);
    assert_eq!(config.privacy.key, SecretReference::File(PathBuf::from("./esker-data/esker.key")));
}

#[test]
fn the_warehouse_follows_the_data_directory_unless_it_is_named() {
    let config = Config::from_toml("data_dir = '/srv/esker'").unwrap();
    assert_eq!(config.tables[0].warehouse, "file:///srv/esker/warehouse");
    let config = Config::from_toml("data_dir = '/srv/esker'\n[table]\nwarehouse = 'file:///lake'").unwrap();
    assert_eq!(config.tables[0].warehouse, "file:///lake");
}

#[test]
fn an_unknown_key_is_named() {
    let text = message("[flush]\nmax_aeg = '1s'");
    assert!(text.contains("flush.max_aeg"), "{text}");
    assert!(text.contains("max_age"), "the known keys are listed: {text}");
    assert!(message("flsuh = 1").contains("flsuh"));
}

#[test]
fn a_bad_unit_names_the_key() {
    assert!(message("[flush]\nmax_age = '1 fortnight'").contains("flush.max_age"));
    assert!(message("[flush]\nmax_bytes = 'lots'").contains("flush.max_bytes"));
    assert!(message("[flush]\nmax_age = '1ms'").contains("too short"));
    assert!(message("[receive]\ngrpc = 'localhost'").contains("receive.grpc"));
}

#[test]
fn a_literal_secret_is_refused_and_not_repeated() {
    let text = message("[privacy]\nkey = 'hunter2hunter2'");
    assert!(text.contains("privacy.key") && text.contains("env:NAME"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn secrets_are_references() {
    let config = Config::from_toml("[privacy]\nkey = 'env:ESKER_KEY'").unwrap();
    assert_eq!(config.privacy.key, SecretReference::Environment("ESKER_KEY".to_owned()));
    let config = Config::from_toml("[privacy]\nkey = 'command:vault  read -field=ring $HOME'").unwrap();
    let arguments = ["read", "-field=ring", "$HOME"].map(str::to_owned).to_vec();
    assert_eq!(config.privacy.key, SecretReference::Command { program: "vault".to_owned(), arguments });
    for empty in ["command:", "command:  ", "env:", "file:", "exec:x"] {
        assert!(message(&format!("[privacy]\nkey = '{empty}'")).contains("privacy.key"), "{empty}");
    }
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let text = message("[receive.limits]\nrequest_bytes = '64MiB'");
    assert!(text.contains("receive.limits.memory"), "{text}");
    assert!(message("[wal]\nmax_bytes = '1MiB'").contains("wal.max_bytes"));
}

#[test]
fn a_name_rule_needs_exactly_one_source() {
    let config = Config::from_toml("[[receive.names]]\nscope = 'cline'\nbody = true").unwrap();
    assert_eq!(config.receive.names, [Rule { scope: Some("cline".to_owned()), source: Source::Body }]);
    assert!(message("[[receive.names]]\nscope = 'cline'").contains("receive.names"));
}

#[test]
fn table_names_are_plain() {
    assert!(message("[table]\nname = 'events'").contains("table.name"));
    assert!(message("[table]\nname = '../up.events'").contains("table.name"));
}

use crate::config::tables::TABLES_MAX;
use crate::privacy::{Decision, EventPattern, ResourceMatch, RouteTarget};
use crate::registry::Category;

const TABLES: &str = r#"
[table]
retention = "400d"
[[tables]]
name = "eu.events"
warehouse = "file:///lake/eu"
retention = "90d"
policy = { personal = "drop" }
[[tables]]
name = "product.security"
"#;

fn routed(routes: &str) -> Result<Config, ConfigError> {
    Config::from_toml(&format!("{TABLES}{routes}"))
}

fn refused(routes: &str) -> String {
    routed(routes).expect_err("must be refused").to_string()
}

#[test]
fn the_first_table_is_the_primary_and_others_lie_beside_it() {
    let tables = routed("").unwrap().tables;
    let shown: Vec<_> =
        tables.iter().map(|one| (one.name.as_str(), one.warehouse.as_str(), one.retention_days)).collect();
    assert_eq!(
        shown,
        [
            ("product.events", "file://./esker-data/warehouse", Some(400)),
            ("eu.events", "file:///lake/eu", Some(90)),
            ("product.security", "file://./esker-data/warehouse", None),
        ]
    );
    assert!(!tables[1].policy.is_empty() && tables[0].policy.is_empty());
}

#[test]
fn routes_are_read_in_their_order() {
    let routes = routed(
        r#"
[[routes]]
category = "security"
table = "product.security"
[[routes]]
events = ["a.b", "features.*"]
resource = { key = "deployment.region", value = "eu" }
table = "eu.events"
[[routes]]
consent = "denied"
drop = true
[[routes]]
table = "product.events"
"#,
    )
    .unwrap()
    .routes;
    assert_eq!((routes[0].category, routes[0].target), (Some(Category::Security), RouteTarget::Table(2)));
    let names = [EventPattern::Name("a.b".to_owned()), EventPattern::Prefix("features.".to_owned())];
    assert_eq!(routes[1].events, names);
    assert!(
        names[1].matches("features.created") && !names[1].matches("features") && !names[0].matches("a.b.c")
    );
    let resource = ResourceMatch { key: "deployment.region".to_owned(), value: "eu".to_owned() };
    assert_eq!((routes[1].resource.as_ref(), routes[1].target), (Some(&resource), RouteTarget::Table(1)));
    assert_eq!((routes[2].consent, routes[2].target), (Some(Decision::Denied), RouteTarget::Drop));
    assert_eq!(routes[3].target, RouteTarget::Table(0));
}

#[test]
fn a_route_that_leads_nowhere_is_refused() {
    let text = refused("[[routes]]\ntable = 'us.events'");
    assert!(
        text.contains("`us.events`") && text.contains("`eu.events`") && text.contains("route 1"),
        "{text}"
    );
    assert!(refused("[[routes]]\ncategory = 'security'").contains("drop = true"));
    assert!(refused("[[routes]]\ntable = 'eu.events'\ndrop = true").contains("either"));
    assert!(refused("[[routes]]\nevents = []\ndrop = true").contains("routes.events"));
    for pattern in ["*", "a*", "a.*.b", "a b"] {
        assert!(refused(&format!("[[routes]]\nevents = ['{pattern}']\ndrop = true")).contains("features.*"));
    }
    assert!(refused("[[routes]]\nconsent = 'maybe'\ndrop = true").contains("not_required"));
    assert!(refused("[[routes]]\ncategorie = 'security'\ndrop = true").contains("categorie"));
}

#[test]
fn a_route_that_an_earlier_one_hides_is_refused() {
    for (earlier, later) in [
        ("", "category = 'security'"),
        ("category = 'security'", "category = 'security'"),
        ("events = ['a.*', 'c.d']", "events = ['a.b', 'a.b.*', 'c.d']"),
        ("consent = 'denied'", "consent = 'denied'\nevents = ['a.b']"),
        (
            "resource = { key = 'r', value = 'eu' }",
            "resource = { key = 'r', value = 'eu' }\ncategory = 'product'",
        ),
    ] {
        let both = format!("[[routes]]\n{earlier}\ndrop = true\n[[routes]]\n{later}\ntable = 'eu.events'");
        assert!(refused(&both).contains("route 2 is never taken: route 1"), "{both}");
        if !earlier.is_empty() && earlier != later {
            let turned =
                format!("[[routes]]\n{later}\ndrop = true\n[[routes]]\n{earlier}\ntable = 'eu.events'");
            assert!(routed(&turned).is_ok(), "{turned}");
        }
    }
    let apart =
        "[[routes]]\nevents = ['a.b']\ndrop = true\n[[routes]]\nevents = ['a.b', 'c.d']\ntable = 'eu.events'";
    assert!(routed(apart).is_ok(), "the second has names of its own");
}

#[test]
fn tables_have_names_and_retentions_of_their_own() {
    assert!(refused("[[tables]]\nname = 'eu.events'").contains("twice"));
    assert!(refused("[[tables]]\nname = 'product.events'").contains("twice"));
    assert!(refused("[[tables]]\nname = 'product.events_quarantine'").contains("keeps itself"));
    assert!(refused("[[tables]]\nname = 'Events'").contains("tables.name"));
    assert!(refused("[[tables]]\nname = 'a.b'\nwarehouse = 'abfs://x'").contains("tables.warehouse"));
    for retention in ["36h", "0d"] {
        let text = refused(&format!("[[tables]]\nname = 'a.b'\nretention = '{retention}'"));
        assert!(text.contains("tables.retention") && text.contains("whole number of days"), "{text}");
    }
    let many: String = (0..TABLES_MAX).map(|number| format!("[[tables]]\nname = 'a.t{number}'\n")).collect();
    assert!(Config::from_toml(&many).unwrap_err().to_string().contains("at most"));
}

#[test]
fn a_table_inside_of_another_ones_folder_is_refused() {
    let with = |warehouse: &str, name: &str| {
        let primary = "[table]\nwarehouse = 'file:///lake/wh'\nname = 'product.events'";
        format!("{primary}\n[[tables]]\nname = '{name}'\nwarehouse = '{warehouse}'")
    };
    for (warehouse, name) in [
        ("file:///lake/wh/product", "events.data"),
        ("file:///lake//wh/./product/", "events.data"),
        ("file:///lake/wh/product/events", "a.b"),
        ("file:///lake/wh/product", "events_quarantine.data"),
        ("file:///", "lake.wh"),
    ] {
        let text = message(&with(warehouse, name));
        assert!(text.contains("tables.warehouse") && text.contains("folder"), "{text}");
    }
    for (warehouse, name) in
        [("file:///lake/wh", "product.events_more"), ("s3://lake/wh/product", "events.data")]
    {
        Config::from_toml(&with(warehouse, name)).unwrap();
    }
}
