//! Overlays that take a guest's writes while its images are read. They hold what the guest wrote,
//! so they are committed back into the images whatever happens, and removed only after that.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::after;
use serde::{Deserialize, Serialize};

use super::{DomainError, named};
use crate::child;
use crate::source::libvirt::xml::{DiskSource, DomainDescription, Element};
use crate::source::libvirt::{Domain, DomainState, LibvirtError, Reason};

/// How long a daemon that is gone, or a domain that is ending, is waited for.
const REACH_MAX: Duration = Duration::from_secs(60);
/// How long a commit may make no progress.
const STALL_MAX: Duration = Duration::from_secs(120);
/// How long libvirt may take to name the image again.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// How often is looked how far a commit is.
const TICK: Duration = Duration::from_millis(100);

/// An overlay of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The disk.
    pub target: String,
    /// The overlay's file.
    pub path: PathBuf,
    /// The image below it.
    pub base: PathBuf,
    /// The image's format.
    pub format: String,
    /// Whether the image is a block device.
    pub is_device: bool,
    /// Which file it was when the overlay was made: its device and inode, or its own number where
    /// it is a device. Not known of overlays of earlier versions.
    #[serde(default)]
    pub identity: Option<(u64, u64)>,
}

/// Where an overlay stands in a disk's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The guest writes to it.
    Active,
    /// Another overlay is above it.
    Below,
    /// The disk does without it.
    Unused,
}

/// What became of an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    Committed,
    Unused,
}

type Result<T> = std::result::Result<T, DomainError>;

impl Overlay {
    /// Returns where it stands in a domain's XML.
    pub(super) fn place(&self, domain: &DomainDescription) -> Place {
        let Some(disk) = domain.disk(&self.target) else {
            return Place::Unused;
        };
        match &disk.source {
            DiskSource::File(path) if *path == self.path => Place::Active,
            _ if disk.backing.contains(&self.path) => Place::Below,
            _ => Place::Unused,
        }
    }

