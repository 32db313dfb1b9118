//! What a bucket's refusals become: each answer that S3 and GCS document, given by a server on loopback to the real clients.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::path::Path;
use object_store::{CredentialProvider, Error, ObjectStore, ObjectStoreExt, PutMode};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::super::fault::{Place, Provider, said};
use super::super::options::{
    AssumeRole, GcsCredentials, GcsOptions, KeyId, S3Credentials, S3Encryption, S3Options, StorageOptions,
};
use super::super::role::AssumedRole;
use super::super::{Warehouse, gcs, s3};
use crate::secret::ValueReference;

const SECRET: &str = "wJalrXUtnFEMI-hidden";
const TOKEN: &str = "FwoGZXIvYXdzEBY-hidden";
const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";

pub(super) fn place(provider: Provider) -> Place {
    let (bucket, endpoint) = ("bucket".to_owned(), "https://store.example".to_owned());
    Place { provider, bucket, endpoint, region: Some("us-east-1".to_owned()) }
}

/// The options for the real servers of `tests/e2e/test_storage.py`, whose keys are in the vendors' variables.
pub(super) fn options_of_environment() -> StorageOptions {
    let endpoint = Some(crate::secret::environment("ESKER_CONFORMANCE_ENDPOINT").unwrap().to_string());
    let variable = |name: &str| ValueReference::Environment(name.to_owned());
    let credentials = S3Credentials::Keys {
        id: KeyId::Reference(variable("AWS_ACCESS_KEY_ID")),
        secret: variable("AWS_SECRET_ACCESS_KEY"),
        session_token: None,
    };
    StorageOptions {
        s3: S3Options { endpoint: endpoint.clone(), credentials, ..S3Options::default() },
        gcs: GcsOptions {
            endpoint,
            credentials: GcsCredentials::Token(variable("ESKER_CONFORMANCE_TOKEN")),
            user_project: None,
        },
    }
}

/// An answer of the server: a status and a body, or none: the connection is closed once the request was read.
type Scripted = Option<(u16, String)>;

/// A server that gives scripted answers, the last again and again, and keeps what it was asked.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn answering(script: Vec<Scripted>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut script = script.into_iter().peekable();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = script.next().unwrap();
                if script.peek().is_none() {
                    script = vec![answer.clone()].into_iter().peekable();
                }
                let request = answer_one(stream, answer).await;
                kept.lock().unwrap().push(request);
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn s3(&self) -> Arc<dyn ObjectStore> {
        Arc::new(s3::open("bucket", &self.s3_options()).unwrap())
    }

    fn s3_options(&self) -> S3Options {
        S3Options { endpoint: Some(self.address.clone()), credentials: keys(), ..S3Options::default() }
    }

    fn gcs(&self) -> Arc<dyn ObjectStore> {
        let credentials = GcsCredentials::Token(secret(TOKEN));
        let options = GcsOptions { endpoint: Some(self.address.clone()), credentials, user_project: None };
        Arc::new(gcs::open("bucket", &options).unwrap())
    }
}

/// A file whose content is the value: dropped with the process.
fn secret(value: &str) -> ValueReference {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), value).unwrap();
    ValueReference::File(file.into_temp_path().keep().unwrap())
}

fn keys() -> S3Credentials {
    let id = KeyId::Plain("AKIAEXAMPLE".to_owned());
    S3Credentials::Keys { id, secret: secret(SECRET), session_token: Some(secret(TOKEN)) }
}

/// Reads one request whole, answers it, and gives its head.
async fn answer_one(stream: TcpStream, answer: Scripted) -> String {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
            return head;
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.unwrap();
    if let Some((status, text)) = answer {
        let text = if head.starts_with("HEAD") { String::new() } else { text };
        let length = text.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\nETag: \"1\"\r\n\
             Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\nx-goog-generation: 1\r\n\r\n"
        );
        stream.write_all(format!("{head}{text}").as_bytes()).await.ok();
        stream.flush().await.ok();
    }
    head + &String::from_utf8_lossy(&body)
}

/// Nothing secret, no request and no body is in what is said.
fn is_clean(text: &str) {
    for hidden in [SECRET, TOKEN, "AKIAEXAMPLE", "Signature=", "StringToSign", "<Error>", "Bearer"] {
        assert!(!text.contains(hidden), "{text}");
    }
}

