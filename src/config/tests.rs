use super::*;
use crate::receive::decode::{Rule, Source};

fn message(toml: &str) -> String {
    Config::from_toml(toml).expect_err("must be refused").to_string()
}

#[test]
fn empty_configuration_is_the_embedded_default() {
    let config = Config::from_toml("").unwrap();
    assert_eq!(config.receive.http, SocketAddr::from(([127, 0, 0, 1], 4318)));
    assert_eq!(config.table.warehouse, "file://./esker-data/warehouse");
    assert_eq!(config.table.name, "product.events");
    assert_eq!(config.flush.max_age, Duration::from_secs(30));
    assert_eq!(config.flush.max_bytes, 256 << 20);
    assert_eq!(config.privacy.key, SecretReference::File(PathBuf::from("./esker-data/esker.key")));
}

#[test]
fn the_warehouse_follows_the_data_directory_unless_it_is_named() {
    let config = Config::from_toml("data_dir = '/srv/esker'").unwrap();
    assert_eq!(config.table.warehouse, "file:///srv/esker/warehouse");
    let config = Config::from_toml("data_dir = '/srv/esker'\n[table]\nwarehouse = 'file:///lake'").unwrap();
    assert_eq!(config.table.warehouse, "file:///lake");
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
