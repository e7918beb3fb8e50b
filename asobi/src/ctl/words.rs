//! `asobi ctl words`: what chat must not say.

use asobi_cluster::Role;
use asobi_proto::social_v1::{
    AddWordRequest, ListWordsRequest, RemoveWordRequest, WordAction, moderation_service_client::ModerationServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Ctl, DEADLINE, given::request_id, output, shown::when};

/// What chat must not say
#[derive(Debug, Args)]
pub struct WordsArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// All words
    List,
    /// Mask a word, or refuse messages with it, from now on and whatever its case. Again: replaces what was said of it
    Add {
        /// At most 128 bytes; may have spaces in it
        word: String,
        /// Refuse the message, instead of asterisks for the word
        #[arg(long)]
        refuse: bool,
        /// Only where it stands as a word of its own, not within others
        #[arg(long)]
        whole: bool,
    },
    /// Take a word out; no error when it is not there
    Rm { word: String },
}

pub async fn run(args: &WordsArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        Order::List => list(ctl).await,
        Order::Add { word, refuse, whole } => {
            let action = if *refuse { WordAction::Refuse } else { WordAction::Mask };
            let request =
                AddWordRequest { word: word.clone(), action: action.into(), whole: *whole, request_id: request_id() };
            let answer = ctl.ask(Some(Role::Social), async |channel| {
                ModerationServiceClient::new(channel).add_word(with_deadline(request.clone(), DEADLINE)).await
            });
            told(ctl, &answer.await?.word.unwrap_or_default().word, "added");
            Ok(())
        }
        Order::Rm { word } => {
            let request = RemoveWordRequest { word: word.clone(), request_id: request_id() };
            let answer = ctl.ask(Some(Role::Social), async |channel| {
                ModerationServiceClient::new(channel).remove_word(with_deadline(request.clone(), DEADLINE)).await
            });
            answer.await?;
            told(ctl, word, "removed");
            Ok(())
        }
    }
}

async fn list(ctl: &Ctl) -> anyhow::Result<()> {
    let words = ctl.ask(Some(Role::Social), async |channel| {
        ModerationServiceClient::new(channel).list_words(with_deadline(ListWordsRequest {}, DEADLINE)).await
    });
    let words = words.await?.words;
    let action = |action: WordAction| if action == WordAction::Refuse { "refuse" } else { "mask" };
    if ctl.json {
        let listed = words.iter().map(|word| {
            json!({"word": word.word, "action": action(word.action()), "whole": word.whole, "added_by": word.added_by,
                   "added_at": when(word.added_at)})
        });
        output::json(&listed.collect());
        return Ok(());
    }
    let rows: Vec<[String; 4]> = words
        .iter()
        .map(|word| {
            let stands = if word.whole { "as a word" } else { "anywhere" };
            [action(word.action()).to_owned(), stands.to_owned(), word.added_by.clone(), format!("{:?}", word.word)]
        })
        .collect();
    output::line(&output::table(["action", "stands", "by", "word"], &rows));
    Ok(())
}

fn told(ctl: &Ctl, word: &str, done: &str) {
    if ctl.json {
        output::json(&json!({"word": word, "done": done}));
    } else {
        output::line(&format!("{word:?} was {done}"));
    }
}
