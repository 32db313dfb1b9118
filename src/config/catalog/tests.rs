//! `[catalog]`: what is read, and what is refused with which words.

use super::*;
use crate::config::Config;

fn catalog(text: &str) -> Result<CatalogOptions, String> {
    Config::from_toml(text).map(|config| config.tables[0].catalog.clone()).map_err(|error| error.to_string())
}

fn endpoint(text: &str) -> Endpoint {
    match catalog(text).unwrap() {
        CatalogOptions::Rest(rest) => rest.endpoint().clone(),
        CatalogOptions::Files => panic!("not a rest catalog"),
    }
}

const REST: &str = "[catalog]\ntype = \"rest\"\nuri = \"http://127.0.0.1:8181/\"\n";

#[test]
fn the_files_catalog_is_the_default_and_takes_no_keys() {
    assert_eq!(catalog("").unwrap(), CatalogOptions::Files);
    let error = catalog("[catalog]\nuri = \"http://127.0.0.1:8181\"\n").unwrap_err();
    assert!(error.contains("catalog.uri") && error.contains("type = \"rest\""), "{error}");
}

#[test]
fn a_rest_catalog_is_read_with_its_defaults() {
    let endpoint = endpoint(&format!("{REST}warehouse = \"lake\""));
    assert_eq!((endpoint.uri.as_str(), endpoint.warehouse.as_str()), ("http://127.0.0.1:8181", "lake"));
    assert_eq!((endpoint.auth, endpoint.vended_credentials, endpoint.location), (Auth::None, true, None));
}

#[test]
fn each_kind_of_proof_has_its_keys() {
    let oauth2 = endpoint(&format!(
        "{REST}auth = \"oauth2\"\nclient_id = \"esker\"\nclient_secret = \"env:SECRET\"\nscope = \"catalog\"\n"
    ));
    let Auth::OAuth2(oauth2) = oauth2.auth else { panic!("{:?}", oauth2.auth) };
    assert_eq!(oauth2.client_secret, ValueReference::Environment("SECRET".to_owned()));
    let sigv4 = endpoint(&format!("{REST}auth = \"sigv4\"\nregion = \"eu-west-1\"\nservice = \"glue\"\n"));
    assert_eq!(sigv4.auth, Auth::SigV4 { region: "eu-west-1".to_owned(), service: "glue".to_owned() });
    let bearer = endpoint(&format!("{REST}auth = \"bearer\"\ntoken = \"file:/run/token\"\n"));
    assert_eq!(bearer.auth, Auth::Bearer { token: ValueReference::File("/run/token".into()) });
    let google = endpoint(&format!("{REST}auth = \"google\"\nproject = \"acme\"\n"));
    assert_eq!(google.auth, Auth::Google { project: Some("acme".to_owned()) });
}

#[test]
fn what_does_not_fit_is_named_with_its_key_and_never_shows_a_secret() {
    let wrong = [
        ("[catalog]\ntype = \"rest\"\n", "catalog.uri"),
        (&*format!("{REST}auth = \"bearer\"\n"), "catalog.token"),
        (&format!("{REST}auth = \"bearer\"\ntoken = \"hunter2\"\n"), "catalog.token"),
        (&format!("{REST}auth = \"bearer\"\ntoken = \"command:cat hunter2\"\n"), "catalog.token"),
        (&format!("{REST}token = \"env:TOKEN\"\n"), "catalog.token"),
        (&format!("{REST}auth = \"sigv4\"\nregion = \"x\"\nservice = \"s3\"\n"), "catalog.service"),
        (&format!("{REST}auth = \"sigv4\"\nservice = \"glue\"\n"), "catalog.region"),
        (&format!("{REST}location = \"bucket\"\n"), "catalog.location"),
        ("[catalog]\ntype = \"rest\"\nuri = \"https://me:hunter2@catalog\"\n", "catalog.uri"),
        ("[catalog]\ntype = \"rest\"\nuri = \"catalog:8181\"\n", "catalog.uri"),
    ];
    for (text, key) in wrong {
        let error = catalog(text).unwrap_err();
        assert!(error.contains(key) && !error.contains("hunter2"), "{text}: {error}");
    }
}

#[test]
fn a_credential_does_not_travel_in_clear_unless_that_is_said() {
    let text =
        "[catalog]\ntype = \"rest\"\nuri = \"http://catalog:8181\"\nauth = \"bearer\"\ntoken = \"env:T\"\n";
    let error = catalog(text).unwrap_err();
    assert!(error.contains("catalog.uri") && error.contains("allow_http"), "{error}");
    assert_eq!(endpoint(&format!("{text}allow_http = true\n")).uri, "http://catalog:8181");
    let server = format!(
        "{REST}auth = \"oauth2\"\nclient_id = \"a\"\nclient_secret = \"env:S\"\nserver = \"http://login.example/token\"\n"
    );
    assert!(catalog(&server).unwrap_err().contains("catalog.server"));
}

#[test]
fn another_table_may_have_another_warehouse_or_another_catalog() {
    let text = format!(
        "{REST}warehouse = \"us\"\n[[tables]]\nname = \"product.same\"\n[[tables]]\nname = \"product.eu\"\n\
         warehouse = \"eu\"\n[[tables]]\nname = \"product.far\"\n[tables.catalog]\ntype = \"rest\"\n\
         uri = \"https://far.example\"\n[[tables]]\nname = \"product.near\"\nwarehouse = \"file:///srv/near\"\n\
         [tables.catalog]\ntype = \"files\"\n"
    );
    let config = Config::from_toml(&text).unwrap();
    let places: Vec<_> = config
        .tables
        .iter()
        .map(|table| match &table.catalog {
            CatalogOptions::Rest(rest) => (rest.endpoint().uri.clone(), rest.endpoint().warehouse.clone()),
            CatalogOptions::Files => ("files".to_owned(), table.warehouse.clone()),
        })
        .collect();
    let here = "http://127.0.0.1:8181";
    let wanted = [
        (here, "us"),
        (here, "us"),
        (here, "eu"),
        ("https://far.example", ""),
        ("files", "file:///srv/near"),
    ];
    assert_eq!(places, wanted.map(|(uri, warehouse)| (uri.to_owned(), warehouse.to_owned())));
}

#[test]
fn a_table_of_files_beside_a_rest_catalog_needs_a_folder() {
    let text = format!("{REST}[[tables]]\nname = \"product.near\"\n[tables.catalog]\ntype = \"files\"\n");
    let error = catalog(&text).unwrap_err();
    assert!(error.contains("tables.warehouse"), "{error}");
}
