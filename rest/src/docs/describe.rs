//! What is the same for every route, and would be noise beside each: the error object, the token, the limits' headers.

use std::collections::BTreeMap;

use asobi_proto::error::ErrorCode;
use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa::{PartialSchema as _, ToSchema as _, openapi::OpenApi};

use super::schemas::{ErrorBody, Failure};
use crate::middleware;

/// Where a handler's attribute lists the codes that its route alone can answer.
const CODES: &str = "x-errors";
/// What any route of the API can answer.
const EVERYWHERE: [ErrorCode; 6] = [
    ErrorCode::INTERNAL,
    ErrorCode::INVALID_PAYLOAD,
    ErrorCode::NOT_READY,
    ErrorCode::PAYLOAD_TOO_LARGE,
    ErrorCode::RATE_LIMITED,
    ErrorCode::UNAUTHENTICATED,
];
const ABOUT: &str = "The REST side of the Asobi protocol, served by every node that serves /ws (see /asyncapi.json). \
    Every failure answers the error object with a code of a closed set; every answer has x-correlation-id, the trace's \
    id in the logs. An empty body is as good as {}. Numbers in queries that cannot be read count as absent, and those \
    out of bounds as the bound.";

/// The document of what the routes' attributes say, completed.
pub(crate) fn described(openapi: OpenApi) -> Value {
    let mut document = serde_json::to_value(openapi).unwrap_or_default();
    document["info"] = json!({
        "title": "Asobi", "version": "1.0", "description": ABOUT,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["security"] = json!([{"access_token": []}]);
    let components = &mut document["components"];
    components["schemas"]["ErrorBody"] = json!(ErrorBody::schema());
    components["schemas"]["Failure"] = json!(Failure::schema());
    debug_assert_eq!((ErrorBody::name(), Failure::name()), ("ErrorBody".into(), "Failure".into()));
    components["securitySchemes"] = json!({"access_token": {
        "type": "http", "scheme": "bearer", "description": "The access_token of a log-in; it also opens a socket.",
    }});
    components["headers"] = headers();
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            complete(path, method, operation);
        }
    }
    document
}

fn headers() -> Value {
    let header = |description: &str, schema: Value| json!({"description": description, "schema": schema});
    let number = || json!({"type": "integer", "minimum": 0});
    json!({
        "x-correlation-id": header("The trace's id, 32 hexadecimal digits.", json!({"type": "string"})),
        "x-ratelimit-remaining": header("Requests left; absent where the limit is off.", number()),
        "x-ratelimit-reset": header("Milliseconds until the limit is whole again.", number()),
        "retry-after": header("Seconds until another try can succeed.", number()),
    })
}

fn complete(path: &str, method: &str, operation: &mut Value) {
    let tag = operation["tags"][0].as_str().unwrap_or_default().to_owned();
    let name = operation["operationId"].as_str().unwrap_or_default().to_owned();
    // Handlers are named within their module; ids are of the whole document.
    operation["operationId"] = format!("{tag}.{name}").into();
    if method == "get" {
        // Nothing reads a body here, and a schema would suggest that one is sent.
        operation.as_object_mut().and_then(|o| o.remove("requestBody"));
    }
    let Some(below) = middleware::api_path(path) else {
        operation["security"] = json!([]);
        add_headers(operation, &["x-correlation-id"]);
        return;
    };
    let open = middleware::OPEN.contains(&below);
    if open {
        // Where a token is taken, it is not needed.
        operation["security"] = if below == "/auth/logout" { json!([{}, {"access_token": []}]) } else { json!([]) };
    }
    let own = operation.as_object_mut().and_then(|o| o.remove(CODES)).unwrap_or_default();
    let own: Vec<String> = serde_json::from_value(own).unwrap_or_default();
    let has_body = operation.get("requestBody").is_some();
    let everywhere = EVERYWHERE.into_iter().filter(|code| match *code {
        ErrorCode::UNAUTHENTICATED => !open,
        ErrorCode::INVALID_PAYLOAD => path.contains('{') || has_body,
        _ => true,
    });
    let body = has_body.then_some(ErrorCode::INVALID_JSON);
    let codes = own.iter().map(String::as_str).filter_map(ErrorCode::from_code).chain(everywhere).chain(body);
    let mut statuses: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in codes {
        let of = statuses.entry(code.http_status()).or_default();
        if !of.contains(&code.as_str()) {
            of.push(code.as_str());
        }
    }
    for (status, mut codes) in statuses {
        codes.sort_unstable();
        operation["responses"][status.to_string()] = failure(&codes);
    }
    add_headers(operation, &["x-correlation-id", "x-ratelimit-remaining", "x-ratelimit-reset"]);
    for status in ["429", "503"] {
        operation["responses"][status]["headers"]["retry-after"] = json!({"$ref": "#/components/headers/retry-after"});
    }
}

/// An answer with the error object, whose code is one of these.
fn failure(codes: &[&str]) -> Value {
    let listed: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
    let code = json!({"properties": {"error": {"properties": {"code": {"enum": codes}}}}});
    let schema = json!({"allOf": [{"$ref": "#/components/schemas/Failure"}, code]});
    json!({"description": listed.join(", "), "content": {"application/json": {"schema": schema}}})
}

fn add_headers(operation: &mut Value, names: &[&str]) {
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        if response["description"].as_str().is_none_or(str::is_empty) {
            let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok());
            response["description"] = status.and_then(|status| status.canonical_reason()).unwrap_or_default().into();
        }
        for name in names {
            response["headers"][name] = json!({"$ref": format!("#/components/headers/{name}")});
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    #[test]
    fn every_listed_code_is_of_the_closed_set() {
        let document = serde_json::to_value(crate::routes::all().into_openapi()).expect("JSON");
        let operations = document["paths"].as_object().into_iter().flatten();
        let mut listed = 0;
        for (path, item) in operations {
            for operation in item.as_object().into_iter().flat_map(Map::values) {
                for code in operation[CODES].as_array().into_iter().flatten() {
                    let code = code.as_str().expect("a string");
                    assert!(ErrorCode::from_code(code).is_some(), "{path}: {code} is no code");
                    listed += 1;
                }
            }
        }
        assert!(listed > 50, "{listed}");
    }
}
