use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap_complete::Shell;

/// Print what makes a shell complete this command, e.g. `source <(asobi completion bash)`
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &CompletionArgs, mut command: clap::Command) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    // Whoever reads may have seen enough, as `head` has.
    let _gone = io::stdout().write_all(&script);
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, ValueEnum as _};

    use super::*;

    #[test]
    fn every_shell_knows_the_commands() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut crate::Cli::command(), "asobi", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["matchmaker", "players", "drain", "top"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
