//! What may be typed before and after every command.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ArgAction, Parser};

use crate::commands::Command;
use crate::exit;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Back up virtual machines into a deduplicating repository
///
/// Disks are cut into chunks, and each chunk is stored once, whichever disk, day or machine it
/// comes from. Every snapshot is complete in itself and can be restored alone.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, styles = STYLES, after_help = exit::TABLE)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Folder that holds the repository
    #[arg(
        short,
        long,
        global = true,
        value_name = "REPO",
        env = "CAIRN_REPOSITORY"
    )]
    pub repository: Option<OsString>,

    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// Show no progress, no remarks and not what was done: only what is asked for, warnings, errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more about what is done
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Work with N threads [default: as many as there are processors]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Read the passphrase of an encrypted repository from the first line of FILE
    ///
    /// Without it these are asked, in this order: CAIRN_PASSWORD, the passphrase itself;
    /// CAIRN_PASSWORD_COMMAND, a command for the shell that prints it; the credential
    /// `cairn.password` of a systemd service; the terminal.
    #[arg(long, global = true, value_name = "FILE", env = "CAIRN_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Each command with those below it, hidden ones too.
    fn all(command: &mut clap::Command, each: &mut impl FnMut(&mut clap::Command)) {
        each(command);
        for below in command.get_subcommands_mut() {
            all(below, each);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_has_two_options_of_one_name() {
        let mut command = Cli::command();
        command.build();
        let mut commands = 0;
        all(&mut command, &mut |command| {
            let name = command.get_name().to_owned();
            let ids = command.get_arguments().map(|arg| arg.get_id().clone());
            let mut seen = std::collections::HashSet::new();
            for id in ids {
                assert!(seen.insert(id.clone()), "{name}: {id} is there twice");
            }
            assert!(!command.render_long_help().to_string().is_empty());
            commands += 1;
        });
        assert!(commands > 30, "{commands}");
    }

    /// The words of an example, without what a shell does with its output and without remarks.
    fn words(example: &str) -> Vec<String> {
        let line = example.trim();
        let line = line.split("  ").next().unwrap_or(line);
        let line = line.split(['>', '|']).next().unwrap_or(line);
        // What stands in quotes is one word.
        let parts = line.split(['\'', '"']).enumerate();
        let words = parts.flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        words.map(str::to_owned).collect()
    }

    #[test]
    fn every_example_is_taken() {
        let mut command = Cli::command();
        command.build();
        let mut examples = Vec::new();
        all(&mut command, &mut |command| {
            let help = command.render_long_help().to_string();
            let (_, text) = help.split_once("Examples:\n").unwrap_or_default();
            let lines = text.lines().filter(|line| line.starts_with("  cairn "));
            examples.extend(lines.map(str::to_owned));
        });
        assert!(examples.len() > 60, "{}", examples.len());
        for example in examples {
            if let Err(error) = Cli::try_parse_from(words(&example)) {
                let is_help = error.kind() == clap::error::ErrorKind::DisplayHelp;
                assert!(is_help, "{example}: {error}");
            }
        }
    }

    /// Command lines of the README and of the pages, each on one line.
    fn documented() -> Vec<String> {
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut pages = vec![top.join("README.md")];
        let docs = std::fs::read_dir(top.join("docs")).expect("there are pages");
        pages.extend(docs.map(|entry| entry.expect("listed").path()));
        let mut lines = Vec::new();
        for page in pages
            .iter()
            .filter(|page| page.extension().is_some_and(|it| it == "md"))
        {
            let text = std::fs::read_to_string(page).expect("readable");
            let text = text.replace("\\\n", " ");
            let is_block = |number: &usize| number % 2 == 1;
            let blocks = text.split("\n```").enumerate();
            let fenced = blocks
                .filter(|(number, _)| is_block(number))
                .map(|(_, block)| block);
            let indented = text.lines().filter_map(|line| line.strip_prefix("    "));
            let all = fenced.flat_map(str::lines).chain(indented);
            let ours = all.filter(|line| line.starts_with("cairn ") && !line.contains("$("));
            lines.extend(ours.map(|line| {
                let line = line.split(" # ").next().unwrap_or(line);
                line.trim_end_matches([' ', '&']).to_owned()
            }));
        }
        lines
    }

    #[test]
    fn every_line_of_the_pages_is_taken() {
        let lines = documented();
        assert!(lines.len() > 40, "{}", lines.len());
        for line in lines {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Err(error) = Cli::try_parse_from(words(&line)) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in [
            ["cairn", "-r", "/r", "--json", "completions", "bash"],
            ["cairn", "completions", "bash", "-r", "/r", "--json"],
        ] {
            let cli = Cli::try_parse_from(line).expect("the line is valid");
            assert_eq!(cli.global.repository, Some("/r".into()));
            assert!(cli.global.json);
        }
        let refused = Cli::try_parse_from(["cairn", "-q", "-v", "completions", "bash"]);
        assert!(refused.is_err());
    }
}
