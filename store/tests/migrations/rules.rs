//! What a migration may do while the release before it runs on its tables.

use std::{collections::BTreeSet, fmt};

use super::lexer::{File, Token, read};

/// Why a statement is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// It keeps a table from its readers or writers for as long as the table is large.
    Locks,
    /// It takes away what the release before uses.
    Breaks,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    pub harm: Harm,
    pub says: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.says)
    }
}

fn locks(says: impl Into<String>) -> Complaint {
    Complaint { harm: Harm::Locks, says: says.into() }
}

fn breaks(says: impl Into<String>) -> Complaint {
    Complaint { harm: Harm::Breaks, says: says.into() }
}

/// Everything that is wrong with a migration. `no_transaction`: it runs outside of one, as its first line says.
///
/// `-- locks: reason` excuses what locks; `-- contract: reason` what takes away, if the same file raises `schema_support.oldest`, so that
/// processes that still need it do not start.
pub fn complaints(text: &str) -> Vec<Complaint> {
    let file = read(text);
    let mut found: Vec<Complaint> = Vec::new();
    let mut fresh = BTreeSet::new();
    for statement in &file.statements {
        found.extend(judge(&Words(statement), &mut fresh, statement.len()));
    }
    found.extend(together(&file, text.starts_with("-- no-transaction")));
    if excused(&file, "locks:") {
        found.retain(|complaint| complaint.harm != Harm::Locks);
    }
    if excused(&file, "contract:") {
        found.retain(|complaint| complaint.harm != Harm::Breaks);
        if !file.statements.iter().any(|statement| Words(statement).begins(&["update", "schema_support"])) {
            found
                .push(breaks("a contract raises schema_support.oldest to the first migration whose builds do without"));
        }
    }
    found
}

/// A reason is a sentence, not a word.
fn excused(file: &File, mark: &str) -> bool {
    file.comments.iter().filter_map(|comment| comment.strip_prefix(mark)).any(|reason| reason.trim().len() >= 20)
}

/// What only shows in the whole file.
fn together(file: &File, no_transaction: bool) -> Vec<Complaint> {
    let concurrent = |statement: &Vec<Token>| Words(statement).has(&["concurrently"]);
    let adds = |statement: &Vec<Token>| Words(statement).has(&["add", "constraint"]);
    let validates = |statement: &Vec<Token>| Words(statement).has(&["validate", "constraint"]);
    let all = &file.statements;
    let mut found = Vec::new();
    if all.iter().any(concurrent) && !no_transaction {
        found.push(locks("what is done CONCURRENTLY needs `-- no-transaction` as the file's first line"));
    }
    if no_transaction && (all.len() != 1 || !all.iter().all(concurrent)) {
        // Several at once are one transaction to the server, and half of a file cannot be taken back.
        found.push(locks("a file without a transaction holds one statement, CREATE or DROP INDEX CONCURRENTLY"));
    }
    if all.iter().any(adds) && all.iter().any(validates) {
        found.push(locks(
            "VALIDATE CONSTRAINT belongs into a migration of its own: here it holds the lock of ADD CONSTRAINT",
        ));
    }
    found
}

struct Words<'a>(&'a [Token]);

impl<'a> Words<'a> {
    fn word(&self, at: usize) -> &'a str {
        match self.0.get(at) {
            Some(Token::Word(word)) => word,
            _ => "",
        }
    }

    fn begins(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(at, word)| self.word(at) == *word)
    }

    fn has(&self, words: &[&str]) -> bool {
        (0..self.0.len()).any(|at| Words(&self.0[at..]).begins(words))
    }

    /// The name after some words, of which those in `skipped` do not matter.
    fn name_after(&self, mut at: usize, skipped: &[&str]) -> &'a str {
        while skipped.contains(&self.word(at)) && at < self.0.len() {
            at += 1;
        }
        // Of `schema.name` the name.
        if self.0.get(at + 1) == Some(&Token::Sign('.')) { self.word(at + 2) } else { self.word(at) }
    }

    /// Parts between commas that are in no parentheses.
    fn parts(&self) -> Vec<Words<'a>> {
        let (mut depth, mut begin, mut parts) = (0, 0, Vec::new());
        for (at, token) in self.0.iter().enumerate() {
            match token {
                Token::Sign('(') => depth += 1,
                Token::Sign(')') => depth -= 1,
                Token::Sign(',') if depth == 0 => {
                    parts.push(Words(&self.0[begin..at]));
                    begin = at + 1;
                }
                _ => {}
            }
        }
        parts.push(Words(&self.0[begin..]));
        parts
    }
}

