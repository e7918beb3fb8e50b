//! Laying the layers over each other.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    Config, ConfigArgs, ConfigErrors, DEFAULT_TOML, Mistake, OTHER_VARIABLES, Provenance, Source, effective, rules,
    suggest, values,
};

/// Loads the configuration of this process.
///
/// # Errors
/// All mistakes of all layers at once.
pub fn load(args: &ConfigArgs) -> Result<Config, ConfigErrors> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    load_from(args, variables)
}

/// [`load`] with the environment as a parameter.
///
/// # Errors
/// All mistakes of all layers at once.
pub fn load_from(
    args: &ConfigArgs,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigErrors> {
    let mut variables: BTreeMap<String, String> =
        variables.into_iter().filter(|(name, _)| name.starts_with("ASOBI_")).collect();
    let mut layers = Layers::new();
    for default in &args.defaults {
        layers.set(default, Source::Preset);
    }
    let named = variables.remove("ASOBI_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = args.config.clone().or(named) {
        layers.file(&path);
    }
    for (name, value) in &variables {
        layers.variable(name, value);
    }
    for set in &args.set {
        layers.set(set, Source::Set);
    }
    for (flag, key, value) in args.named() {
        layers.text(key, value, Source::Flag(flag));
    }
    layers.finish()
}

struct Layers {
    defaults: BTreeMap<String, Value>,
    values: BTreeMap<String, (Value, Source)>,
    mistakes: Vec<Mistake>,
}

impl Layers {
    fn new() -> Self {
        let table: Table = DEFAULT_TOML.parse().expect("the defaults are compiled in and tested");
        let mut defaults = BTreeMap::new();
        for (section, keys) in table {
            for (key, value) in keys.as_table().into_iter().flatten() {
                defaults.insert(format!("{section}.{key}"), value.clone());
            }
        }
        let values = defaults.iter().map(|(k, v)| (k.clone(), (v.clone(), Source::Default))).collect();
        Self { defaults, values, mistakes: Vec::new() }
    }

    fn mistake(&mut self, key: impl Into<String>, source: Source, problem: impl Into<String>) {
        self.mistakes.push(Mistake { key: key.into(), source, problem: problem.into() });
    }

    fn file(&mut self, path: &Path) {
        let at = |line| Source::File { path: path.to_owned(), line };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!("cannot be read: {error}; expected a file in TOML");
                return self.mistake(path.display().to_string(), at(1), problem);
            }
        };
        let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            let line = line_of(error.span().map_or(0, |span| span.start));
            self.mistake(path.display().to_string(), at(line), format!("is not TOML: {}", error.message()));
        }
        for (section, content) in table.into_inner() {
            let line = line_of(section.span().start);
            let name = section.into_inner().into_owned();
            let DeValue::Table(keys) = content.into_inner() else {
                self.unknown(&name, &name, at(line));
                continue;
            };
            if !self.defaults.keys().any(|key| key.split_once('.').is_some_and(|(s, _)| s == name)) && keys.is_empty() {
                self.unknown(&name, &name, at(line));
            }
            for (key, value) in keys {
                let line = line_of(key.span().start);
                let key = format!("{name}.{}", key.into_inner());
                let deserializer = toml::de::ValueDeserializer::from(value);
                match Value::deserialize(deserializer) {
                    Ok(value) => self.typed(&key, value, at(line)),
                    Err(error) => self.mistake(key, at(line), error.message().to_owned()),
                }
            }
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        if OTHER_VARIABLES.contains(&name) {
            return;
        }
        let key = self.defaults.keys().find(|key| variable_name(key) == name).cloned();
        let source = Source::Variable(name.to_owned());
        match key {
            Some(key) => self.text(&key, value, source),
            None => {
                let all: Vec<String> = self.defaults.keys().map(|key| variable_name(key)).collect();
                let problem = match suggest::nearest(name, all.iter().map(String::as_str)) {
                    Some(near) => format!("no such key; did you mean {near}?"),
                    None => "no such key; `asobi config` prints all keys".to_owned(),
                };
                self.mistake(name, source, problem);
            }
        }
    }

    fn set(&mut self, set: &str, source: Source) {
        match set.split_once('=') {
            Some((key, value)) => self.text(key.trim(), value, source),
            None => self.mistake(set, source, "has no '='; expected key=value"),
        }
    }

    fn unknown(&mut self, key: &str, typed: &str, source: Source) {
        let problem = match suggest::nearest(typed, self.defaults.keys().map(String::as_str)) {
            Some(near) => format!("no such key; did you mean {near}?"),
            None => "no such key; `asobi config` prints all keys".to_owned(),
        };
        self.mistake(key, source, problem);
    }

    /// A value written as text, in a variable or a flag.
    fn text(&mut self, key: &str, text: &str, source: Source) {
        let Some(default) = self.defaults.get(key) else { return self.unknown(key, key, source) };
        match values::parse(text, default) {
            Some(value) => self.check(key, value, source),
            None => {
                let problem = wrong(key, &Value::String(text.to_owned()), &expected(key, default));
                self.mistake(key, source, problem);
            }
        }
    }

    /// A value that has a type already, in a file.
    fn typed(&mut self, key: &str, value: Value, source: Source) {
        let Some(default) = self.defaults.get(key) else { return self.unknown(key, key, source) };
        match values::conform(value.clone(), default) {
            Some(value) => self.check(key, value, source),
            None => {
                let problem = wrong(key, &value, &expected(key, default));
                self.mistake(key, source, problem);
            }
        }
    }

    fn check(&mut self, key: &str, value: Value, source: Source) {
        match rules::check(key, &value) {
            Ok(()) => {
                self.values.insert(key.to_owned(), (value, source));
            }
            Err(right) => {
                let problem = wrong(key, &value, &right);
                self.mistake(key, source, problem);
            }
        }
    }

    fn finish(mut self) -> Result<Config, ConfigErrors> {
        let together: Vec<_> = rules::check_together(|key| self.values.get(key).map(|(value, _)| value)).collect();
        for (key, right) in together {
            if let Some((value, source)) = self.values.get(key) {
                let (problem, source) = (wrong(key, value, right), source.clone());
                self.mistake(key, source, problem);
            }
        }
        if !self.mistakes.is_empty() {
            return Err(ConfigErrors(self.mistakes));
        }
        let provenance = Provenance::new(&self.values);
        let mut table = Table::new();
        for (path, (value, _)) in self.values {
            let Some((section, key)) = path.split_once('.') else { continue };
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(keys) = section {
                keys.insert(key.to_owned(), value);
            }
        }
        // The rules keep every value inside its field's type, so this fails for nobody's input; still, it is reported.
        let mut config = Config::deserialize(table).map_err(|error| {
            ConfigErrors(vec![Mistake {
                key: "configuration".to_owned(),
                source: Source::Default,
                problem: error.message().to_owned(),
            }])
        })?;
        config.provenance = provenance;
        Ok(config)
    }
}

fn variable_name(key: &str) -> String {
    format!("ASOBI_{}", key.replace('.', "_").to_uppercase())
}

/// What would be right, in words: the rule's if there is a narrower one than the type.
fn expected(key: &str, default: &Value) -> String {
    // A list that is no list breaks every rule, and its entries' rule would mislead.
    if default.is_array() {
        return values::expected_type(default).to_owned();
    }
    let impossible = Value::Array(Vec::new());
    match rules::check(key, &impossible) {
        Err(right) => right,
        Ok(()) => values::expected_type(default).to_owned(),
    }
}

fn wrong(key: &str, value: &Value, right: &str) -> String {
    format!("{} is wrong; expected {right}", effective::show(key, value))
}
