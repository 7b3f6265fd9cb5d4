//! `cairn find`: files of a snapshot whose names fit a pattern.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use cairn_engine::guest::btrfs;
use cairn_engine::guest::detect::Content;
use cairn_engine::guest::open::{Area, AreaName};
use cairn_engine::guest::tree::{FileId, FileSystem};
use cairn_engine::guest::walk::{Event, Walk};
use globset::{GlobBuilder, GlobMatcher};

use super::ls::link_target;
use clap_complete::engine::ArgValueCompleter;

use crate::complete;
use crate::context::{Context, closed_pipe_is_fine};
use crate::exit::{CliError, Outcome};
use crate::files::disks::{Named, warn_of};
use crate::files::place::PLACE_HELP;
use crate::files::{described, shown};
use crate::output::listing::{Entry, Listing};

const EXAMPLES: &str = "\
Examples:
  cairn find web1 '*.conf'
  cairn find web1@2026-11-20:vdap1 '/etc/**/passwd*'
  cairn find -l web1:vda '{id_rsa,id_ed25519}' --json

A PATTERN without `/` fits names; one with `/` fits whole paths, which begin with `/`. `*` and `?`
stand for anything but `/`, `**` for any folders, `[a-z]` and `{a,b}` for one of several.";

/// Find files of a snapshot by their names
///
/// Looks into every file system of the snapshot, or of the disk or part that is named.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("{PLACE_HELP}\n\n{EXAMPLES}"))]
pub struct FindArgs {
    /// SNAPSHOT, SNAPSHOT:TARGET or SNAPSHOT:TARGETpN
    #[arg(value_name = "PLACE")]
    #[arg(add = ArgValueCompleter::new(complete::places))]
    pub place: OsString,

    /// What to look for
    pub pattern: String,

    /// Show kind, mode, owner, size and time as well
    #[arg(short)]
    pub long: bool,
}

/// Runs the command.
pub fn run(args: &FindArgs, context: &Context) -> Result<Outcome> {
    let pattern = Pattern::parse(&args.pattern)?;
    let named = Named::open(context, &args.place, "find")?;
    let wanted = named.inside;
    if wanted
        .as_ref()
        .is_some_and(|inside| !matches!(&*inside.path, b"" | b"/"))
    {
        let text = "name a disk or a part of it, and put the folder into the pattern";
        return Err(CliError::Usage(text.to_owned()).into());
    }
    let snapshot = named.snapshot.id.to_hex();
    let mut find = Find {
        context,
        pattern,
        listing: Listing::begin(context.out(), context.form(args.long), &snapshot)?,
        problems: 0,
    };
    let mut is_found = wanted.is_none();
    // Of the copies of a logical volume, that of the disk that is named is meant.
    let has_own = wanted.as_ref().is_some_and(|inside| {
        let disks = named.layout.disks.iter();
        let mut own = disks.filter(|disk| disk.target == inside.target);
        own.any(|disk| disk.areas.iter().any(|area| area.name == inside.area))
    });
    for disk in named.layout.disks {
        for area in disk.areas {
            let is_wanted = wanted.as_ref().is_none_or(|inside| {
                let is_disk = inside.area == AreaName::Whole || inside.area == area.name;
                let is_logical = matches!(inside.area, AreaName::Logical { .. });
                is_disk && (is_logical && !has_own || inside.target == disk.target)
            });
            if is_wanted {
                is_found = true;
                let name = format!("{}{}", disk.target, area.name);
                if let Err(error) = find.area(&name, area) {
                    return closed_pipe_is_fine(Err(error)).map(|()| Outcome::Done);
                }
            }
        }
    }
    if !is_found {
        let place = shown(args.place.as_bytes());
        return Err(CliError::Usage(format!("there is no {place}")).into());
    }
    for error in &named.layout.errors {
        find.problem(&described(error));
    }
    let problems = find.problems;
    closed_pipe_is_fine(find.listing.finish(problems))?;
    Ok(match problems {
        0 => Outcome::Done,
        _ => Outcome::Problems,
    })
}

