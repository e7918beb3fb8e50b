//! The description of the protocol: committed, served, and true of every answer these tests see.

use std::{path::PathBuf, sync::LazyLock};

use crate::play::{Play, request};
use serde_json::{Map, Value, json};

/// Set to write what is committed instead of comparing it; `scripts/api-docs` does.
const WRITE: &str = "ASOBI_WRITE_API_DOCS";

static OPENAPI: LazyLock<Value> = LazyLock::new(asobi_rest::openapi);

/// As [`OPENAPI`], with keys that are not described refused.
static STRICT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = OPENAPI.clone();
    for schema in document["components"]["schemas"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        if schema["properties"].is_object() {
            schema["additionalProperties"] = false.into();
        }
    }
    document
});

/// Fails where an answer is not what the document says of its route.
pub fn check(method: &str, path: &str, status: u16, body: &Value) {
    let Some(operation) = operation(method, path) else { return };
    // What is refused before a route is found, or because none answers that method.
    if body["error"]["code"] == "rpc.unknown_method" {
        return;
    }
    let answers = &operation["responses"];
    let answer = &answers[status.to_string()];
    assert!(answer.is_object(), "{method} {path} answers {status}, which is not described: {body}");
    let mut schema = answer["content"]["application/json"]["schema"].clone();
    schema["components"] = STRICT["components"].clone();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let problems: Vec<String> =
        validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(problems.is_empty(), "{method} {path} {status}: {problems:?} in {body}");
}

/// What is described of a path; a literal one goes before one with parameters.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let (mut asked, mut described) = (path.split('/'), template.split('/'));
        asked.by_ref().zip(described.by_ref()).all(|(a, d)| d.starts_with('{') || a == d)
            && path.split('/').count() == template.split('/').count()
    };
    let paths = STRICT["paths"].as_object()?;
    let item = paths.get(path).or_else(|| paths.iter().find(|(template, _)| fits(template)).map(|(_, item)| item))?;
    item.get(method.to_ascii_lowercase())
}

#[test]
fn the_committed_documents_are_those_of_the_code() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api"));
    for (name, document) in [("openapi.json", OPENAPI.clone()), ("asyncapi.json", asobi_session::asyncapi())] {
        let path = folder.join(name);
        let text = format!("{document:#}\n");
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(&path, text).expect("written");
            continue;
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "docs/api/{name} is not what the code says; run scripts/api-docs and commit it");
    }
}

