//! `cairn restore --to`: disks as files or onto devices.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::format::manifest::DiskRecord;
use cairn_engine::repository::{Repository, Snapshot};
use cairn_engine::restore::restore_disk;
use cairn_engine::source::looks_like;
use cairn_engine::storage::make_private_folder;
use cairn_engine::target::{self, Abandoned, TargetFormat, TargetOptions};

use crate::context::Context;
use crate::exit::{CliError, Outcome};
use crate::output::restore::{RestoreReport, RestoredDisk};

use super::{ImageFormat, Work, salvage};

/// The snapshot's document, beside the disks that are restored to a folder.
const MANIFEST_FILE: &str = "manifest.json";

/// Extensions of formats that are not written.
const OTHER_FORMATS: [&str; 8] = ["vmdk", "vdi", "vhd", "vhdx", "vpc", "qed", "qcow", "ova"];

/// Where disks go, and how.
pub struct DisksArgs<'a> {
    /// The disk to restore; all of them without one.
    pub disk: Option<&'a str>,
    /// A file, a device or a folder.
    pub to: &'a Path,
    /// The format of files.
    pub format: Option<ImageFormat>,
    /// Whether what is there is overwritten.
    pub force: bool,
    /// Whether what is whole is wanted even where something is lost.
    pub salvage: bool,
}

impl DisksArgs<'_> {
    /// Returns the format to write.
    pub fn image_format(&self) -> ImageFormat {
        let extension = self.to.extension().and_then(|extension| extension.to_str());
        self.format.unwrap_or(match extension {
            Some("qcow2") => ImageFormat::Qcow2,
            _ => ImageFormat::Raw,
        })
    }

    /// Returns whether the path is that of a folder, there or still to be made.
    pub fn is_folder(&self) -> bool {
        self.to.as_os_str().as_encoded_bytes().ends_with(b"/") || self.to.is_dir()
    }
}

/// Restores disks of a snapshot.
pub fn run(
    args: &DisksArgs<'_>,
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    context: &Context,
) -> Result<Outcome> {
    args.check_format()?;
    let plan = args.plan(snapshot)?;
    for (_, path) in &plan {
        args.check_replaced(path)?;
        if args.salvage {
            salvage::check(path, args.force)?;
        }
    }
    let mut work = Work::begin(repository, snapshot, context)?;
    if args.is_folder() {
        make_private_folder(args.to)
            .with_context(|| format!("cannot make folder {}", args.to.display()))?;
        if !args.force && args.to.join(MANIFEST_FILE).exists() {
            let text = format!(
                "{} holds a restored snapshot already; --force overwrites it",
                args.to.display()
            );
            return Err(CliError::Usage(text).into());
        }
    }
    let mut report = RestoreReport {
        snapshot: snapshot.id,
        disks: Vec::new(),
        salvaged: None,
    };
    let mut losses = Vec::new();
    for (disk, path) in plan {
        let restored = match args.salvage {
            true => salvage::restore(args, &work, disk, &path, &mut losses),
            false => args.restore(&work, disk, &path, context),
        };
        let restored = restored.with_context(|| format!("cannot restore disk {}", disk.target))?;
        report.disks.push(restored);
    }
    work.meter.end();
    if !losses.is_empty() {
        let list = args.list_of_hurt();
        report.salvaged = Some(salvage::report(&work, snapshot, losses, list, context)?);
    }
    if args.is_folder() {
        write_metadata(snapshot, args.to, args.force)?;
    }
    match report.salvaged {
        None => {
            context.report(&report)?;
            Ok(Outcome::Done)
        }
        Some(_) => {
            context.print(&report)?;
            Ok(Outcome::Problems)
        }
    }
}

