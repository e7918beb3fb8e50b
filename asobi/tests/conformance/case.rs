//! A case, as it is written in `cases.jsonl`: one JSON object a line, lines that begin with `//` are comments.
//!
//! In every text `${…}` stands for something that is only known when the case runs; see [`crate::stage::Stage`]. What
//! must come back is written as shapes; see [`crate::shape`].

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What is done before, what is done, what must come of it.
#[derive(Debug, Deserialize)]
pub struct Case {
    pub name: String,
    /// Where the answer is not what the first release's server gave: why ours is right.
    pub deliberate: Option<String>,
    /// Steps that have to succeed; their answers are not looked at further.
    #[serde(default)]
    pub given: Vec<Value>,
    /// An [`Act`], read when the steps before it have happened.
    #[serde(flatten)]
    pub act: Map<String, Value>,
}

/// A request or a frame, with its outcome.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Act {
    /// `METHOD /path`
    pub rest: Option<String>,
    /// The player whose access token goes with it.
    pub by: Option<String>,
    /// Another token instead.
    pub token: Option<String>,
    pub body: Option<Value>,
    /// A body or a frame, as text.
    pub raw: Option<String>,
    /// The body is not called JSON.
    pub untyped: bool,

    /// The connection a frame goes over: a player's name, connected where it is not yet; `player/2` is another one of the
    /// same player; `new` is a fresh socket without a session.
    pub on: Option<String>,
    pub send: Option<Value>,
    /// A binary frame of these bytes.
    pub binary: Option<Vec<u8>>,

    /// In `given`: wait for this push on `on`.
    pub push: Option<String>,
    /// In `given`: these players queue for mode `pair` and are matched; `${match}` is the match.
    pub pair: Option<[String; 2]>,

    pub status: Option<u16>,
    /// The error's code; with a frame, [`Act::reason`] comes with it.
    pub error: Option<String>,
    pub reason: Option<String>,
    pub details: Option<Value>,
    /// What an error's body has at its top level beside the error, or a frame's payload beside error and reason.
    pub also: Map<String, Value>,
    /// A body.
    pub answer: Option<Value>,
    /// What a header's value contains.
    pub headers: BTreeMap<String, String>,
    /// One frame type and its payload, with the request's `cid`.
    pub reply: Option<Map<String, Value>>,
    /// For each connection, frame types and payloads that come without a `cid`, in any order.
    pub pushes: BTreeMap<String, Vec<Map<String, Value>>>,
    /// Frame types that must not come.
    pub never: Vec<String>,
    /// Close code and reason with which connections must end.
    pub closes: BTreeMap<String, (u16, String)>,
    /// Names for parts of the answer, as JSON pointers.
    pub keep: BTreeMap<String, String>,
}

pub fn all() -> anyhow::Result<Vec<Case>> {
    let lines = include_str!("cases.jsonl").lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with("//"));
    let cases = lines
        .map(|(n, line)| serde_json::from_str(line).with_context(|| format!("cases.jsonl:{}", n + 1)))
        .collect::<anyhow::Result<Vec<Case>>>()?;
    let mut names = std::collections::BTreeSet::new();
    for case in &cases {
        ensure!(names.insert(&case.name), "two cases are called {:?}", case.name);
    }
    Ok(cases)
}
