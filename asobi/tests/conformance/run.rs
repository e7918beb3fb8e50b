//! Plays one case: its steps, its act, and the comparison.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};

use crate::{
    case::{Act, Case},
    shape::problems,
    stage::{Answer, Stage},
    support::Client,
};

/// Asked after the act; requests keep their order, so its answer says that everything before it was answered.
const FENCE: &str = r#"{"type":"chat.leave","cid":"the fence","payload":{"channel_id":"global:fence"}}"#;

pub async fn case(stage: &mut Stage, case: &Case) -> anyhow::Result<()> {
    let outcome = played(stage, case).await;
    stage.tidy();
    outcome
}

async fn played(stage: &mut Stage, case: &Case) -> anyhow::Result<()> {
    for (n, written) in case.given.iter().enumerate() {
        let act: Act = stage.filled(written).await?;
        step(stage, &act).await.with_context(|| format!("what is given ({}) does not happen", n + 1))?;
    }
    let act: Act = stage.filled(&Value::Object(case.act.clone())).await?;
    if act.rest.is_some() { rest(stage, &act).await } else { frames(stage, &act).await }
}

async fn step(stage: &mut Stage, act: &Act) -> anyhow::Result<()> {
    if let Some(by) = &act.by {
        stage.player(by).await?;
    }
    if act.rest.is_some() {
        let answer = stage.request(act).await?;
        ensure!(answer.status == 200, "it was answered with {} {}", answer.status, answer.text);
        return stage.keep(&act.keep, &answer.json());
    }
    if let Some(players) = &act.pair {
        return pair(stage, players).await;
    }
    let on = act.on.as_deref().context("a step goes over a connection")?;
    let mut client = stage.take(on).await?;
    let told = match (&act.push, &act.send) {
        (Some(kind), None) => client.push(kind).await,
        (None, Some(frame)) => {
            client
                .call(frame["type"].as_str().context("type")?, frame.get("payload").cloned().unwrap_or(json!({})))
                .await
        }
        _ => bail!("a step either sends or waits for a push"),
    };
    stage.put(on, client);
    stage.keep(&act.keep, &told?)
}

async fn pair(stage: &mut Stage, players: &[String; 2]) -> anyhow::Result<()> {
    for player in players {
        let mut client = stage.take(player).await?;
        let queued = client.call("matchmaker.add", json!({"mode": "pair"})).await;
        stage.put(player, client);
        queued?;
    }
    for player in players {
        let mut client = stage.take(player).await?;
        let matched = client.push("match.matched").await;
        stage.put(player, client);
        stage.keep(&BTreeMap::from([("match".to_owned(), "/match_id".to_owned())]), &matched?)?;
    }
    Ok(())
}

async fn rest(stage: &mut Stage, act: &Act) -> anyhow::Result<()> {
    if let Some(by) = &act.by {
        stage.player(by).await?;
    }
    for name in act.pushes.keys() {
        let mut client = stage.take(name).await?;
        until_fence(&mut client).await?;
        stage.put(name, client);
    }
    let answer = stage.request(act).await?;
    let wrong = wrong_with(act, &answer);
    if !wrong.is_empty() {
        bail!("{}\n    got {} {}", wrong.join("\n    "), answer.status, clipped(&answer.text));
    }
    for (name, pushes) in &act.pushes {
        let pushes = pushes.iter().flatten().map(|(kind, payload)| frame(kind, payload.clone(), None)).collect();
        let mut client = stage.take(name).await?;
        told(&mut client, pushes, None, &act.never).await.with_context(|| format!("on {name}"))?;
        stage.put(name, client);
    }
    for (name, (code, reason)) in &act.closes {
        let mut client = stage.take(name).await?;
        let closing = client.closing().await;
        stage.put(name, client);
        let closing = closing?;
        ensure!(closing == (*code, reason.clone()), "{name} must close with {code} {reason}, closed with {closing:?}");
    }
    stage.keep(&act.keep, &answer.json())
}

pub fn wrong_with(act: &Act, answer: &Answer) -> Vec<String> {
    let mut wrong = Vec::new();
    if act.status.is_some_and(|status| status != answer.status) {
        wrong.push(format!("status: must be {}", act.status.unwrap_or_default()));
    }
    let mut expected = act.answer.clone();
    if let Some(code) = &act.error {
        let mut body = act.also.clone();
        body.insert("error".into(), error(code, act));
        expected = Some(Value::Object(body));
    }
    if let Some(shape) = &expected {
        wrong.extend(problems(shape, &answer.json()));
    }
    for (name, part) in &act.headers {
        let value = answer.headers.get(name).and_then(|value| value.to_str().ok());
        if !value.is_some_and(|value| value.contains(part.as_str())) {
            wrong.push(format!("header {name}: must contain {part:?}, is {value:?}"));
        }
    }
    if act.rest.as_deref().is_some_and(|rest| !rest.ends_with("/ws"))
        && !answer.headers.contains_key("x-correlation-id")
    {
        wrong.push("header x-correlation-id: is missing".into());
    }
    wrong
}

fn error(code: &str, act: &Act) -> Value {
    let details = act.details.clone().unwrap_or_else(|| json!({}));
    json!({"code": format!("={code}"), "message": "string", "details": details})
}

