//! `cairn completions`: what a shell needs to complete command lines.

use std::io::{self, Write};

use anyhow::{Context as _, Result};
use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::args::Cli;
use crate::complete::VARIABLE;
use crate::context::{Context, closed_pipe_is_fine};
use crate::exit::Outcome;

const EXAMPLES: &str = "\
Examples:
  cairn completions bash > /etc/bash_completion.d/cairn
  cairn completions zsh > \"${fpath[1]}/_cairn\"
  cairn completions fish > ~/.config/fish/completions/cairn.fish

bash, zsh and fish ask this program for what may come next: commands and options, VMs, snapshots and
paths inside them, of the repository that -r or CAIRN_REPOSITORY names. Of an encrypted one only
where its passphrase is given without asking.";

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// Shell to write for
    pub shell: Shell,
}

/// For bash, which takes `:` and `@` for the end of a word unless it is helped.
const BASH: &str = r#"_cairn() {
    local cur words cword IFS
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n :@ cur words cword
    else
        words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]}
    fi
    IFS=$'\013'
    COMPREPLY=($(_CLAP_IFS="$IFS" _CLAP_COMPLETE_INDEX="$cword" CAIRN_COMPLETE=bash \
        cairn -- "${words[@]}" 2>/dev/null))
    IFS=$' \t\n'
    # What stands before the last of these is no part of the word that bash replaces.
    local before=${cur%"${cur##*[:@=]}"}
    case $COMP_WORDBREAKS in *[:@=]*) COMPREPLY=("${COMPREPLY[@]#"$before"}") ;; esac
    case ${COMPREPLY[0]-} in *[=/:@]) compopt -o nospace 2>/dev/null ;; esac
}
complete -o bashdefault -o nosort -F _cairn cairn
"#;

/// Runs the command.
pub fn run(args: &CompletionsArgs, _context: &Context) -> Result<Outcome> {
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => script.extend(BASH.bytes()),
        Shell::Zsh | Shell::Fish => {
            let name = args.shell.to_possible_value();
            let name = name.context("every shell has a name")?;
            let shells = Shells::builtins();
            let shell = shells.completer(name.get_name());
            let shell = shell.context("the shell is known")?;
            shell.write_registration(VARIABLE, "cairn", "cairn", "cairn", &mut script)?;
        }
        other => clap_complete::generate(other, &mut Cli::command(), "cairn", &mut script),
    }
    closed_pipe_is_fine(io::stdout().write_all(&script))?;
    Ok(Outcome::Done)
}
