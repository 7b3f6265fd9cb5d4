//! `cairn get`: files of a snapshot, fetched without mounting anything.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use cairn_engine::guest::path::{self, Found, LastLink};
use cairn_engine::guest::tree::{FileId, FileKind, FileSystem};
use cairn_engine::progress::Progress;
use clap_complete::engine::ArgValueCompleter;
use rustix::fs::{Mode, OFlags};

use crate::complete;
use crate::context::{Context, closed_pipe_is_fine};
use crate::exit::{CliError, Outcome};
use crate::files::disks::{Named, Opened};
use crate::files::extract::{ExtractError, Extractor, Options};
use crate::files::place::PLACE_HELP;
use crate::files::{described, shown};
use crate::output::get::GetReport;

const EXAMPLES: &str = "\
Examples:
  cairn get web1:vdap1/etc/fstab
  cairn get web1@2026-11-20T08:30:vdap1/etc restored/
  cairn get web1:vda:vg0/data/lib/app.db app.db --force
  cairn get web1:vdap1/etc/os-release - -q

DEST is a folder, which gets the file under its own name, or the name of a file or folder that is
made; `-` is standard output. Owners and devices need root, as some extended attributes do.";

/// What zeros are written from.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Fetch files and folders from a snapshot
///
/// Keeps modes, times, owners, symbolic and hard links, extended attributes and holes. Nothing is
/// mounted. What cannot be written as it was is reported, and the rest goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{PLACE_HELP}\n\n{EXAMPLES}"))]
pub struct GetArgs {
    /// SNAPSHOT:TARGET[pN]/path
    #[arg(value_name = "PLACE")]
    #[arg(add = ArgValueCompleter::new(complete::places))]
    pub place: OsString,

    /// Where to [default: the current folder]
    #[arg(value_name = "DEST")]
    pub dest: Option<PathBuf>,

    /// Replace files that are there, and write into folders that are
    #[arg(long)]
    pub force: bool,

    /// Fetch what a symbolic link points to, rather than the link
    #[arg(short = 'L', long)]
    pub follow: bool,
}

/// Runs the command.
pub fn run(args: &GetArgs, context: &Context) -> Result<Outcome> {
    let named = Named::open(context, &args.place, "get")?;
    let snapshot = named.snapshot.id;
    let opened = named.file_system(context)?;
    let is_stdout = args.dest.as_deref() == Some(Path::new("-"));
    let last = match args.follow || is_stdout {
        true => LastLink::Follow,
        false => LastLink::Keep,
    };
    let found = path::resolve(&*opened.file_system, &opened.path, last);
    let found = found.with_context(|| format!("{}{}", opened.name, shown(&opened.path)))?;
    if is_stdout {
        print_file(&*opened.file_system, found.id)?;
        return Ok(outcome(opened.has_caveats));
    }
    let (folder, name) = destination(args.dest.as_deref(), &opened, &found);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let into = rustix::fs::open(&folder, flags, Mode::empty());
    let into = into.map_err(io::Error::from);
    let into = into.with_context(|| format!("cannot open folder {}", folder.display()))?;

    let cancel = context.cancel()?;
    let progress = Arc::new(Progress::default());
    // A folder is copied as it is walked.
    let is_folder = opened.file_system.stat(found.id)?.kind == FileKind::Folder;
    progress.is_open.store(is_folder, Ordering::Relaxed);
    let meter = context.meter("get", &progress);
    let options = Options {
        force: args.force,
        cancel: &cancel,
        progress: &progress,
    };
    let place = format!("{}{}", opened.name, shown(&opened.path));
    let mut report = |path: &[u8], error: &ExtractError| {
        let slash = if path.is_empty() || place.ends_with('/') {
            ""
        } else {
            "/"
        };
        context.warn(&format!(
            "{place}{slash}{}: {}",
            shown(path),
            described(error)
        ));
    };
    let extractor = Extractor::new(&*opened.file_system, options, &mut report);
    let summary = extractor.run(into, &name, found.id);
    drop(meter);
    let path = folder.join(&name);
    let summary = match summary {
        Err(ExtractError::Cancelled) => {
            context.warn(&format!("interrupted before {} was whole", path.display()));
            return Ok(Outcome::Interrupted);
        }
        summary => summary.with_context(|| format!("cannot write {}", path.display()))?,
    };
    if summary.owners_kept > 0 {
        context.remark("files belong to you: only root can set owners");
    }
    let has_problems = opened.has_caveats || summary.problems > 0;
    let report = GetReport::new(snapshot, place, path, summary);
    for refused in report.refusals() {
        context.warn(&refused);
    }
    context.report(&report)?;
    Ok(outcome(has_problems))
}

fn outcome(has_problems: bool) -> Outcome {
    if has_problems {
        Outcome::Problems
    } else {
        Outcome::Done
    }
}

/// Returns the folder to write to, and the name to write.
fn destination(dest: Option<&Path>, opened: &Opened, found: &Found) -> (PathBuf, OsString) {
    let own_name = || {
        // The top of a file system has no name of its own.
        let name = found
            .names
            .last()
            .map(|name| OsStr::from_bytes(name).to_owned());
        name.unwrap_or_else(|| OsString::from(opened.name.replace(['/', ':'], "-")))
    };
    let Some(dest) = dest else {
        return (PathBuf::from("."), own_name());
    };
    let ends_in_slash = dest.as_os_str().as_bytes().ends_with(b"/");
    match dest.file_name() {
        Some(name) if !ends_in_slash && !dest.is_dir() => {
            let parent = dest
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")).to_owned(), name.to_owned())
        }
        _ => (dest.to_owned(), own_name()),
    }
}

/// Writes a file's content to standard output.
fn print_file(file_system: &dyn FileSystem, file: FileId) -> Result<()> {
    let stat = file_system.stat(file)?;
    if stat.kind != FileKind::File {
        let text = "only regular files can be written to standard output";
        return Err(CliError::Usage(text.to_owned()).into());
    }
    let mut out = io::stdout().lock();
    let mut end = 0;
    let mut failed = None;
    let read = file_system.read_file(file, &mut |at, piece| {
        let written = fill(&mut out, at - end).and_then(|()| out.write_all(piece));
        end = at + piece.len() as u64;
        written.map_err(|error| {
            let kind = error.kind();
            failed = Some(error);
            kind.into()
        })
    });
    if let Some(error) = failed {
        return closed_pipe_is_fine(Err(error));
    }
    read?;
    let written = fill(&mut out, stat.size.saturating_sub(end)).and_then(|()| out.flush());
    closed_pipe_is_fine(written)
}

fn fill(out: &mut impl Write, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let step = len.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..usize::try_from(step).unwrap_or(ZEROS.len())])?;
        len -= step;
    }
    Ok(())
}
