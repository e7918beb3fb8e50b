//! What is told, in as many languages as it is written in, and which of them a player gets.

use std::collections::BTreeMap;

use asobi_proto::error::ErrorCode;
use asobi_service_kit::grpc::{invalid, status};
use asobi_store::notifications::{Text as StoredText, Texts};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use tonic::Status;

use crate::wire::json_object;

const TYPE_BYTES: std::ops::RangeInclusive<usize> = 1..=64;
const SUBJECT_BYTES: usize = 256;
const CONTENT_BYTES: usize = 4 * 1024;
const LANGUAGE_BYTES: usize = 35;
const TEXTS: usize = 64;
const PARAMS: usize = 32;
const NAME_BYTES: usize = 64;
const VALUE_BYTES: usize = 512;

/// A notification before it is known whose, as rows keep it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    #[serde(rename = "type")]
    pub kind: String,
    /// The key of the text of those whose language has none.
    pub default_language: String,
    /// By language, in lower case.
    pub texts: BTreeMap<String, Text>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Text {
    pub subject: String,
    /// An object.
    pub content: Value,
}

pub type Params = BTreeMap<String, String>;

/// What a request says is to be told.
pub struct Asked {
    pub kind: String,
    pub subject: String,
    pub content_json: String,
    pub template_id: String,
    pub params: Params,
}

impl Asked {
    /// The one text there is, where no template is named.
    pub fn plain(&self) -> Result<Message, Status> {
        if !self.params.is_empty() {
            return Err(invalid("params", "belong to a template, and none is named"));
        }
        let text = Text::read(&self.subject, &self.content_json, "content_json")?;
        let texts = BTreeMap::from([(String::new(), text)]);
        Ok(Message { kind: kind(&self.kind)?, default_language: String::new(), texts })
    }

    /// What the request must not say beside a template.
    pub fn check_alone(&self) -> Result<(), Status> {
        for (field, given) in [("type", &self.kind), ("subject", &self.subject), ("content_json", &self.content_json)] {
            if !given.is_empty() {
                return Err(invalid(field, "is the template's to say"));
            }
        }
        let fits = |(name, value): (&String, &String)| name.len() <= NAME_BYTES && value.len() <= VALUE_BYTES;
        if self.params.len() > PARAMS || !self.params.iter().all(fits) {
            return Err(invalid("params", "must be at most 32, with names of 64 bytes and values of 512"));
        }
        Ok(())
    }
}

fn kind(text: &str) -> Result<String, Status> {
    if TYPE_BYTES.contains(&text.len()) && !text.contains('\0') {
        return Ok(text.to_owned());
    }
    Err(status(ErrorCode::VALIDATION_FAILED, "type must have 1 to 64 bytes"))
}

impl Text {
    fn read(subject: &str, content_json: &str, field: &str) -> Result<Self, Status> {
        if subject.len() > SUBJECT_BYTES || subject.contains('\0') {
            return Err(status(ErrorCode::VALIDATION_FAILED, "subject must have at most 256 bytes"));
        }
        Ok(Self { subject: subject.to_owned(), content: json_object(content_json, field, CONTENT_BYTES)? })
    }

    /// With parameters in their places.
    fn filled(&self, params: &Params) -> Result<Self, String> {
        let filled = Self { subject: fill(&self.subject, params)?, content: fill_all(&self.content, params)? };
        if filled.subject.len() > SUBJECT_BYTES || filled.content.to_string().len() > CONTENT_BYTES {
            return Err("make the text longer than a notification may be".into());
        }
        Ok(filled)
    }
}

impl Message {
    /// A template's, checked.
    pub fn of_template(
        of_kind: &str,
        default_language: &str,
        texts: impl IntoIterator<Item = (String, String, String)>,
    ) -> Result<Self, Status> {
        let mut read = BTreeMap::new();
        for (tag, subject, content_json) in texts {
            let tag = language(&tag).ok_or_else(|| invalid("texts.language", "is no language such as de or pt-BR"))?;
            let text = Text::read(&subject, &content_json, "texts.content_json")?;
            text.check_placeholders().map_err(|problem| invalid("texts", problem))?;
            if read.len() == TEXTS || read.insert(tag, text).is_some() {
                return Err(invalid("texts", "must be at most 64, each in a language of its own"));
            }
        }
        let default_language = language(default_language).filter(|tag| read.contains_key(tag));
        let default_language =
            default_language.ok_or_else(|| invalid("default_language", "must be the language of one of the texts"))?;
        Ok(Self { kind: kind(of_kind)?, default_language, texts: read })
    }

    /// With parameters in the places of all texts.
    pub fn filled(&self, params: &Params) -> Result<Self, Status> {
        let fill = |(tag, text): (&String, &Text)| match text.filled(params) {
            Ok(text) => Ok((tag.clone(), text)),
            Err(problem) => Err(invalid("params", format!("{problem}, in {tag}"))),
        };
        let texts = self.texts.iter().map(fill).collect::<Result<_, _>>()?;
        Ok(Self { texts, ..self.clone() })
    }

    /// The text for those who say no language.
    pub fn default_text(&self) -> Option<&Text> {
        self.texts.get(&self.default_language)
    }

    /// Whether languages make a difference.
    pub fn has_choice(&self) -> bool {
        self.texts.len() > 1
    }

