//! `asobi ctl notify templates`: the texts that notifications are made of.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use asobi_proto::social_v1::{
    DeleteTemplateRequest, GetTemplateRequest, ListTemplatesRequest, NotificationTemplate, PutTemplateRequest,
    TemplateText,
};
use asobi_service_kit::grpc::with_deadline;
use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{Ctl, DEADLINE, given::request_id, output, shown::when},
    ask, read,
};

#[derive(Debug, Subcommand)]
pub enum TemplateOrder {
    /// All of them, by id
    List,
    /// One with its texts, as `put` takes it
    Show { id: String },
    /// Store the template of a JSON file: {"id": …, "type": …, "default_language": "en", "texts": {"en": {"subject": …, "content": {…}}}}
    Put { file: PathBuf },
    /// Delete one; no error when there is none
    Rm { id: String },
}

/// A template as a file holds it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    default_language: String,
    texts: BTreeMap<String, Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    subject: String,
    #[serde(default)]
    content: serde_json::Map<String, Value>,
}

impl From<Template> for NotificationTemplate {
    fn from(template: Template) -> Self {
        let texts = template.texts.into_iter().map(|(language, text)| TemplateText {
            language,
            subject: text.subject,
            content_json: Value::Object(text.content).to_string(),
        });
        Self {
            id: template.id,
            r#type: template.kind,
            default_language: template.default_language,
            texts: texts.collect(),
            ..Self::default()
        }
    }
}

pub async fn run(order: Option<&TemplateOrder>, ctl: &Ctl) -> anyhow::Result<()> {
    match order.unwrap_or(&TemplateOrder::List) {
        TemplateOrder::List => list_templates(ctl).await,
        TemplateOrder::Show { id } => {
            let request = GetTemplateRequest { template_id: id.clone() };
            let answer = ask(ctl, request, async |mut c, r| c.get_template(with_deadline(r, DEADLINE)).await).await?;
            output::json(&template_object(&answer.template.unwrap_or_default()));
            Ok(())
        }
        TemplateOrder::Put { file } => {
            let template: Template = serde_json::from_str(&read(file)?).with_context(|| {
                format!("{} is no template; see `asobi ctl notify templates put --help`", file.display())
            })?;
            let id = template.id.clone();
            let request = PutTemplateRequest { request_id: request_id(), template: Some(template.into()) };
            ask(ctl, request, async |mut c, r| c.put_template(with_deadline(r, DEADLINE)).await).await?;
            told(ctl, &id, "stored");
            Ok(())
        }
        TemplateOrder::Rm { id } => {
            let request = DeleteTemplateRequest { request_id: request_id(), template_id: id.clone() };
            ask(ctl, request, async |mut c, r| c.delete_template(with_deadline(r, DEADLINE)).await).await?;
            told(ctl, id, "deleted");
            Ok(())
        }
    }
}

fn told(ctl: &Ctl, id: &str, done: &str) {
    if ctl.json {
        output::json(&json!({"template_id": id, "done": done}));
    } else {
        output::line(&format!("{id} was {done}"));
    }
}

async fn list_templates(ctl: &Ctl) -> anyhow::Result<()> {
    let (mut templates, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTemplatesRequest { page_size: 100, page_token };
        let page = ask(ctl, request, async |mut c, r| c.list_templates(with_deadline(r, DEADLINE)).await).await?;
        templates.extend(page.templates);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        output::json(&templates.iter().map(template_object).collect());
        return Ok(());
    }
    let row = |t: &NotificationTemplate| {
        let languages: Vec<&str> = t.texts.iter().map(|text| text.language.as_str()).collect();
        [
            t.id.clone(),
            t.r#type.clone(),
            t.default_language.clone(),
            languages.join(","),
            t.updated_by.clone(),
            when(t.updated_at).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = templates.iter().map(row).collect();
    output::line(&output::table(["template", "type", "default", "languages", "by", "updated"], &rows));
    Ok(())
}

fn template_object(template: &NotificationTemplate) -> Value {
    let text = |text: &TemplateText| {
        let content: Value = serde_json::from_str(&text.content_json).unwrap_or_default();
        (text.language.clone(), json!({"subject": text.subject, "content": content}))
    };
    json!({
        "id": template.id,
        "type": template.r#type,
        "default_language": template.default_language,
        "texts": template.texts.iter().map(text).collect::<serde_json::Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_file_is_what_show_prints() {
        let text = r#"{"id":"a","type":"news","default_language":"en","texts":{"de":{"subject":"Hallo","content":{"n":1}},"en":{"subject":"Hi"}}}"#;
        let template: NotificationTemplate = serde_json::from_str::<Template>(text).unwrap().into();
        let again: NotificationTemplate =
            serde_json::from_value::<Template>(template_object(&template)).unwrap().into();
        assert_eq!((template.texts.len(), &again), (2, &template));
        assert!(serde_json::from_str::<Template>(r#"{"id":"a","texts":{}}"#).is_err());
    }
}
