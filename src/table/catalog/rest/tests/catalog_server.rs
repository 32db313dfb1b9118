//! An Iceberg REST catalog for tests: one warehouse on the local disk, requirements that are really checked, and answers that
//! go wrong where a test says so.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use axum::routing::any;
use iceberg::spec::{FormatVersion, SortOrder, TableMetadata, TableMetadataBuilder, UnboundPartitionSpec};
use iceberg::{TableCreation, TableRequirement, TableUpdate};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// What goes wrong with the next commit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// It is made, and answered with this status.
    AnswerAfter(u16),
    /// It is not made, and answered with this status.
    AnswerInstead(u16),
    /// It is made, and the answer ends in the middle.
    BreakOffAfter,
    /// 504 at once; it is made after the table was loaded once more.
    AfterTheNextLoad,
    /// All tokens end.
    RevokeTokens,
}

#[derive(Default)]
struct Kept {
    namespaces: Vec<String>,
    /// The table, and its number.
    table: Option<(Value, u64)>,
    fault: Option<Fault>,
    late: Option<Value>,
    requests: Vec<(String, String)>,
    commits: Vec<(String, Vec<u8>)>,
    delegations: usize,
    vended: HashMap<String, String>,
    /// The client's secret and the tokens' lifetime, where tokens are needed.
    tokens: Option<(String, u64)>,
    tokens_given: usize,
    bearer: Option<String>,
}

type Shared = Arc<(tempfile::TempDir, Mutex<Kept>)>;

pub(super) struct CatalogServer {
    address: SocketAddr,
    uri: String,
    shared: Shared,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl CatalogServer {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared: Shared = Arc::new((tempfile::tempdir().unwrap(), Mutex::default()));
        let task = Mutex::new(Some(serve(listener, Arc::clone(&shared))));
        Self { address, uri: format!("http://{address}"), shared, task }
    }

    pub(super) async fn stop(&self) {
        let task = self.task.lock().unwrap().take().unwrap();
        task.abort();
        drop(task.await);
    }