    /// The place of the text for a language as a player wrote it: of its longest beginning there is.
    pub fn choose(&self, wanted: &str) -> usize {
        let wanted = language(wanted).unwrap_or_default();
        let mut beginning = wanted.as_str();
        loop {
            if let Some(at) = self.place(beginning).filter(|_| !beginning.is_empty()) {
                return at;
            }
            match beginning.rsplit_once('-') {
                Some((shorter, _)) => beginning = shorter,
                None => return self.place(&self.default_language).unwrap_or(0),
            }
        }
    }

    fn place(&self, tag: &str) -> Option<usize> {
        self.texts.keys().position(|key| key == tag)
    }

    /// As rows are made of it.
    pub fn to_texts(&self, expires_at: Option<OffsetDateTime>) -> Texts {
        let texts = self.texts.values().map(|t| StoredText { subject: t.subject.clone(), content: t.content.clone() });
        Texts { kind: self.kind.clone(), texts: texts.collect(), expires_at }
    }
}

/// A language tag in lower case with hyphens; none: it is no tag.
pub fn language(tag: &str) -> Option<String> {
    let tag = tag.to_ascii_lowercase().replace('_', "-");
    let is_part = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    (tag.len() <= LANGUAGE_BYTES && tag.split('-').all(is_part)).then_some(tag)
}

/// `{name}` by its parameter, `{{` by a brace.
fn fill(text: &str, params: &Params) -> Result<String, String> {
    replace(text, |name| params.get(name).cloned().ok_or_else(|| format!("have no {name}")))
}

fn replace(text: &str, value: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        if let Some(after) = after.strip_prefix('{') {
            filled.push('{');
            rest = after;
            continue;
        }
        let (name, after) = after.split_once('}').ok_or("have a brace without its end; {{ stands for a brace")?;
        if !(1..=NAME_BYTES).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("have a placeholder that is not of A-Z, a-z, 0-9 and _; {{ stands for a brace".into());
        }
        filled.push_str(&value(name)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// In all texts of a value; its keys stay.
fn fill_all(value: &Value, params: &Params) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => fill(text, params)?.into(),
        Value::Array(values) => values.iter().map(|value| fill_all(value, params)).collect::<Result<_, _>>()?,
        Value::Object(keys) => {
            let filled = keys.iter().map(|(key, value)| Ok((key.clone(), fill_all(value, params)?)));
            Value::Object(filled.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

impl Text {
    fn check_placeholders(&self) -> Result<(), String> {
        fn check(value: &Value) -> Result<(), String> {
            match value {
                Value::String(text) => replace(text, |_| Ok(String::new())).map(drop),
                Value::Array(values) => values.iter().try_for_each(check),
                Value::Object(keys) => keys.values().try_for_each(check),
                _ => Ok(()),
            }
        }
        check(&Value::String(self.subject.clone()))?;
        check(&self.content)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(texts: &[(&str, &str, &str)]) -> Result<Message, Status> {
        let texts = texts.iter().map(|(tag, subject, content)| ((*tag).into(), (*subject).into(), (*content).into()));
        Message::of_template("news", "en", texts)
    }

    #[test]
    fn a_player_has_the_text_of_the_longest_beginning_of_their_language() {
        let message = template(&[("de", "", ""), ("en", "", ""), ("pt", "", ""), ("PT-br", "", "")]).unwrap();
        let chosen = |wanted| message.texts.keys().nth(message.choose(wanted)).unwrap().as_str();
        for (wanted, expected) in [
            ("de", "de"),
            ("de-AT", "de"),
            ("DE_at", "de"),
            ("pt-BR", "pt-br"),
            ("pt-BR-x-old", "pt-br"),
            ("pt-PT", "pt"),
            ("pts", "en"),
            ("fr", "en"),
            ("", "en"),
            ("not a language", "en"),
        ] {
            assert_eq!(chosen(wanted), expected, "{wanted}");
        }
    }

    #[test]
    fn placeholders_are_filled_in_texts_and_nowhere_else() {
        let content = r#"{"{who}":["{who}",{"n":1,"b":"{{who}"}]}"#;
        let message = template(&[("en", "Hi {who}, {{ok}", content)]).unwrap();
        let params = Params::from([("who".into(), "Ada {x}".into())]);
        let filled = message.filled(&params).unwrap();
        let text = filled.default_text().unwrap();
        assert_eq!(text.subject, "Hi Ada {x}, {ok}");
        assert_eq!(text.content, json!({"{who}": ["Ada {x}", {"n": 1, "b": "{who}"}]}));
        let missing = message.filled(&Params::new()).unwrap_err();
        assert!(missing.message().contains("have no who"), "{missing}");
        let long = Params::from([("who".into(), "x".repeat(300))]);
        assert!(message.filled(&long).is_err(), "a subject past its bound");
    }

    #[test]
    fn a_template_is_checked_when_it_is_stored() {
        for texts in [
            &[][..],
            &[("de", "no default", "")],
            &[("en", "", ""), ("EN", "twice", "")],
            &[("english language", "", "")],
            &[("en", "open {", "")],
            &[("en", "{no name}", "")],
            &[("en", "", r#"{"a":["{"]}"#)],
            &[("en", "", "[]")],
        ] {
            assert!(template(texts).is_err(), "{texts:?}");
        }
        let many: Vec<String> = (0..65).map(|n| format!("x{n}")).collect();
        let many: Vec<_> = many.iter().map(|tag| (tag.as_str(), "", "")).chain([("en", "", "")]).collect();
        assert!(template(&many).is_err());
    }
}