    /// Commits what the guest wrote back into the image, and removes the overlay. `was_made` is
    /// whether the guest may ever have written to it. Returns what the user should know.
    ///
    /// # Errors
    ///
    /// The overlay is still there then, and the disk may still need it.
    pub(super) fn bring_back(&self, domain: &Domain, was_made: bool) -> Result<Option<String>> {
        let back = self.commit_back(domain)?;
        if back == Back::Unused && was_made && self.path.exists() {
            let (path, target) = (self.path.display(), &self.target);
            return Ok(Some(format!(
                "disk {target} does not use overlay {path} any more; it is left as it is"
            )));
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let path = self.path.display();
                Ok(Some(format!("cannot remove overlay {path}: {error}")))
            }
            _ => Ok(None),
        }
    }

    fn commit_back(&self, domain: &Domain) -> Result<Back> {
        let begun = Instant::now();
        loop {
            let state = domain.state();
            let tried = match &state {
                Ok(DomainState::InShutdown) => Err(self.stuck("the domain is ending")),
                Ok(state) if state.has_process() => self.commit_live(domain),
                Ok(_) => self.commit_offline(domain),
                Err(_) => Err(self.stuck("libvirt cannot be reached")),
            };
            let Err(error) = tried else {
                return tried;
            };
            // The daemon, or the domain, may have gone in the midst of it.
            let has_changed = match (state, domain.state()) {
                (Ok(before), Ok(now)) => before != now || before == DomainState::InShutdown,
                _ => true,
            };
            if !has_changed || begun.elapsed() >= REACH_MAX {
                return Err(error);
            }
            drop(domain.connection().revive());
            let _now = after(TICK).recv();
        }
    }

    fn commit_live(&self, domain: &Domain) -> Result<Back> {
        match self.place(&describe(domain, &domain.xml()?)?) {
            Place::Unused => return Ok(Back::Unused),
            Place::Below => return Err(self.stuck("another overlay was put on top of it")),
            Place::Active => {}
        }
        match domain.block_job(&self.target)? {
            Some(job) if !job.is_active_commit() => {
                return Err(self.stuck("the disk has another block job"));
            }
            // One that a killed run had begun.
            Some(_) => {}
            None => {
                let base = self.base.to_string_lossy();
                domain.block_commit_active(&self.target, &base)?;
            }
        }
        self.pivot(domain)?;
        Ok(Back::Committed)
    }

    /// Waits until all is committed, and lets the guest write to the image again.
    fn pivot(&self, domain: &Domain) -> Result<()> {
        let (mut seen, mut moved, mut refused) = (0, Instant::now(), None);
        while let Some(job) = domain.block_job(&self.target)? {
            if job.total > 0 && job.done >= job.total {
                match domain.block_job_pivot(&self.target) {
                    Ok(()) => break,
                    Err(error) if error.is_disconnected() => return Err(error.into()),
                    // It is at its end, and not yet ready.
                    Err(error) => refused = Some(error),
                }
            }
            if job.done != seen {
                (seen, moved) = (job.done, Instant::now());
            }
            if moved.elapsed() > STALL_MAX {
                let stalled = "its commit makes no progress".to_owned();
                let reason = refused.map_or(stalled, |error| error.to_string());
                return Err(self.stuck(&reason));
            }
            let _now = after(TICK).recv();
        }
        let begun = Instant::now();
        while self.place(&describe(domain, &domain.xml()?)?) != Place::Unused {
            if begun.elapsed() > SETTLE_MAX {
                return Err(self.stuck("its commit ended, and the disk still uses it"));
            }
            let _now = after(TICK).recv();
        }
        Ok(())
    }

    /// Commits while nobody has the image open, and lets the domain's definition name the image.
    fn commit_offline(&self, domain: &Domain) -> Result<Back> {
        let xml = match domain.inactive_xml() {
            Ok(xml) => Some(xml),
            // A transient domain leaves no definition; what its guest wrote is to be kept still.
            Err(error) if error.reason == Reason::NoDomain => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(xml) = &xml {
            match self.place(&describe(domain, xml)?) {
                Place::Unused => return Ok(Back::Unused),
                Place::Below => return Err(self.stuck("another overlay was put on top of it")),
                Place::Active => {}
            }
        }
        if !self.path.exists() {
            return Err(self.stuck("it is gone"));
        }
        self.run_commit()?;
        if let Some(xml) = &xml {
            domain.connection().define(&self.restored(domain, xml)?)?;
        }
        Ok(Back::Committed)
    }

    fn run_commit(&self) -> Result<()> {
        let (mut command, _open) = self.commit_command()?;
        let ran = command
            .output()
            .map_err(|error| self.stuck(&format!("cannot run qemu-img: {error}")))?;
        match ran.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&ran.stderr);
                let line = said.lines().next().unwrap_or("qemu-img failed");
                Err(self.stuck(line))
            }
        }
    }

    /// Returns what commits the overlay into the image that it was made on, whatever its header
    /// says: the user that QEMU ran as may have written that. An overlay of that user's is
    /// committed with that user's rights, and one of ours by what is open.
    fn commit_command(&self) -> Result<(Command, [File; 2])> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| self.stuck(&format!("{path}: {error}"))
        };
        let overlay = named::open(&self.path).map_err(failed(&self.path))?;
        named::check_overlay(&overlay).map_err(failed(&self.path))?;
        let base = self.open_base().map_err(failed(&self.base))?;
        let found = overlay.metadata().map_err(failed(&self.path))?;
        let user = rustix::process::geteuid();
        let is_given = user.is_root() && found.uid() != user.as_raw();
        let name = |file: &File, path: &Path| match is_given {
            true => path.to_owned(),
            false => named::of_ours(file),
        };
        let describe = |file: &File, path: &Path, format: &str| {
            let folder = path.parent().unwrap_or(Path::new("/"));
            let described = named::describe(file, &name(file, path), folder, format);
            described.map_err(failed(path))
        };
        let mut top = describe(&overlay, &self.path, "qcow2")?;
        top["backing"] = describe(&base, &self.base, &self.format)?;
        let mut command = child::program("qemu-img");
        // Without emptying the overlay, which is removed. Bitmaps in the image record the writes.
        command.args(["commit", "-q", "-d", "--"]);
        command.arg(format!("json:{top}")).stdin(Stdio::null());
        if is_given {
            command.uid(found.uid()).gid(found.gid());
        }
        Ok((command, [overlay, base]))
    }

    /// Opens the image, if it is still the one that the overlay was made on.
    fn open_base(&self) -> io::Result<File> {
        let Some(identity) = self.identity else {
            return named::open(&self.base);
        };
        let check = |found: io::Result<Metadata>| match named::identity_of(&found?) == identity {
            true => Ok(()),
            false => Err(io::Error::other(
                "it is another file than the overlay was made on",
            )),
        };
        // The path may be a link; what it leads to is what counts.
        check(std::fs::metadata(&self.base))?;
        let file = File::open(&self.base)?;
        check(file.metadata())?;
        Ok(file)
    }

    /// Returns a definition in which the disk is the image.
    fn restored(&self, domain: &Domain, xml: &str) -> Result<String> {
        let failed = |source| xml_error(domain, source);
        let mut root = Element::parse(xml, "domain").map_err(failed)?;
        let devices = root.first_mut("devices").into_iter();
        let disks = devices.flat_map(|devices| devices.elements_mut());
        let is_ours = |disk: &&mut Element| {
            let target = disk.first("target").and_then(|target| target.get("dev"));
            disk.name == "disk" && target == Some(&self.target)
        };
        for disk in disks.filter(is_ours) {
            point_at(disk, &self.base, &self.format, self.is_device);
        }
        Ok(root.to_string())
    }

    fn stuck(&self, reason: &str) -> DomainError {
        DomainError::Overlay {
            target: self.target.clone(),
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Lets a `<disk>` be an image. What is below it, its header tells.
pub(super) fn point_at(disk: &mut Element, path: &Path, format: &str, is_device: bool) {
    let (kind, attribute) = match is_device {
        true => ("block", "dev"),
        false => ("file", "file"),
    };
    disk.set("type", kind);
    disk.retain(|child| !["backingStore", "mirror"].contains(&child.name.as_str()));
    if let Some(driver) = disk.first_mut("driver") {
        driver.set("type", format);
    }
    let mut source = disk.first("source").cloned().unwrap_or_default();
    "source".clone_into(&mut source.name);
    source.attributes.clear();
    source.set(attribute, &path.to_string_lossy());
    disk.put(source);
}

pub(super) fn describe(domain: &Domain, xml: &str) -> Result<DomainDescription> {
    DomainDescription::parse(xml).map_err(|source| xml_error(domain, source))
}

fn xml_error(domain: &Domain, source: crate::source::libvirt::xml::XmlError) -> DomainError {
    DomainError::Xml {
        domain: domain.name().to_owned(),
        source,
    }
}

/// Ends the saving of memory that a killed run began: the daemon goes on with it alone.
pub(super) fn end_saving(domain: &Domain) -> std::result::Result<(), LibvirtError> {
    let begun = Instant::now();
    while begun.elapsed() < REACH_MAX {
        match domain.job_progress() {
            Ok(Some(_)) => domain.abort_job()?,
            // One that is off has no job.
            Ok(None) => return Ok(()),
            Err(error) if error.reason == Reason::Invalid => return Ok(()),
            Err(error) => return Err(error),
        }
        let _now = after(TICK).recv();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain><name>n</name><uuid>u</uuid><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
        <source file='/i/o' index='3'/><backingStore type='file'><format type='raw'/>\
        <source file='/i/a.img'/></backingStore><target dev='vda'/></disk>\
        </devices></domain>";

    fn overlay(path: &str) -> Overlay {
        Overlay {
            target: "vda".to_owned(),
            path: path.into(),
            base: "/i/a.img".into(),
            format: "raw".to_owned(),
            is_device: false,
            identity: None,
        }
    }

    #[test]
    fn an_overlay_is_active_below_or_unused() {
        let domain = DomainDescription::parse(XML).expect("it is right");
        assert_eq!(overlay("/i/o").place(&domain), Place::Active);
        assert_eq!(overlay("/i/a.img").place(&domain), Place::Below);
        assert_eq!(overlay("/i/x").place(&domain), Place::Unused);
    }

    #[test]
    fn a_disk_becomes_its_image_again() {
        let mut root = Element::parse(XML, "domain").expect("it is right");
        let devices = root.first_mut("devices").expect("it is there");
        let disk = devices.first_mut("disk").expect("it is there");
        point_at(disk, Path::new("/i/a.img"), "raw", false);
        assert_eq!(
            disk.to_string(),
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='/i/a.img'/><target dev='vda'/></disk>"
        );
    }

    fn qemu_img(args: &[&str]) {
        let status = Command::new("qemu-img").args(args).status();
        assert!(status.expect("qemu-img is there").success(), "{args:?}");
    }

    #[test]
    fn what_is_committed_goes_into_the_image_that_it_was_made_on() {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (base, below, victim) = (at("base"), at("below"), at("victim"));
        qemu_img(&["create", "-q", "-f", "qcow2", &below, "1M"]);
        // Named as from the folder of whoever names it.
        qemu_img(&[
            "create", "-q", "-f", "qcow2", "-b", "below", "-F", "qcow2", &base,
        ]);
        std::fs::write(&victim, vec![7; 1 << 20]).expect("files can be written");
        // Its header names another image, as whoever ran as QEMU's user could have it.
        let path = at(".cairn-0-vda.overlay");
        qemu_img(&[
            "create", "-q", "-f", "qcow2", "-b", &victim, "-F", "raw", &path,
        ]);
        let mut io = Command::new("qemu-io");
        io.args(["-f", "qcow2", "-c", "write -q -P 9 64k 64k", &path]);
        assert!(io.status().expect("qemu-io is there").success());
        let found = std::fs::metadata(&base).expect("it is there");
        let mut overlay = overlay(&path);
        overlay.base = PathBuf::from(&base);
        overlay.format = "qcow2".to_owned();
        overlay.identity = Some(named::identity_of(&found));
        overlay.run_commit().expect("it is committed");
        let kept = std::fs::read(&victim).expect("it is there");
        assert!(
            kept.iter().all(|byte| *byte == 7),
            "another file was written"
        );
        let mut io = Command::new("qemu-io");
        io.args(["-f", "qcow2", "-c", "read -q -P 9 64k 64k", &base]);
        let read = io.output().expect("qemu-io is there");
        let said = String::from_utf8_lossy(&read.stdout).into_owned();
        assert!(read.status.success() && !said.contains("failed"), "{said}");
        // A path that leads to another file by now, and an overlay that is one of another's.
        let rename = |from: &str, to: &str| {
            std::fs::hard_link(from, to).expect("links can be made");
            std::fs::remove_file(from).expect("it is there");
        };
        rename(&base, &at("moved"));
        std::os::unix::fs::symlink(&victim, &base).expect("links can be made");
        let refused = overlay.run_commit().expect_err("it is another file");
        assert!(refused.to_string().contains("another file"), "{refused}");
        overlay.identity = None;
        assert!(overlay.run_commit().is_err());
        std::fs::remove_file(&base).expect("it is there");
        rename(&at("moved"), &base);
        if rustix::process::geteuid().is_root() {
            // With that user's rights, who may not write to the image.
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).expect("root may");
            let refused = overlay.run_commit().expect_err("that user may not");
            assert!(
                refused.to_string().contains("ermission denied"),
                "{refused}"
            );
        }
    }
}