/// `fresh`: the tables that this file has made, which nobody uses yet.
fn judge(statement: &Words<'_>, fresh: &mut BTreeSet<String>, length: usize) -> Vec<Complaint> {
    let exists = ["if", "exists", "not", "only"];
    let one = |complaint| vec![complaint];
    match (statement.word(0), statement.word(1)) {
        ("create", "table") => {
            fresh.insert(statement.name_after(2, &exists).to_owned());
            Vec::new()
        }
        ("create", "unlogged") => {
            fresh.insert(statement.name_after(3, &exists).to_owned());
            Vec::new()
        }
        ("create", "index" | "unique") => index(statement, fresh).into_iter().collect(),
        ("create", "trigger") => trigger(statement, fresh, length).into_iter().collect(),
        ("create", "function" | "or" | "sequence" | "type" | "view")
        | ("comment" | "grant" | "revoke" | "set", _)
        | ("alter", "function") => Vec::new(),
        ("alter", "table") => alter_table(statement, fresh),
        ("drop", "index") if statement.word(2) == "concurrently" => {
            one(breaks("DROP INDEX takes away what the release before relies on"))
        }
        ("drop", what) => one(breaks(format!("DROP {} takes away what the release before uses", what.to_uppercase()))),
        ("insert", "into") => insert(statement, fresh).into_iter().collect(),
        ("update", "schema_support") => Vec::new(),
        ("update", table) | ("delete", table) if !fresh.contains(statement.name_after(1, &["from", "only"])) => {
            let what = statement.name_after(1, &["from", "only"]);
            let _ = table;
            one(locks(format!(
                "rows of {what} are changed in one transaction, and stay locked to its end: do it in steps, from a process"
            )))
        }
        ("update" | "delete", _) => Vec::new(),
        ("truncate" | "lock" | "vacuum" | "cluster" | "reindex", _) => {
            one(locks(format!("{} keeps everybody out", statement.word(0).to_uppercase())))
        }
        ("do", _) => body(statement),
        (first, second) => {
            one(locks(format!("{first} {second} is not known to be harmless; teach store/tests/migrations if it is")))
        }
    }
}

fn index(statement: &Words<'_>, fresh: &BTreeSet<String>) -> Option<Complaint> {
    let on = (0..statement.0.len()).find(|at| statement.word(*at) == "on")?;
    let table = statement.name_after(on + 1, &["only"]);
    if statement.has(&["concurrently"]) {
        // Outside of a transaction it can be there without being written down. With these words it has a name, too, by which what an
        // attempt left is found.
        return (!statement.has(&["concurrently", "if", "not", "exists"])).then(|| {
            locks("what an attempt that was cut short has built is taken: CREATE INDEX CONCURRENTLY IF NOT EXISTS")
        });
    }
    (!fresh.contains(table)).then(|| {
        locks(format!(
            "CREATE INDEX keeps writers of {table} out until it is built: CONCURRENTLY, in a file of its own"
        ))
    })
}

fn trigger(statement: &Words<'_>, fresh: &BTreeSet<String>, length: usize) -> Option<Complaint> {
    let on = (0..length).find(|at| statement.word(*at) == "on")?;
    let table = statement.name_after(on + 1, &[]);
    (!fresh.contains(table))
        .then(|| breaks(format!("a trigger on {table} changes what the statements of the release before do")))
}