#[test]
fn the_document_is_whole() {
    let operations: Vec<&Value> = OPENAPI["paths"]
        .as_object()
        .into_iter()
        .flat_map(Map::values)
        .flat_map(|item| item.as_object().into_iter().flat_map(Map::values))
        .collect();
    assert!(operations.len() >= 38, "{}", operations.len());
    let mut ids: Vec<&str> = operations.iter().filter_map(|operation| operation["operationId"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), operations.len(), "ids are of one operation each");
    for operation in &operations {
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{operation}");
        assert!(operation["responses"]["200"]["headers"]["x-correlation-id"].is_object(), "{operation}");
    }
    let text = OPENAPI.to_string();
    for reference in text.split(r##""$ref":"#"##).skip(1) {
        let pointer = reference.split('"').next().unwrap_or_default();
        assert!(OPENAPI.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
}

#[tokio::test]
async fn every_described_route_is_there() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let ada = play.register("ada").await;
    let nobody = "01fdba2b-8d2c-41cc-8bf0-9b71f17d77db";
    let paths: Vec<(String, Vec<String>)> = OPENAPI["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(path, item)| (path.clone(), item.as_object().into_iter().flat_map(Map::keys).cloned().collect()))
        .collect();
    for (template, methods) in paths {
        let path: Vec<&str> =
            template.split('/').map(|part| if part.starts_with('{') { nobody } else { part }).collect();
        for method in methods {
            // Its own token and its own player: erasure and log-out are among the routes.
            let method = method.to_ascii_uppercase();
            let token = if template.ends_with("/erase") { "" } else { ada.text("access_token") };
            let body = (method != "GET").then(|| json!({}));
            let token = if template.ends_with("/logout") { "" } else { token };
            let answer = play.ask(&method, &path.join("/"), token, body).await;
            assert_ne!(answer.code(), "rpc.unknown_method", "{method} {template}");
        }
    }
    play.end().await
}

#[tokio::test]
async fn the_documents_are_served_without_a_token_unless_switched_off() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    for path in ["/docs", "/docs/view.js", "/docs/style.css", "/openapi.json", "/asyncapi.json"] {
        let answer = play.ask("GET", path, "", None).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
    }
    assert_eq!(play.ask("GET", "/openapi.json", "", None).await.body, *OPENAPI);
    assert_eq!(play.ask("GET", "/asyncapi.json", "", None).await.body["asyncapi"], "3.0.0");
    play.end().await?;
    let quiet = Play::begin(&[("http.docs", "false")]).await?;
    for path in ["/docs", "/openapi.json", "/asyncapi.json"] {
        assert_eq!(quiet.ask("GET", path, "", None).await.status, 404, "{path}");
    }
    quiet.end().await
}

#[tokio::test]
async fn whatever_is_asked_is_answered_properly() -> anyhow::Result<()> {
    let play = Play::begin(&[]).await?;
    let ada = play.register("ada").await;
    let (token, id) = (ada.text("access_token").to_owned(), ada.text("player_id").to_owned());
    let profile = format!("/api/v1/players/{id}");
    let put = |text: &[u8]| {
        let mut asked = request("PUT", &profile, &token, Some(""));
        *asked.body_mut() = text.to_vec().into();
        play.send(asked)
    };
    let deep = format!("{{\"metadata\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    for (body, status, code) in [
        (deep.as_bytes(), 400, "invalid_json"),
        (&b"{\"display_name\":\"\xff\xfe\"}"[..], 400, "invalid_json"),
        (b"\xef\xbb\xbf{}", 400, "invalid_json"),
        (b"{\"display_name\":\"\\ud800\"}", 400, "invalid_json"),
        (b"{} {}", 400, "invalid_json"),
        (b"{\"metadata\":{\"n\":1e999}}", 400, "invalid_json"),
        (b"null", 400, "invalid_payload"),
    ] {
        let answer = put(body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{shown}: {}", answer.body);
        assert!(
            answer.headers.contains_key("x-ratelimit-remaining") || answer.headers.contains_key("x-correlation-id")
        );
    }
    let twice = put(br#"{"display_name":"first","display_name":"last"}"#).await;
    assert_eq!((twice.status.as_u16(), twice.text("display_name")), (200, "last"), "the last of two keys counts");
    // A trailing slash is another path; `.` and `..` are no way around; a path is what it decodes to.
    for (path, status) in [
        ("/api/v1/friends/", 404),
        ("/api/v1/matches/", 404),
        ("/api/v1/players/%zz", 400),
        ("/api/v1/players/%", 400),
        ("/api/v1/players/%c3%28", 400),
        ("/api/v1/players/..%2f..%2fhealth", 400),
        ("/api/v1//matches", 404),
        ("/api/v1", 404),
        ("/api/v1/", 404),
        ("//api/v1/matches", 404),
        ("/API/v1/matches", 404),
        ("/health/", 404),
    ] {
        let answer = play.ask("GET", path, &token, None).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.body);
        assert!(answer.body["error"]["code"].is_string(), "{path}: {}", answer.body);
        assert_eq!(answer.headers["x-correlation-id"].len(), 32, "{path}");
    }
    for (method, path, status) in [
        ("PATCH", profile.as_str(), 405),
        ("POST", "/health", 405),
        ("DELETE", "/docs", 405),
        ("TRACE", "/api/v1/matches", 405),
        ("BREW", "/api/v1/matches", 405),
    ] {
        let answer = play.ask(method, path, &token, None).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, "rpc.unknown_method"), "{method} {path}");
        assert!(answer.headers.contains_key("allow"), "{method} {path}");
    }
    let head = play.ask("HEAD", "/api/v1/matches", &token, None).await;
    assert_eq!((head.status.as_u16(), &head.body), (200, &Value::Null), "HEAD is GET without the body");
    for header in ["Bearer", "Bearer ", "Basic eA==", "Bearer a b"] {
        let mut asked = request("GET", "/api/v1/matches", "", None);
        asked.headers_mut().insert("authorization", header.parse()?);
        let answer = play.send(asked).await;
        assert_eq!((answer.status.as_u16(), answer.header("www-authenticate")), (401, "Bearer"), "{header}");
    }
    play.end().await
}

#[tokio::test]
async fn origins_are_closed_to_a_list_where_there_is_one() -> anyhow::Result<()> {
    async fn allowed(origins: &str) -> anyhow::Result<Option<String>> {
        let play = Play::begin(&[("http.cors_origins", origins)]).await?;
        let mut asked = request("GET", "/live", "", None);
        asked.headers_mut().insert("origin", "https://other.example".parse()?);
        let answer = play.send(asked).await;
        let allowed = answer.headers.get("access-control-allow-origin").map(|v| v.to_str().map(str::to_owned));
        play.end().await?;
        Ok(allowed.transpose()?)
    }
    assert_eq!(allowed("[]").await?.as_deref(), Some("*"));
    assert_eq!(allowed(r#"["*"]"#).await?.as_deref(), Some("*"));
    assert_eq!(allowed(r#"["https://game.example"]"#).await?, None);
    assert_eq!(allowed(r#"["https://other.example"]"#).await?.as_deref(), Some("https://other.example"));
    Ok(())
}
