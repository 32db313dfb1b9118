//! Amazon's signature: computed here a second time, from its documentation alone; checked against the published vectors; and
//! held against what the catalog's requests carry.

use hmac::{Hmac, KeyInit, Mac as _};
use object_store::aws::AwsCredential;
use reqwest::{Method, Request, Url};
use sha2::{Digest as _, Sha256};

use crate::table::catalog::rest::auth::sign;

/// The credentials of the published vectors.
const KEY_ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// What is signed, besides the key.
struct Signed<'a> {
    method: &'a str,
    /// As it stands in the request.
    path: &'a str,
    query: &'a str,
    headers: Vec<(String, String)>,
    body_hash: String,
    moment: &'a str,
    region: &'a str,
    service: &'a str,
}

impl Signed<'_> {
    fn signature(&self) -> String {
        let path: String = self
            .path
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        let mut query: Vec<_> = self.query.split('&').filter(|pair| !pair.is_empty()).collect();
        query.sort_unstable();
        let mut headers = self.headers.clone();
        headers.sort();
        let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let canonical = [self.method, &path, &query.join("&"), &lines, &names, &self.body_hash].join("\n");
        let day = &self.moment[..8];
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let hashed = hex(Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hashed}", self.moment);
        let mut key = hmac(format!("AWS4{SECRET}").as_bytes(), day);
        for part in [self.region, self.service, "aws4_request"] {
            key = hmac(&key, part);
        }
        hex(hmac(&key, &to_sign))
    }
}

#[test]
fn the_second_computation_agrees_with_the_published_vectors() {
    let empty = hex(Sha256::digest(b""));
    let vector = |method, path, query, body: &str, more: &[(&str, &str)]| {
        let mut headers = vec![
            ("host".to_owned(), "example.amazonaws.com".to_owned()),
            ("x-amz-date".to_owned(), "20150830T123600Z".to_owned()),
        ];
        headers.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let body_hash = hex(Sha256::digest(body.as_bytes()));
        let (moment, region, service) = ("20150830T123600Z", "us-east-1", "service");
        Signed { method, path, query, headers, body_hash, moment, region, service }.signature()
    };
    // get-vanilla, post-vanilla, get-vanilla-query-order-key-case, post-x-www-form-urlencoded.
    assert_eq!(
        vector("GET", "/", "", "", &[]),
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    );
    assert_eq!(
        vector("POST", "/", "", "", &[]),
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
    );
    assert_eq!(
        vector("GET", "/", "Param2=value2&Param1=value1", "", &[]),
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
    );
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(
        vector("POST", "/", "", "Param1=value1", &form),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
    );
    // The example of the Identity and Access Management guide.
    let headers = [
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("host", "iam.amazonaws.com"),
        ("x-amz-date", "20150830T123600Z"),
    ];
    let example = Signed {
        method: "GET",
        path: "/",
        query: "Action=ListUsers&Version=2010-05-08",
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        body_hash: empty,
        moment: "20150830T123600Z",
        region: "us-east-1",
        service: "iam",
    };
    assert_eq!(example.signature(), "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
}

#[test]
fn requests_carry_that_signature() {
    let token = Some("a-session-token".to_owned());
    for (service, token, path, query, body) in [
        ("glue", None, "/iceberg/v1/config", "warehouse=123456789012", ""),
        (
            "glue",
            token.clone(),
            "/iceberg/v1/catalogs/1/namespaces/product/tables",
            "",
            "{\"name\":\"events\"}",
        ),
        (
            "s3tables",
            token,
            "/iceberg/v1/arn%3Aaws%3As3tables%3Aeu-west-1%3A1%3Abucket%2Fb/namespaces",
            "",
            "",
        ),
    ] {
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let mut url = Url::parse("https://glue.eu-west-1.amazonaws.com").unwrap();
        url.set_path(path);
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        let mut request = Request::new(method.clone(), url);
        request.headers_mut().insert("accept", "application/json".parse().unwrap());
        let credential =
            AwsCredential { key_id: KEY_ID.to_owned(), secret_key: SECRET.to_owned(), token: token.clone() };
        sign(&mut request, body.as_bytes(), &credential, "eu-west-1", service).unwrap();
        let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        let authorization = header("authorization");
        let part = |key: &str| {
            let from = authorization.find(key).unwrap() + key.len();
            authorization[from..].split(',').next().unwrap().to_owned()
        };
        let body_hash = hex(Sha256::digest(body.as_bytes()));
        assert_eq!(header("x-amz-content-sha256"), body_hash);
        let names = part("SignedHeaders=");
        for name in ["host", "x-amz-date", "x-amz-content-sha256"] {
            assert!(names.split(';').any(|signed| signed == name), "{name} is not signed");
        }
        assert_eq!(request.headers().get("x-amz-security-token").is_some(), token.is_some());
        assert_eq!(header("host"), "glue.eu-west-1.amazonaws.com");
        let moment = header("x-amz-date");
        let headers = names.split(';').map(|name| (name.to_owned(), header(name))).collect();
        let (region, method) = ("eu-west-1", method.as_str());
        let wanted = Signed { method, path, query, headers, body_hash, moment: &moment, region, service };
        assert_eq!(part("Signature="), wanted.signature(), "{service} {path}");
        assert!(part("Credential=").starts_with(KEY_ID));
        assert!(!format!("{request:?}").contains(&part("Signature=")), "it is marked as sensitive");
    }
}
