use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use asobi_service_kit::config::{self, ConfigArgs, DEFAULT_TOML, EXIT_CONFIG, Source};

/// Print the configuration: all keys with their defaults and meaning, as a file to start from
#[derive(Debug, clap::Args)]
pub struct ConfigCommand {
    /// Print the values in force and where each comes from; secrets are hidden
    #[arg(long)]
    effective: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

pub fn run(args: &ConfigCommand) -> ExitCode {
    let text = if args.effective {
        match config::load(&args.config) {
            Ok(config) => effective(&config),
            Err(errors) => {
                eprintln!("{errors}");
                return ExitCode::from(EXIT_CONFIG);
            }
        }
    } else {
        DEFAULT_TOML.to_owned()
    };
    // Whoever reads may have seen enough, as `head` has.
    let _gone = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn effective(config: &config::Config) -> String {
    let mut text = String::new();
    let mut section = "";
    for value in config.provenance.values() {
        let (of, key) = value.key.split_once('.').unwrap_or(("", &value.key));
        if of != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}[{of}]\n"));
            section = of;
        }
        let source = match &value.source {
            Source::Default => String::new(),
            other => format!("  # {other}"),
        };
        text.push_str(&format!("{key} = {}{source}\n", value.shown));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_is_a_file_again() {
        let config = config::Config::with_sets([("auth.guest", "true"), ("cluster.key", "0123456789abcdef")]).unwrap();
        let text = effective(&config);
        assert!(text.contains("[auth]\n") && text.contains("guest = true  # --set\n"), "{text}");
        assert!(!text.contains("0123456789abcdef"));
        assert!(text.contains("\n[match]\n") && text.contains("capacity = 5000\n"));
    }
}