#[tokio::test]
async fn each_refusal_of_s3_names_its_cause_and_what_to_do() {
    let error =
        |code: &str, more: &str| format!("<Error><Code>{code}</Code><Message>M</Message>{more}</Error>");
    let mismatch =
        format!("<StringToSign>{TOKEN}</StringToSign><AWSAccessKeyId>AKIAEXAMPLE</AWSAccessKeyId>");
    for (status, body, named) in [
        (404, error("NoSuchBucket", ""), ["no bucket bucket", "table.warehouse"]),
        (301, error("PermanentRedirect", ""), ["not in the region us-east-1", "s3.region"]),
        (400, error("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), ["region", "s3.region = \"eu-west-1\""]),
        (403, error("AccessDenied", ""), ["lack the permission", "s3:GetObject"]),
        (403, error("InvalidAccessKeyId", &mismatch), ["does not know this access key", "s3.access-key-id"]),
        (403, error("SignatureDoesNotMatch", &mismatch), ["secret key does not belong", "s3.secret-access-key"]),
        (400, error("ExpiredToken", &format!("<Token-0>{TOKEN}</Token-0>")), ["has expired", "s3.session-token"]),
        (403, error("RequestTimeTooSkewed", ""), ["clock differs", "NTP"]),
        (400, error("InvalidBucketName", ""), ["no name of a bucket", "table.warehouse"]),
        (403, "<Error><Code>AccessDenied</Code><Message>not authorized to perform: kms:Decrypt</Message></Error>".to_owned(),
            ["encryption key", "kms:GenerateDataKey"]),
        (501, error("NotImplemented", ""), ["does not know this kind", "docs/storage.md"]),
    ] {
        let server = Server::answering(vec![Some((status, body.clone()))]).await;
        let error = server.s3().get(&Path::from("k")).await.unwrap_err();
        let text = said(&error);
        for part in named {
            assert!(text.contains(part), "{status} {body}: {text}");
        }
        is_clean(&text);
        is_clean(&format!("{error} {error:?}"));
        assert!(status >= 500 || server.asked().len() == 1, "a refusal is not asked for again: {status}");
    }
}

#[tokio::test]
async fn each_refusal_of_gcs_names_its_cause_and_what_to_do() {
    let error =
        |code: &str| format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>M</Message></Error>");
    for (status, body, named) in [
        (404, error("NoSuchBucket"), ["no bucket bucket", "table.warehouse"]),
        (401, error("AuthenticationRequired"), ["access token has expired", "gcs.oauth2.token"]),
        (403, error("AccessDenied"), ["lack the permission", "storage.objects.get"]),
        (400, error("UserProjectMissing"), ["requester pays", "gcs.user-project"]),
    ] {
        let server = Server::answering(vec![Some((status, body.clone()))]).await;
        let error = server.gcs().get(&Path::from("k")).await.unwrap_err();
        let text = said(&error);
        for part in named {
            assert!(text.contains(part), "{status} {body}: {text}");
        }
        is_clean(&text);
        is_clean(&format!("{error} {error:?}"));
    }
}

