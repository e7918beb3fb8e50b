//! Where a script failed, and what happened there, in one line.

use super::{api::shortened, budget::Trip};
use crate::game::GameError;

pub const OUT_OF_MEMORY: &str = "used more than the match's memory";

/// Whether the VM has run into its memory limit.
pub fn is_memory(error: &mlua::Error) -> bool {
    match error {
        mlua::Error::MemoryError(_) => true,
        mlua::Error::CallbackError { cause, .. } | mlua::Error::WithContext { cause, .. } => is_memory(cause),
        mlua::Error::RuntimeError(text) => text.lines().next().is_some_and(|line| line.ends_with("not enough memory")),
        _ => false,
    }
}

/// Finds out where it happened, and says what happened in one line.
pub fn explain(error: &mlua::Error, script: &str, callback: &'static str, trip: Option<Trip>) -> GameError {
    let mut root = error;
    let mut places = String::new();
    while let mlua::Error::CallbackError { cause, traceback } = root {
        places.push_str(traceback);
        places.push('\n');
        root = cause;
    }
    let text = match root {
        mlua::Error::RuntimeError(text) | mlua::Error::SyntaxError { message: text, .. } => text.clone(),
        other => other.to_string(),
    };
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    places.push_str(rest);
    let (place, message) = match located(first) {
        Some((place, message)) => (Some(place), message),
        None => (places.lines().find_map(mentioned), first),
    };
    let fatal = trip == Some(Trip::Memory) || is_memory(error);
    let (script, line) = match place {
        Some((file, line)) => (file.to_owned(), Some(line)),
        None => (script.to_owned(), None),
    };
    GameError {
        script,
        line,
        callback,
        message: if fatal { OUT_OF_MEMORY.to_owned() } else { shortened(message, 500) },
        fatal,
    }
}

/// Splits `file.lua:12: message`.
fn located(text: &str) -> Option<((&str, u32), &str)> {
    let (file, rest) = text.split_once(".lua:")?;
    let (line, message) = rest.split_once(": ")?;
    let file = text.get(..file.len() + 4)?;
    if file.contains(char::is_whitespace) {
        return None;
    }
    Some(((file, line.parse().ok()?), message))
}

/// The first `file.lua:12` of a traceback's line.
fn mentioned(line: &str) -> Option<(&str, u32)> {
    let line = line.trim();
    let at = line.find(".lua:")?;
    let start = line[..at].rfind(char::is_whitespace).map_or(0, |i| i + 1);
    let digits: &str = line[at + 5..].split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    Some((&line[start..at + 4], digits.parse().ok()?))
}
