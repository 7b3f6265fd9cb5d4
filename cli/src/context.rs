//! What every command has at hand: the global options, printing, progress and the way to stop.

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::{Context as _, Result};
use cairn_engine::progress::{Cancel, Progress};
use zeroize::Zeroizing;

use crate::args::Global;
use crate::exit::CliError;
use crate::folders::Cache;
use crate::output::Report;
use crate::output::listing::Form;
use crate::output::progress::{Meter, Shown};
use crate::output::terminal::{Plain, say};
use crate::{interrupt, password};

/// Whether the command has printed its result: who asked for one document gets no second one where
/// it fails after that.
static HAS_PRINTED: AtomicBool = AtomicBool::new(false);

/// Returns whether a result was printed.
pub fn has_printed() -> bool {
    HAS_PRINTED.load(Ordering::Relaxed)
}

/// The global options, ready for use.
pub struct Context {
    global: Global,
    cache: OnceLock<Cache>,
}

impl Context {
    /// Takes the options in as they were typed.
    pub fn new(global: Global) -> Self {
        Self {
            global,
            cache: OnceLock::new(),
        }
    }

    /// Returns the user's cache folder. Where there is none, says what that means.
    pub fn cache_folder(&self) -> Result<PathBuf> {
        if let Some(cache) = self.cache.get() {
            return Ok(cache.path());
        }
        let found = Cache::find();
        let found = found.context("there is neither a home nor a folder for temporary files")?;
        if let Cache::Lost(_) = found {
            warn(
                "there is no home to keep a cache in, so nothing is remembered of the repository \
                 until the next command. XDG_CACHE_HOME names a folder for it",
            );
        }
        Ok(self.cache.get_or_init(|| found).path())
    }

    /// Returns the repository's folder.
    pub fn repository(&self) -> Result<PathBuf> {
        let place = self
            .global
            .repository
            .as_ref()
            .filter(|place| !place.is_empty());
        let place = place.ok_or(CliError::NoRepositoryGiven)?;
        if let Some((scheme, _)) = place.to_str().and_then(|place| place.split_once("://")) {
            let text = format!("repositories at `{scheme}://` are not supported yet");
            return Err(CliError::Usage(text).into());
        }
        Ok(PathBuf::from(place))
    }

    /// Returns the file with the passphrase, if one is named.
    pub fn password_file(&self) -> Option<&Path> {
        self.global.password_file.as_deref()
    }

    /// Returns whether the user gave a passphrase without being asked.
    pub fn is_passphrase_given(&self) -> bool {
        password::is_given(self.global.password_file.as_deref())
    }

    /// Returns another passphrase for a repository that has one.
    pub fn new_passphrase(&self, file: Option<&Path>) -> Result<Zeroizing<String>> {
        password::another(file)
    }

    /// Returns the passphrase of a repository that there is.
    pub fn passphrase(&self) -> Result<Zeroizing<String>> {
        self.passphrase_of(&self.repository()?)
    }

    /// Returns the passphrase of another repository, which has the same.
    pub fn passphrase_of(&self, place: &Path) -> Result<Zeroizing<String>> {
        password::existing(self.global.password_file.as_deref(), place)
    }

    /// Returns the passphrase of a repository that is being made.
    pub fn first_passphrase(&self) -> Result<Zeroizing<String>> {
        password::first(self.global.password_file.as_deref(), &self.repository()?)
    }

    /// Returns how many threads may work.
    pub fn threads(&self) -> NonZeroUsize {
        let all = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.global.threads.unwrap_or_else(all)
    }

    /// Begins work that takes time: signals ask it to stop from now on.
    pub fn cancel(&self) -> Result<Cancel> {
        let cancel = Cancel::default();
        interrupt::install(&cancel).context("cannot handle signals")?;
        Ok(cancel)
    }

    /// Shows how far an operation is until the meter is dropped: on a terminal by a line that is
    /// redrawn, elsewhere, as in a journal, by one a minute.
    pub fn meter(&self, verb: &'static str, progress: &Arc<Progress>) -> Meter {
        let shown = match (self.global.quiet, io::stderr().is_terminal()) {
            (true, _) => Shown::Never,
            (false, true) => Shown::Line,
            (false, false) => Shown::Log,
        };
        Meter::start(verb, Arc::clone(progress), shown)
    }

    /// Prints what a command has done. Who wants it quiet reads that from the exit code.
    pub fn report(&self, report: &impl Report) -> Result<()> {
        match self.global.quiet && !self.global.json {
            true => Ok(()),
            false => self.print(report),
        }
    }

    /// Prints what was asked for: as text, or as one JSON document.
    pub fn print(&self, report: &impl Report) -> Result<()> {
        HAS_PRINTED.store(true, Ordering::Relaxed);
        let mut out = self.out();
        let written = if self.global.json {
            serde_json::to_writer_pretty(&mut out, report)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out))
        } else {
            report.write_text(&mut out)
        };
        closed_pipe_is_fine(written.and_then(|()| out.flush()))
    }

    /// Returns where results go. JSON has what is in a name, and text what may be shown of it.
    pub fn out(&self) -> Box<dyn Write> {
        let out = io::BufWriter::new(io::stdout().lock());
        match self.global.json {
            true => Box::new(out),
            false => Box::new(Plain(out)),
        }
    }

    /// Returns how a listing of files is to be written.
    pub fn form(&self, is_long: bool) -> Form {
        match (self.global.json, is_long) {
            (true, _) => Form::Json,
            (false, true) => Form::Long,
            (false, false) => Form::Names,
        }
    }

    /// Says something beside the result, unless it was asked not to.
    pub fn remark(&self, text: &str) {
        if !self.global.quiet {
            say(text);
        }
    }

    /// Says something that must not be missed.
    pub fn warn(&self, text: &str) {
        warn(text);
    }

    /// Returns whether the user asked for more than results and remarks.
    pub fn is_verbose(&self) -> bool {
        self.global.verbose > 0
    }

    /// Says something that only matters to whoever asked for more.
    pub fn detail(&self, text: &str) {
        if self.is_verbose() {
            say(text);
        }
    }
}

/// Says something that must not be missed, whatever the options.
pub fn warn(text: &str) {
    say(&format!("warning: {text}"));
}

/// Whoever reads stdout may stop reading (`cairn snapshots | head -1`). The work is done by then,
/// and its outcome stands.
pub fn closed_pipe_is_fine(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}