struct Find<'c, W: io::Write> {
    context: &'c Context,
    pattern: Pattern,
    listing: Listing<W>,
    problems: u64,
}

impl<W: io::Write> Find<'_, W> {
    fn problem(&mut self, text: &str) {
        self.context.warn(text);
        self.problems += 1;
    }

    /// Looks into a part of a disk. Fails only where the result cannot be written.
    fn area(&mut self, name: &str, area: Area) -> io::Result<()> {
        match area.content {
            // What holds no files hides none.
            Content::NoFiles(_) | Content::LvmMember => return Ok(()),
            _ => {}
        }
        let file_system = match area.open() {
            Ok(file_system) => file_system,
            Err(error) => {
                self.problem(&format!("{name} was not searched: {}", described(&error)));
                return Ok(());
            }
        };
        self.problems += u64::from(warn_of(self.context, name, &*file_system));
        self.search((name, b""), &*file_system, file_system.root())?;
        // Subvolumes beside the default one, which is in there as well.
        match btrfs::hidden_top(&*file_system) {
            Some(top) => {
                let base = [b"/", btrfs::HIDDEN_TOP.as_bytes()].concat();
                self.search((name, &base), &*file_system, top)
            }
            None => Ok(()),
        }
    }

    /// Looks into a folder, whose path is `base`, of the part of this name.
    fn search(
        &mut self,
        (name, base): (&str, &[u8]),
        file_system: &dyn FileSystem,
        folder: FileId,
    ) -> io::Result<()> {
        let mut walk = Walk::new(file_system, folder);
        while let Some(event) = walk.step() {
            let (id, stat) = match event {
                Event::Folder(id, stat) | Event::File(id, stat) => (id, stat),
                Event::Leave => continue,
                Event::Failed(error) => {
                    let path = shown(&[base, b"/", walk.path()].concat());
                    self.problem(&format!("{name}{path}: {}", described(&error)));
                    continue;
                }
            };
            if !base.is_empty() && id == file_system.root() {
                walk.skip();
            }
            let path = [base, b"/", walk.path()].concat();
            if !self.pattern.fits(&path, walk.name()) {
                continue;
            }
            let target = link_target(file_system, id, &stat);
            self.listing.entry(&Entry {
                name: &[name.as_bytes(), &path].concat(),
                place: name,
                path: &path,
                stat: &stat,
                target: target.as_deref(),
            })?;
        }
        Ok(())
    }
}

/// What names or paths are compared with.
struct Pattern {
    matcher: GlobMatcher,
    is_path: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        let glob = glob.map_err(|error| CliError::Usage(error.to_string()));
        let glob = glob.context("the pattern is not valid")?;
        Ok(Self {
            matcher: glob.compile_matcher(),
            is_path: text.contains('/'),
        })
    }

    fn fits(&self, path: &[u8], name: &[u8]) -> bool {
        let text = if self.is_path { path } else { name };
        self.matcher.is_match(Path::new(OsStr::from_bytes(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names_or_paths() {
        let fits = |pattern: &str, path: &str| {
            let name = path.rsplit('/').next().unwrap_or_default();
            let pattern = Pattern::parse(pattern).expect("the pattern is valid");
            pattern.fits(path.as_bytes(), name.as_bytes())
        };
        assert!(fits("*.conf", "/etc/a/b.conf"));
        assert!(!fits("etc", "/etc/a"));
        assert!(fits("/etc/*", "/etc/a"));
        assert!(!fits("/etc/*", "/etc/a/b"));
        assert!(fits("/etc/**/passwd*", "/etc/passwd-"));
        assert!(fits("**/b.{conf,cnf}", "/etc/a/b.cnf"));
        assert!(Pattern::parse("[").is_err());
    }
}