    pub(super) async fn start_again(&self) {
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        *self.task.lock().unwrap() = Some(serve(listener, Arc::clone(&self.shared)));
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.shared.1.lock().unwrap()
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    pub(super) fn requests(&self, method: &str) -> Vec<String> {
        let kept = self.kept();
        kept.requests.iter().filter(|(found, _)| found == method).map(|(_, path)| path.clone()).collect()
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.kept().requests.iter().map(|(_, path)| path.clone()).collect()
    }

    pub(super) fn next_commit(&self, fault: Fault) {
        self.kept().fault = Some(fault);
    }

    pub(super) fn metadata(&self) -> Value {
        self.kept().table.clone().unwrap().0
    }

    /// Replaces parts of the metadata, as nobody could through the catalog.
    pub(super) fn edit(&self, parts: Value) {
        let mut kept = self.kept();
        let metadata = kept.table.as_mut().unwrap().0.as_object_mut().unwrap();
        if parts["format-version"] == 1 {
            // What version 1 has, and has not.
            metadata.remove("last-sequence-number");
            let schema = metadata["schemas"][0].clone();
            metadata.insert("schema".to_owned(), schema);
            let fields = metadata["partition-specs"][0]["fields"].clone();
            metadata.insert("partition-spec".to_owned(), fields);
        }
        metadata.extend(parts.as_object().unwrap().clone());
    }

    /// A commit of somebody else.
    pub(super) fn change(&self, commit: &Value) {
        assert_eq!(apply(&mut self.kept(), commit), 200);
    }

    pub(super) fn drop_table(&self) {
        self.kept().table = None;
    }

    pub(super) fn last_commit(&self) -> (String, Vec<u8>) {
        self.kept().commits.last().unwrap().clone()
    }

    pub(super) async fn post_again(&self, (path, body): &(String, Vec<u8>)) -> u16 {
        let url = format!("{}{path}", self.uri);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.post(url).body(body.clone()).send().await.unwrap().status().as_u16()
    }

    pub(super) fn vend(&self, config: HashMap<String, String>) {
        self.kept().vended = config;
    }

    pub(super) fn delegations(&self) -> usize {
        self.kept().delegations
    }

    pub(super) fn require_tokens(&self, secret: &str, lifetime: u64) {
        self.kept().tokens = Some((secret.to_owned(), lifetime));
    }

    pub(super) fn require_bearer(&self, token: &str) {
        self.kept().bearer = Some(token.to_owned());
    }

    pub(super) fn allow_all(&self) {
        let mut kept = self.kept();
        (kept.tokens, kept.bearer) = (None, None);
    }

    pub(super) fn tokens_given(&self) -> usize {
        self.kept().tokens_given
    }

    /// The names of all files beside the data.
    pub(super) fn metadata_files(&self) -> Vec<String> {
        let folder = self.shared.0.path().join("product/events/metadata");
        let Ok(found) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut names: Vec<_> =
            found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn serve(listener: tokio::net::TcpListener, shared: Shared) -> JoinHandle<()> {
    let router = Router::new().fallback(any(answer)).with_state(shared);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
}

fn refusal(status: u16, kind: &str, message: &str) -> Response<Body> {
    reply(status, &json!({ "error": { "message": message, "type": kind, "code": status } }))
}

async fn answer(State(shared): State<Shared>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = parts.uri.path().to_owned();
    let header = |name: &str| {
        parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let mut kept = shared.1.lock().unwrap();
    if path == "/v1/oauth/tokens" {
        return token(&mut kept, &body);
    }
    kept.requests.push((parts.method.to_string(), path.clone()));
    let authorization = header("authorization");
    if kept.tokens.is_some() && authorization != format!("Bearer t{}", kept.tokens_given) {
        return refusal(401, "NotAuthorizedException", "token");
    }
    if let Some(bearer) = &kept.bearer
        && authorization != format!("Bearer {bearer}")
    {
        return refusal(401, "NotAuthorizedException", "token");
    }
    if path == "/v1/config" {
        return match parts.uri.query() {
            Some("warehouse=lake") => {
                reply(200, &json!({ "defaults": {}, "overrides": { "prefix": "lake%2F1" } }))
            }
            _ => refusal(400, "BadRequestException", "no such warehouse"),
        };
    }
    let Some(rest) = path.strip_prefix("/v1/lake%2F1/namespaces") else {
        return Response::builder().status(404).body(Body::from("<html>not here</html>")).unwrap();
    };
    match (parts.method.as_str(), rest) {
        ("POST", "") => {
            let body: Value = serde_json::from_slice(&body).unwrap();
            kept.namespaces.push(body["namespace"][0].as_str().unwrap().to_owned());
            reply(200, &json!({ "namespace": body["namespace"], "properties": {} }))
        }
        ("POST", "/product/tables") => create(&mut kept, shared.0.path(), &body),
        ("GET", "/product/tables/events") => {
            let delegates = header("x-iceberg-access-delegation") == "vended-credentials";
            kept.delegations += usize::from(delegates);
            let config = if delegates { kept.vended.clone() } else { HashMap::new() };
            let answer = match &kept.table {
                Some((metadata, _)) => reply(200, &loaded(&kept, metadata, &config)),
                None => refusal(404, "NoSuchTableException", "no such table"),
            };
            if let Some(late) = kept.late.take() {
                assert_eq!(apply(&mut kept, &late), 200);
            }
            answer
        }
        ("POST", "/product/tables/events") => {
            kept.commits.push((path.clone(), body.to_vec()));
            commit(&mut kept, &serde_json::from_slice(&body).unwrap())
        }
        _ => refusal(404, "NoSuchNamespaceException", "no such thing"),
    }
}

fn token(kept: &mut Kept, body: &Bytes) -> Response<Body> {
    let (secret, lifetime) = kept.tokens.clone().unwrap();
    let wanted =
        format!("grant_type=client_credentials&client_id=esker&client_secret={secret}&scope=catalog");
    if *body != wanted.as_bytes() {
        // As some servers do, it repeats what it was sent.
        let said = String::from_utf8_lossy(body).into_owned();
        return reply(401, &json!({ "error": "invalid_client", "error_description": said }));
    }
    kept.tokens_given += 1;
    let token = format!("t{}", kept.tokens_given);
    reply(200, &json!({ "access_token": token, "token_type": "bearer", "expires_in": lifetime }))
}

fn loaded(kept: &Kept, metadata: &Value, config: &HashMap<String, String>) -> Value {
    let number = kept.table.as_ref().map_or(0, |(_, number)| *number);
    let location = format!("{}/metadata/{number:05}-x.metadata.json", metadata["location"].as_str().unwrap());
    json!({ "metadata-location": location, "metadata": metadata, "config": config })
}

fn create(kept: &mut Kept, folder: &std::path::Path, body: &[u8]) -> Response<Body> {
    if !kept.namespaces.iter().any(|name| name == "product") {
        return refusal(404, "NoSuchNamespaceException", "no such namespace");
    }
    if kept.table.is_some() {
        return refusal(409, "AlreadyExistsException", "it exists");
    }
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["properties"]["format-version"], "2");
    let properties: HashMap<String, String> = serde_json::from_value(body["properties"].clone()).unwrap();
    let location = format!("file://{}/product/events", folder.display());
    let creation = TableCreation::builder()
        .name("events".to_owned())
        .location(location)
        .schema(serde_json::from_value(body["schema"].clone()).unwrap())
        .partition_spec(
            serde_json::from_value::<UnboundPartitionSpec>(body["partition-spec"].clone()).unwrap(),
        )
        .sort_order(serde_json::from_value::<SortOrder>(body["write-order"].clone()).unwrap())
        .properties(
            properties.into_iter().filter(|(key, _)| key != "format-version").collect::<HashMap<_, _>>(),
        )
        .format_version(FormatVersion::V2)
        .build();
    let metadata = TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
    let metadata = serde_json::to_value(&metadata).unwrap();
    kept.table = Some((metadata.clone(), 1));
    reply(200, &loaded(kept, &metadata, &HashMap::new()))
}

fn commit(kept: &mut Kept, commit: &Value) -> Response<Body> {
    match kept.fault.take() {
        Some(Fault::AnswerInstead(status)) => refusal(status, "Trouble", "as the test says"),
        Some(Fault::AnswerAfter(status)) => {
            assert_eq!(apply(kept, commit), 200);
            refusal(status, "Trouble", "as the test says")
        }
        Some(Fault::BreakOffAfter) => {
            assert_eq!(apply(kept, commit), 200);
            let parts = [Ok(Bytes::from_static(b"{\"metadata")), Err(std::io::Error::other("broken off"))];
            Response::new(Body::from_stream(futures::stream::iter(parts)))
        }
        Some(Fault::AfterTheNextLoad) => {
            kept.late = Some(commit.clone());
            refusal(504, "CommitStateUnknownException", "who knows")
        }
        Some(Fault::RevokeTokens) => {
            // What was given counts no more; the next one does.
            refusal(401, "NotAuthorizedException", "revoked")
        }
        None => match apply(kept, commit) {
            200 => {
                let metadata = kept.table.clone().unwrap().0;
                reply(200, &loaded(kept, &metadata, &HashMap::new()))
            }
            status => refusal(status, "CommitFailedException", "a requirement does not hold"),
        },
    }
}

/// Makes a commit, if its requirements hold.
fn apply(kept: &mut Kept, commit: &Value) -> u16 {
    let Some((json, number)) = kept.table.clone() else { return StatusCode::NOT_FOUND.as_u16() };
    let metadata: TableMetadata = serde_json::from_value(json).unwrap();
    let requirements: Vec<TableRequirement> = serde_json::from_value(commit["requirements"].clone()).unwrap();
    if requirements.iter().any(|requirement| requirement.check(Some(&metadata)).is_err()) {
        return StatusCode::CONFLICT.as_u16();
    }
    let updates: Vec<TableUpdate> = serde_json::from_value(commit["updates"].clone()).unwrap();
    let before = format!("{}/metadata/{number:05}-x.metadata.json", metadata.location());
    let mut builder = metadata.into_builder(Some(before));
    for update in updates {
        builder = update.apply(builder).unwrap();
    }
    let metadata = builder.build().unwrap().metadata;
    kept.table = Some((serde_json::to_value(&metadata).unwrap(), number + 1));
    200
}