async fn frames(stage: &mut Stage, act: &Act) -> anyhow::Result<()> {
    let on = act.on.clone().context("a case is a request or goes over a connection")?;
    let sent = act.send.clone().or_else(|| act.raw.as_deref().and_then(|raw| serde_json::from_str(raw).ok()));
    let mut expected: BTreeMap<&str, Vec<Value>> = BTreeMap::from([(on.as_str(), answers(act, sent.as_ref()))]);
    for (name, pushes) in &act.pushes {
        let pushes = pushes.iter().flatten().map(|(kind, payload)| frame(kind, payload.clone(), None));
        expected.entry(name).or_default().extend(pushes);
    }
    for name in expected.keys() {
        let mut client = stage.take(name).await?;
        until_fence(&mut client).await?;
        stage.put(name, client);
    }
    let mut client = stage.take(&on).await?;
    match (&act.send, &act.raw, &act.binary) {
        (Some(frame), None, None) => client.send_text(frame.to_string()).await?,
        (None, Some(raw), None) => client.send_text(raw.clone()).await?,
        (None, None, Some(bytes)) => client.send_binary(bytes.clone()).await?,
        _ => bail!("a case sends one frame"),
    }
    stage.put(&on, client);
    let cid = sent.as_ref().and_then(|frame| frame.get("cid"));
    for (name, expected) in expected {
        let mut client = stage.take(name).await?;
        let came = told(&mut client, expected, if name == on { cid } else { None }, &act.never).await;
        // One that misbehaved takes no part in further cases.
        let came = came.with_context(|| format!("on {name}"))?;
        stage.put(name, client);
        for frame in came {
            let kept = act.keep.iter().filter(|(_, pointer)| frame["payload"].pointer(pointer).is_some());
            stage.keep(kept, &frame["payload"])?;
        }
    }
    Ok(())
}

/// What must come back to the sender itself.
fn answers(act: &Act, sent: Option<&Value>) -> Vec<Value> {
    let cid = sent.and_then(|frame| frame.get("cid"));
    let mut expected = Vec::new();
    for (kind, payload) in act.reply.iter().flatten() {
        expected.push(frame(kind, payload.clone(), cid));
    }
    if let Some(code) = &act.error {
        let mut payload = act.also.clone();
        payload.insert("error".into(), error(code, act));
        if let Some(reason) = &act.reason {
            payload.insert("reason".into(), format!("={reason}").into());
        }
        // Nothing else says which frame it is about.
        if let (None, Some(Value::String(kind))) = (cid, sent.and_then(|frame| frame.get("type"))) {
            payload.insert("type".into(), format!("={kind}").into());
        }
        expected.push(frame("error", Value::Object(payload), cid));
    }
    expected
}

fn frame(kind: &str, payload: Value, cid: Option<&Value>) -> Value {
    let mut frame = Map::from_iter([("type".to_owned(), format!("={kind}").into()), ("payload".to_owned(), payload)]);
    if let Some(cid) = cid {
        let exactly = cid.as_str().map_or_else(|| cid.clone(), |text| format!("={text}").into());
        frame.insert("cid".into(), exactly);
    }
    Value::Object(frame)
}

/// Waits for all that is expected, in any order, and makes sure that nothing comes that should not.
async fn told(
    client: &mut Client,
    mut expected: Vec<Value>,
    cid: Option<&Value>,
    never: &[String],
) -> anyhow::Result<Vec<Value>> {
    let mut once: Vec<Value> = expected.iter().map(|shape| shape["type"].clone()).collect();
    // States come all the time.
    once.retain(|kind| kind != "=match.state");
    let offends = |frame: &Value| {
        let kind = frame["type"].as_str().unwrap_or_default();
        kind == "error"
            || never.iter().any(|n| n == kind)
            || once.iter().any(|o| o == &format!("={kind}"))
            || cid.is_some_and(|cid| frame.get("cid") == Some(cid))
    };
    let mut came = Vec::new();
    while !expected.is_empty() {
        let waited = client.wait(&format!("{expected:?}"), |_| true).await?;
        if let Some(n) = expected.iter().position(|shape| problems(shape, &waited).is_empty()) {
            expected.remove(n);
            came.push(waited);
        } else if offends(&waited) {
            let alike = expected.iter().find(|shape| problems(&shape["type"], &waited["type"]).is_empty());
            let wrong = alike.map_or_else(Vec::new, |shape| problems(shape, &waited)).join(", ");
            let expected: Vec<String> = expected.iter().map(|shape| clipped(&shape.to_string())).collect();
            bail!("expected {}\n    got {} ({wrong})", expected.join(" and "), clipped(&waited.to_string()));
        }
    }
    for frame in until_fence(client).await? {
        ensure!(!offends(&frame), "expected nothing more\n    got {}", clipped(&frame.to_string()));
    }
    Ok(came)
}

/// Everything that comes before the fence's answer.
async fn until_fence(client: &mut Client) -> anyhow::Result<Vec<Value>> {
    client.send_text(FENCE.to_owned()).await?;
    let mut came = Vec::new();
    loop {
        let frame = client.wait("the fence's answer", |_| true).await?;
        if frame["cid"] == "the fence" {
            return Ok(came);
        }
        came.push(frame);
    }
}

fn clipped(text: &str) -> String {
    let mut clipped: String = text.chars().take(600).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}