impl DisksArgs<'_> {
    /// Returns where files are listed that lost bytes belong to.
    fn list_of_hurt(&self) -> PathBuf {
        match self.is_folder() {
            true => self.to.join("incomplete.files"),
            false => salvage::beside(self.to, ".incomplete.files"),
        }
    }

    /// Returns how a disk's target is made.
    pub fn target_options(&self, disk: &DiskRecord) -> TargetOptions {
        TargetOptions {
            format: match self.image_format() {
                ImageFormat::Raw => TargetFormat::Raw,
                ImageFormat::Qcow2 => TargetFormat::Qcow2,
            },
            size: disk.size,
            overwrite: self.force,
        }
    }

    /// Refuses a name that promises a format which is not written.
    fn check_format(&self) -> Result<(), CliError> {
        let extension = self.to.extension().and_then(|extension| extension.to_str());
        let other = extension.map(str::to_ascii_lowercase);
        let other = other.filter(|it| OTHER_FORMATS.contains(&&**it) && !self.is_folder());
        let (None, Some(other)) = (self.format, other) else {
            return Ok(());
        };
        Err(CliError::Usage(format!(
            "{} would be no {other}: what is restored is raw or qcow2. Restore to a name that \
             ends in .qcow2 and let `qemu-img convert` make the rest, or say --format",
            self.to.display()
        )))
    }

    /// Refuses to write another format over an image or device than it has: whoever uses it would
    /// go on to read it as what it was.
    fn check_replaced(&self, path: &Path) -> Result<(), CliError> {
        let looks = match self.force && self.format.is_none() {
            true => looks_like(path).ok().flatten(),
            false => None,
        };
        let (looks, written) = match (looks, self.image_format()) {
            (Some("qcow2"), ImageFormat::Qcow2) | (None, _) => return Ok(()),
            (Some(looks), ImageFormat::Qcow2) => (looks, "qcow2"),
            (Some(looks), ImageFormat::Raw) => (looks, "raw"),
        };
        let keep = match looks {
            "qcow2" => "--format qcow2 keeps it one; ",
            _ => "",
        };
        Err(CliError::Usage(format!(
            "{} holds {looks}, and would hold {written} then, which who uses it does not expect: \
             {keep}say --format {written} if that is meant",
            path.display()
        )))
    }

    /// Returns which disk goes where.
    fn plan<'s>(&self, snapshot: &'s Snapshot) -> Result<Vec<(&'s DiskRecord, PathBuf)>> {
        let wanted = |disk: &&DiskRecord| self.disk.is_none_or(|target| target == disk.target);
        let disks: Vec<&DiskRecord> = snapshot.manifest.disks.iter().filter(wanted).collect();
        let targets = || {
            let targets: Vec<&str> = snapshot
                .manifest
                .disks
                .iter()
                .map(|disk| &*disk.target)
                .collect();
            targets.join(", ")
        };
        if disks.is_empty() {
            let wanted = self.disk.unwrap_or_default();
            let text = format!("the snapshot has no disk `{wanted}`; it has: {}", targets());
            return Err(CliError::Usage(text).into());
        }
        if self.is_folder() {
            let extension = match self.image_format() {
                ImageFormat::Raw => "raw",
                ImageFormat::Qcow2 => "qcow2",
            };
            let path = |number, disk: &DiskRecord| {
                let stem = stem(&disk.target, number);
                self.to.join(format!("{stem}.{extension}"))
            };
            let disks = disks.into_iter().enumerate();
            return Ok(disks
                .map(|(number, disk)| (disk, path(number, disk)))
                .collect());
        }
        match disks.as_slice() {
            [disk] => Ok(vec![(*disk, self.to.to_owned())]),
            _ => {
                let text = format!(
                    "name one with --disk, or restore to a folder: {}",
                    targets()
                );
                Err(CliError::Usage(text).into())
            }
        }
    }

    fn restore(
        &self,
        work: &Work,
        disk: &DiskRecord,
        path: &Path,
        context: &Context,
    ) -> Result<RestoredDisk> {
        let target = target::create(path, &self.target_options(disk))?;
        let written = match restore_disk(&work.contents, disk, &*target, &work.options()) {
            Ok(written) => written,
            Err(error) => {
                if let Abandoned::IncompleteDevice(path) = target.abandon() {
                    warn_incomplete(context, &path);
                }
                return Err(error.into());
            }
        };
        let finished = target.finish().inspect_err(|_| {
            if is_device(path) {
                warn_incomplete(context, path);
            }
        })?;
        Ok(RestoredDisk {
            target: disk.target.clone(),
            path: finished.path,
            size: disk.size,
            written_bytes: written,
        })
    }
}

/// Longest name of a disk that its file has as a whole: file systems take 255 bytes, and what is
/// incomplete has more behind its name.
const STEM_LEN_MAX: usize = 200;

/// Returns what the file of a disk is called without its extension.
fn stem(target: &str, number: usize) -> String {
    if target.len() <= STEM_LEN_MAX {
        return target.to_owned();
    }
    let kept = target.floor_char_boundary(STEM_LEN_MAX - 16);
    format!("{}~{number}", target.get(..kept).unwrap_or_default())
}

/// Returns whether a path is that of a block device.
pub fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

fn warn_incomplete(context: &Context, device: &Path) {
    context.warn(&format!(
        "{} is INCOMPLETE: restore it again",
        device.display()
    ));
}

/// Writes what the manifest says of the VM beside its disks.
fn write_metadata(snapshot: &Snapshot, folder: &Path, force: bool) -> Result<()> {
    let mut files = BTreeMap::new();
    let manifest = serde_json::to_string_pretty(&*snapshot.manifest)?;
    files.insert(MANIFEST_FILE.to_owned(), manifest);
    for (name, text) in &snapshot.manifest.metadata {
        // A name that is no plain file name stays in the manifest alone.
        if !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        {
            files.insert(format!("{name}.txt"), text.clone());
        }
    }
    for (name, text) in files {
        let path = folder.join(name);
        let mut options = std::fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .create_new(!force)
            .truncate(force);
        let written = options.mode(0o600).open(&path).and_then(|mut file| {
            // One that is there may be open to all, and a domain's XML may hold passwords.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())
        });
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(path: &str, format: Option<ImageFormat>) -> DisksArgs<'_> {
        DisksArgs {
            disk: None,
            to: Path::new(path),
            format,
            force: false,
            salvage: false,
        }
    }

    #[test]
    fn the_extension_tells_the_format_unless_it_is_given() {
        assert_eq!(to("a.qcow2", None).image_format(), ImageFormat::Qcow2);
        assert_eq!(to("a.img", None).image_format(), ImageFormat::Raw);
        let raw = to("a.qcow2", Some(ImageFormat::Raw));
        assert_eq!(raw.image_format(), ImageFormat::Raw);
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(stem("vda", 3), "vda");
        let long = "ä".repeat(127);
        assert_eq!(stem(&long, 3), format!("{}~3", "ä".repeat(92)));
        assert_ne!(stem(&long, 3), stem(&long, 4));
    }

    #[test]
    fn a_slash_at_the_end_makes_a_folder() {
        assert!(to("no/such/place/", None).is_folder());
        assert!(to("/", None).is_folder());
        assert!(!to("no/such/place", None).is_folder());
    }
}