fn insert(statement: &Words<'_>, fresh: &BTreeSet<String>) -> Option<Complaint> {
    let table = statement.name_after(2, &[]);
    (!fresh.contains(table) && statement.has(&["select"]))
        .then(|| locks(format!("rows are copied into {table}, which is in use, in one transaction")))
}

/// A block's body, whose statements may be strings: by what is in it.
fn body(statement: &Words<'_>) -> Vec<Complaint> {
    let text: String = statement
        .0
        .iter()
        .filter_map(|token| if let Token::Literal(text) = token { Some(text.to_lowercase()) } else { None })
        .collect();
    let hidden = [
        "alter table",
        "drop table",
        "drop column",
        "update ",
        "delete from",
        "lock table",
        "truncate",
        "create index",
        "create unique",
    ];
    let found = hidden.into_iter().find(|what| text.contains(what));
    found
        .map(|what| locks(format!("a DO block hides `{}`: write it as a statement", what.trim())))
        .into_iter()
        .collect()
}

fn alter_table(statement: &Words<'_>, fresh: &BTreeSet<String>) -> Vec<Complaint> {
    let exists = ["if", "exists", "only"];
    let table = statement.name_after(2, &exists);
    if fresh.contains(table) {
        return Vec::new();
    }
    let named = (0..statement.0.len()).find(|at| statement.word(*at) == table).unwrap_or(2);
    Words(&statement.0[named + 1..]).parts().iter().filter_map(|action| alter(action, table)).collect()
}

fn alter(action: &Words<'_>, table: &str) -> Option<Complaint> {
    match (action.word(0), action.word(1)) {
        ("add", "constraint" | "check" | "unique" | "primary" | "foreign" | "exclude") => {
            (!action.has(&["not", "valid"]) && !action.has(&["using", "index"])).then(|| {
                locks(format!(
                    "ADD CONSTRAINT reads all of {table} under a lock: NOT VALID here, VALIDATE in the next migration"
                ))
            })
        }
        ("add", _) => add_column(action, table),
        ("drop", "constraint") | ("validate", "constraint") | ("set" | "reset", "") | ("owner", "to") => None,
        ("drop", _) => {
            Some(breaks(format!("DROP COLUMN takes away from {table} what the release before reads and writes")))
        }
        ("rename", _) => Some(breaks(format!("RENAME takes away from {table} the name that the release before knows"))),
        ("alter", _) => alter_column(action, table),
        (first, second) => Some(locks(format!("ALTER TABLE {table} {first} {second} is not known to be harmless"))),
    }
}

fn add_column(action: &Words<'_>, table: &str) -> Option<Complaint> {
    if action.has(&["not", "null"]) && !action.has(&["default"]) {
        return Some(breaks(format!(
            "a new column of {table} that must be given is not, by the release before: give it a default"
        )));
    }
    if let Some(at) = (0..action.0.len()).find(|at| action.word(*at) == "default")
        && action.0.get(at + 2) == Some(&Token::Sign('('))
        && !["now", "transaction_timestamp", "statement_timestamp"].contains(&action.word(at + 1))
    {
        return Some(locks(format!(
            "the default of a new column of {table} is computed for each row, which rewrites the table"
        )));
    }
    let builds = [&["generated"][..], &["unique"], &["primary", "key"], &["references"], &["check"]];
    let found = builds.into_iter().find(|words| action.has(words))?;
    Some(locks(format!(
        "{} on a new column of {table} reads or rewrites it under a lock: a constraint of its own, NOT VALID",
        found[0].to_uppercase()
    )))
}

fn alter_column(action: &Words<'_>, table: &str) -> Option<Complaint> {
    if action.has(&["type"]) {
        return Some(locks(format!("ALTER COLUMN TYPE rewrites {table} under a lock: a new column beside it")));
    }
    if action.has(&["set", "not", "null"]) {
        return Some(breaks(format!("SET NOT NULL refuses rows of {table} that the release before may write")));
    }
    if action.has(&["drop", "default"]) {
        return Some(breaks(format!(
            "DROP DEFAULT refuses rows of {table} in which the release before leaves the column out"
        )));
    }
    None
}