#[tokio::test]
async fn a_denied_call_names_the_permission_of_its_kind() {
    let in_bulk = "<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>\
                   </DeleteResult>";
    let key = Path::from("k");
    for (is_s3, permissions) in [
        (true, ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"]),
        (
            false,
            [
                "storage.objects.get",
                "storage.objects.create",
                "storage.objects.delete",
                "storage.objects.list",
            ],
        ),
    ] {
        for (call, permission) in permissions.into_iter().enumerate() {
            for bulk in [false, true] {
                if bulk && !(is_s3 && call == 2) {
                    continue;
                }
                let answer = if bulk { (200, in_bulk.to_owned()) } else { (403, DENIED.to_owned()) };
                let server = Server::answering(vec![Some(answer)]).await;
                let store = if is_s3 { server.s3() } else { server.gcs() };
                let error = match call {
                    0 => store.head(&key).await.unwrap_err(),
                    1 => store.put_opts(&key, "x".into(), PutMode::Create.into()).await.unwrap_err(),
                    2 => store.delete(&key).await.unwrap_err(),
                    _ => store.list_with_delimiter(Some(&key)).await.unwrap_err(),
                };
                let text = said(&error);
                assert!(text.contains(permission) && text.contains("bucket bucket"), "{permission}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_create_is_sent_once_whatever_the_answer_and_other_calls_again() {
    let key = Path::from("k");
    for answer in
        [Some((500, String::new())), Some((503, "<Error><Code>SlowDown</Code></Error>".to_owned())), None]
    {
        for is_s3 in [true, false] {
            let server = Server::answering(vec![answer.clone()]).await;
            let store = if is_s3 { server.s3() } else { server.gcs() };
            let create = store.put_opts(&key, "x".into(), PutMode::Create.into()).await;
            assert!(!matches!(create, Ok(_) | Err(Error::AlreadyExists { .. })), "{create:?}");
            assert_eq!(server.asked().len(), 1, "{answer:?}");
            let server = Server::answering(vec![answer.clone(), Some((200, String::new()))]).await;
            let store = if is_s3 { server.s3() } else { server.gcs() };
            store.put(&key, "x".into()).await.unwrap();
            assert_eq!(server.asked().len(), 2, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_create_that_finds_the_key_taken_says_so_and_nothing_else() {
    for (is_s3, header) in [(true, "if-none-match: *"), (false, "x-goog-if-generation-match: 0")] {
        let server = Server::answering(vec![Some((412, String::new()))]).await;
        let store = if is_s3 { server.s3() } else { server.gcs() };
        let create = store.put_opts(&Path::from("k"), "x".into(), PutMode::Create.into()).await;
        assert!(matches!(create, Err(Error::AlreadyExists { .. })), "{create:?}");
        assert!(server.asked()[0].to_ascii_lowercase().contains(header), "{:?}", server.asked());
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let options = S3Options { endpoint: Some(address.clone()), credentials: keys(), ..S3Options::default() };
    let store = s3::open("bucket", &options).unwrap();
    let create = store.put_opts(&Path::from("k"), "x".into(), PutMode::Create.into()).await.unwrap_err();
    let text = said(&create);
    assert!(
        text.contains(&address) && text.contains("cannot be reached") && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn a_rotated_key_is_followed_and_a_missing_one_named() {
    let server = Server::answering(vec![Some((200, "x".to_owned()))]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let credentials = GcsCredentials::Token(ValueReference::File(file.clone()));
    let options = GcsOptions {
        endpoint: Some(server.address.clone()),
        credentials,
        user_project: Some("payer".to_owned()),
    };
    let store = gcs::open("bucket", &options).unwrap();
    let error = store.get(&Path::from("k")).await.unwrap_err();
    assert!(said(&error).contains("there are no credentials") && said(&error).contains("token"), "{error}");
    for token in ["first", "second"] {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        store.get(&Path::from("k")).await.unwrap();
        let asked = server.asked().pop().unwrap().to_ascii_lowercase();
        assert!(asked.contains(&format!("authorization: bearer {token}\r\n")), "{asked}");
        assert!(asked.contains("x-goog-user-project: payer"), "{asked}");
    }
}

#[tokio::test]
async fn what_is_configured_of_s3_is_sent() {
    let server = Server::answering(vec![Some((200, String::new()))]).await;
    let options = S3Options {
        region: Some("eu-west-1".to_owned()),
        requester_pays: true,
        encryption: Some(S3Encryption::Kms { key: Some("arn:aws:kms:k".to_owned()) }),
        bucket_key: Some(true),
        ..server.s3_options()
    };
    s3::open("bucket", &options).unwrap().put(&Path::from("k"), "x".into()).await.unwrap();
    let asked = server.asked().pop().unwrap().to_ascii_lowercase();
    for part in [
        "put /bucket/k http",
        "/eu-west-1/s3/aws4_request",
        "x-amz-request-payer: requester",
        "x-amz-server-side-encryption: aws:kms\r\n",
        "x-amz-server-side-encryption-aws-kms-key-id: arn:aws:kms:k",
        "x-amz-server-side-encryption-bucket-key-enabled: true",
        "x-amz-security-token:",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
}

const SESSION: &str = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIASESSION</AccessKeyId>\
     <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken></Credentials></AssumeRoleResult></AssumeRoleResponse>";

#[tokio::test]
async fn a_role_is_taken_on_once_for_its_session_and_its_refusal_named() {
    let sts = Server::answering(vec![
        Some((200, SESSION.to_owned())),
        Some((200, SESSION.replace("ASIASESSION", "ASIANEXT"))),
        Some((403, DENIED.to_owned())),
    ])
    .await;
    let server = Server::answering(vec![Some((200, "x".to_owned()))]).await;
    let role = AssumeRole {
        arn: "arn:aws:iam::1:role/r".to_owned(),
        external_id: Some("a&b".to_owned()),
        session_name: None,
    };
    let options = S3Options {
        assume_role: Some(role.clone()),
        sts_endpoint: Some(sts.address.clone()),
        ..server.s3_options()
    };
    let store = s3::open("bucket", &options).unwrap();
    for _ in 0..2 {
        store.get(&Path::from("k")).await.unwrap();
        assert!(server.asked().pop().unwrap().contains("Credential=ASIASESSION/"));
    }
    let [asked] = sts.asked().try_into().unwrap();
    assert!(
        asked.contains("Action=AssumeRole&") && asked.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr"),
        "{asked}"
    );
    assert!(asked.contains("ExternalId=a%26b") && asked.contains("/us-east-1/sts/aws4_request"), "{asked}");
    let mut own =
        AssumedRole::new(role, s3::credentials("bucket", &server.s3_options()).unwrap(), &options).unwrap();
    own.holds = Duration::ZERO;
    assert_eq!(own.get_credential().await.unwrap().key_id, "ASIANEXT");
    let text = said(&own.get_credential().await.unwrap_err());
    assert!(
        text.contains("cannot be taken on") && text.contains("AccessDenied") && text.contains("trust policy"),
        "{text}"
    );
    is_clean(&text);
}

const KEYS: &str = r#"{"Code": "Success", "LastUpdated": "2025-01-01T00:00:00Z", "Type": "AWS-HMAC", "AccessKeyId": "ASIAROLE",
    "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}"#;

#[tokio::test]
async fn the_roles_of_machines_and_pods_are_fetched_once_and_their_lack_named() {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "pod-token").unwrap();
    let told = |text: &str| Some((200, text.to_owned()));
    let server = Server::answering(vec![told("x")]).await;
    let machine = Server::answering(vec![told("imds-token"), told("role"), told(KEYS)]).await;
    let agent = Server::answering(vec![told(KEYS)]).await;
    let pod = S3Credentials::ContainerFull { uri: agent.address.clone(), token_file };
    for credentials in [S3Credentials::InstanceAt(machine.address.clone()), pod] {
        let store = s3::open("bucket", &S3Options { credentials, ..server.s3_options() }).unwrap();
        for _ in 0..2 {
            store.get(&Path::from("k")).await.unwrap();
            store.put_opts(&Path::from("k"), "x".into(), PutMode::Create.into()).await.unwrap();
            assert!(server.asked().pop().unwrap().contains("Credential=ASIAROLE/"));
        }
    }
    let asked = machine.asked();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[2].to_ascii_lowercase().contains("x-aws-ec2-metadata-token: imds-token"), "{asked:?}");
    assert!(
        agent.asked()[0].to_ascii_lowercase().contains("authorization: pod-token"),
        "{:?}",
        agent.asked()
    );
    assert_eq!(agent.asked().len(), 1);
    let empty = Server::answering(vec![Some((404, String::new()))]).await;
    let credentials = S3Credentials::InstanceAt(empty.address.clone());
    let store = s3::open("bucket", &S3Options { credentials, ..server.s3_options() }).unwrap();
    let text = said(&store.get(&Path::from("k")).await.unwrap_err());
    assert!(text.contains("there are no credentials") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
}

#[test]
fn credentials_of_google_that_cannot_be_used_are_named_without_their_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.json");
    let open = || {
        let options = GcsOptions { credentials: GcsCredentials::File(file.clone()), ..GcsOptions::default() };
        said(&gcs::open("bucket", &options).unwrap_err())
    };
    assert!(open().contains("cannot be read"), "{}", open());
    for (text, named) in [
        (r#"{"type": "external_account", "private_key": "hidden"}"#, "service_account or authorized_user"),
        (r#"{"type": "service_account", "private_key": "hidden"}"#, "JSON of a service account"),
        ("hidden", "JSON of a service account"),
    ] {
        std::fs::write(&file, text).unwrap();
        assert!(open().contains(named) && !open().contains("hidden"), "{}", open());
    }
}

#[test]
fn nothing_that_holds_credentials_shows_them() {
    let options = StorageOptions {
        s3: S3Options { credentials: keys(), ..S3Options::default() },
        ..StorageOptions::default()
    };
    let warehouse = Warehouse::open("s3://bucket/a", &options).unwrap();
    is_clean(&format!("{warehouse:?} {:?}", warehouse.store()));
    assert!(!format!("{options:?}").contains(SECRET));
}
