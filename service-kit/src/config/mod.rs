//! Configuration: one commented `default.toml`, compiled in, is the source of the defaults, of the known keys and of
//! their types. Over it lie a file, the environment, `--set` and named flags, in this order. Every mistake in every layer
//! is reported at once.

mod args;
mod effective;
mod error;
mod layers;
mod rules;
mod schema;
mod suggest;
mod values;

#[cfg(test)]
mod tests;

pub use args::ConfigArgs;
pub use effective::{EffectiveValue, Provenance};
pub use error::{ConfigErrors, Mistake, Source};
pub use layers::{load, load_from};
pub use schema::*;

/// The commented defaults, as `asobi config` prints them.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Exit code of a process whose configuration is wrong (`EX_USAGE` of sysexits).
pub const EXIT_CONFIG: u8 = 64;

/// Variables that begin with `ASOBI_` and are no configuration: where the file is, and what the set-up around the
/// processes uses and their environment therefore contains.
const OTHER_VARIABLES: [&str; 7] = [
    "ASOBI_CONFIG",
    "ASOBI_POSTGRES_BIN",
    "ASOBI_TEST_DATABASE_URL",
    "ASOBI_FAULTS",
    "ASOBI_KEEP_NAMES",
    // What `asobi ctl` shows, and to whom.
    "ASOBI_TOKEN",
    "ASOBI_ADDR",
];

impl Config {
    /// The defaults with some keys set, as `--set` would: for tests. No file and no environment is read.
    ///
    /// # Errors
    /// All that [`load`] reports of `--set`.
    pub fn with_sets<K: AsRef<str>, V: AsRef<str>>(
        sets: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigErrors> {
        let set = sets.into_iter().map(|(k, v)| format!("{}={}", k.as_ref(), v.as_ref())).collect();
        load_from(&ConfigArgs { set, ..ConfigArgs::default() }, std::iter::empty())
    }

    /// Gives the node a name made from its role and a random suffix, unless it has one.
    pub fn name_node(&mut self, role: &str) {
        if self.node.id.is_empty() {
            let random = uuid::Uuid::new_v4().simple().to_string();
            self.node.id = format!("{role}-{}", &random[..8]);
        }
    }
}
