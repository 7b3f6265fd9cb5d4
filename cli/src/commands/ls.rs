//! `cairn ls`: what is inside the disks of a snapshot.

use std::ffi::OsString;
use std::io;

use anyhow::{Context as _, Result};
use cairn_engine::guest::open::AreaName;
use cairn_engine::guest::path::{self, LastLink};
use cairn_engine::guest::tree::{FileId, FileKind, FileSystem, Stat};
use cairn_engine::guest::walk::{Event, Walk};
use clap_complete::engine::ArgValueCompleter;

use crate::complete;
use crate::context::{Context, closed_pipe_is_fine};
use crate::exit::Outcome;
use crate::files::disks::{Named, Opened, only_area};
use crate::files::place::PLACE_HELP;
use crate::files::{described, shown};
use crate::output::layout::{DiskReport, LayoutReport};
use crate::output::listing::{Entry, Listing};

const EXAMPLES: &str = "\
Examples:
  cairn ls web1
  cairn ls web1:vdap1/etc
  cairn ls -l web1@2026-11-20T08:30:vda:vg0/data/log
  cairn ls -R web1:vdap1/home --json";

/// List disks, partitions and files of a snapshot
///
/// SNAPSHOT alone lists its disks with what they hold; with TARGET it lists the parts of a disk
/// that has several. Nothing is mounted and no privilege is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{PLACE_HELP}\n\n{EXAMPLES}"))]
pub struct LsArgs {
    /// SNAPSHOT, SNAPSHOT:TARGET or SNAPSHOT:TARGET[pN]/path
    #[arg(value_name = "PLACE")]
    #[arg(add = ArgValueCompleter::new(complete::places))]
    pub place: OsString,

    /// Show kind, mode, owner, size and time as well
    #[arg(short)]
    pub long: bool,

    /// List folders in folders as well
    #[arg(short = 'R')]
    pub recursive: bool,
}

/// Runs the command.
pub fn run(args: &LsArgs, context: &Context) -> Result<Outcome> {
    let named = Named::open(context, &args.place, "ls")?;
    if let Some(report) = layout_report(&named) {
        context.print(&report)?;
        let errors = &named.layout.errors;
        for error in errors {
            context.warn(&described(error));
        }
        return Ok(outcome(!errors.is_empty()));
    }
    let snapshot = named.snapshot.id.to_hex();
    let opened = named.file_system(context)?;
    let file_system = &*opened.file_system;
    let found = path::resolve(file_system, &opened.path, LastLink::Follow);
    let found = found.with_context(|| format!("{}{}", opened.name, shown(&opened.path)))?;
    let stat = file_system.stat(found.id)?;
    let form = context.form(args.long);
    let listing = Listing::begin(context.out(), form, &snapshot)?;
    let mut ls = Ls {
        context,
        opened: &opened,
        base: found.names.join(&b'/'),
        is_recursive: args.recursive,
        problems: 0,
    };
    let written = match stat.kind {
        FileKind::Folder => ls.folder(listing, found.id),
        _ => ls.file(listing, found.id, &stat),
    };
    closed_pipe_is_fine(written)?;
    Ok(outcome(opened.has_caveats || ls.problems > 0))
}

fn outcome(has_problems: bool) -> Outcome {
    if has_problems {
        Outcome::Problems
    } else {
        Outcome::Done
    }
}

/// Returns what to say if no file system was named.
fn layout_report(named: &Named) -> Option<LayoutReport> {
    let wanted = named.inside.as_ref();
    let disks = named.layout.disks.iter();
    let disks: Vec<_> = disks
        .filter(|disk| wanted.is_none_or(|inside| inside.target == disk.target))
        .collect();
    if let Some(inside) = wanted {
        let is_disk = inside.area == AreaName::Whole && inside.path.is_empty();
        if !is_disk
            || disks
                .iter()
                .any(|disk| only_area(disk) == Some(&AreaName::Whole))
        {
            return None;
        }
    }
    Some(LayoutReport {
        snapshot: named.snapshot.id,
        disks: disks.into_iter().map(DiskReport::of).collect(),
    })
}

struct Ls<'c> {
    context: &'c Context,
    opened: &'c Opened,
    /// Path of what was named, without a `/` at the beginning.
    base: Vec<u8>,
    is_recursive: bool,
    problems: u64,
}

impl Ls<'_> {
    fn folder<W: io::Write>(&mut self, mut out: Listing<W>, folder: FileId) -> io::Result<()> {
        let mut walk = Walk::new(&*self.opened.file_system, folder);
        while let Some(event) = walk.step() {
            let (id, stat) = match event {
                Event::Folder(id, stat) => {
                    if !self.is_recursive {
                        walk.skip();
                    }
                    (id, stat)
                }
                Event::File(id, stat) => (id, stat),
                Event::Leave => continue,
                Event::Failed(error) => {
                    let path = self.path(walk.path());
                    self.context
                        .warn(&format!("{}: {}", shown(&path), described(&error)));
                    self.problems += 1;
                    continue;
                }
            };
            self.entry(&mut out, (walk.path(), &self.path(walk.path())), id, &stat)?;
        }
        out.finish(self.problems)
    }

    fn file<W: io::Write>(&self, mut out: Listing<W>, id: FileId, stat: &Stat) -> io::Result<()> {
        let name = self
            .base
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        self.entry(&mut out, (name, &self.path(b"")), id, stat)?;
        out.finish(0)
    }

    /// Returns a path from the top, of a path from what was named.
    fn path(&self, below: &[u8]) -> Vec<u8> {
        let names = [&self.base[..], below]
            .into_iter()
            .filter(|name| !name.is_empty());
        names.fold(Vec::new(), |path, name| [&path[..], b"/", name].concat())
    }

    fn entry<W: io::Write>(
        &self,
        out: &mut Listing<W>,
        (name, path): (&[u8], &[u8]),
        id: FileId,
        stat: &Stat,
    ) -> io::Result<()> {
        let target = link_target(&*self.opened.file_system, id, stat);
        out.entry(&Entry {
            name,
            place: &self.opened.name,
            path,
            stat,
            target: target.as_deref(),
        })
    }
}

/// Returns where a symbolic link points, if that can be read.
pub fn link_target(file_system: &dyn FileSystem, id: FileId, stat: &Stat) -> Option<Vec<u8>> {
    let is_link = stat.kind == FileKind::Symlink;
    is_link.then(|| file_system.read_link(id).ok()).flatten()
}
