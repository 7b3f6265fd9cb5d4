//! A mount from its making to its end, in the process that serves it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use signal_hook::low_level::exit;

use super::error::MountError;
use super::file_systems::{self, Content, FileSystem};
use super::fuse::{self, Fuse, VolumeFile};
use super::loop_device::LoopDevice;
use super::run_folder::RunFolder;
use super::teardown;
use super::volumes::{Skipped, Volume, Volumes};
use crate::context;
use crate::exit::Outcome;
use crate::interrupt::Listening;

/// How often to look whether someone unmounted everything without telling us.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long reads under way may take once their users are cut off.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(10);
/// The kernel asks for one thing at a time in most cases; more threads help read-ahead.
const FUSE_THREADS_MIN: usize = 2;
const FUSE_THREADS_MAX: usize = 8;

/// What the serving process waits for.
#[derive(Debug)]
enum Event {
    /// A signal asks it to stop.
    Stop,
    /// The FUSE file system was unmounted.
    FuseEnded,
}

/// Where signals arrive, from the beginning.
pub struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    _signals: Listening,
}

impl Events {
    /// Takes SIGINT, SIGTERM and SIGHUP over.
    pub fn install() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let forward = sender.clone();
        // Nobody listens any more where the mount is gone.
        let signals = Listening::start(move || drop(forward.send(Event::Stop)))?;
        Ok(Self {
            sender,
            receiver,
            _signals: signals,
        })
    }

    /// Fails if someone asked to stop meanwhile.
    pub fn check(&self) -> Result<(), MountError> {
        match self.receiver.try_recv() {
            Ok(_) => Err(MountError::Interrupted),
            Err(_) => Ok(()),
        }
    }
}

/// How to mount.
pub struct MountOptions {
    /// Where.
    pub directory: PathBuf,
    /// Whether other users than root may go in, as far as the guest's modes let them.
    pub allow_other: bool,
    /// Whether file systems that were in use are brought to rest first.
    pub replay: bool,
    /// Threads that answer the kernel, within bounds.
    pub threads: usize,
}

/// A file system that is mounted.
#[derive(Debug)]
pub struct MountedVolume {
    /// The volume's name.
    pub volume: String,
    /// What it is called, such as `ext4`.
    pub kind: String,
    /// Where it is.
    pub directory: PathBuf,
}

/// A mount that this process serves. What is left of it is taken down when it is dropped.
pub struct Mounted {
    run: RunFolder,
    events: Events,
    fuse: Option<Fuse>,
    /// What is mounted.
    pub volumes: Vec<MountedVolume>,
    /// What is not.
    pub skipped: Vec<Skipped>,
}

impl Mounted {
    /// Mounts what is in `volumes`.
    ///
    /// # Errors
    ///
    /// Nothing is mounted then.
    pub fn start(
        volumes: Volumes,
        options: &MountOptions,
        events: Events,
    ) -> Result<Self, MountError> {
        let mut mounted = Self {
            run: RunFolder::create(&options.directory)?,
            events,
            fuse: None,
            volumes: Vec::new(),
            skipped: volumes.skipped,
        };
        let names = volumes.found.iter().map(|volume| volume.name.clone());
        let names = names.collect();
        mounted.serve(volumes.found, options.threads)?;
        let found = mounted.probe(names)?;
        if !found.is_empty() {
            let (name, directory) = (mounted.run.holder(), &options.directory);
            file_systems::mount_holder(name, directory, options.allow_other)?;
        }
        for (name, file_system) in found {
            mounted.events.check()?;
            let directory = options.directory.join(&name);
            mounted.mount(name, &file_system, directory, options.replay)?;
        }
        if mounted.volumes.is_empty() {
            let reasons = mounted.skipped.iter();
            let reasons = reasons.map(|skipped| format!("{}: {}", skipped.volume, skipped.reason));
            return Err(MountError::Nothing {
                reasons: reasons.collect(),
            });
        }
        file_systems::close_holder(&options.directory)?;
        mounted.events.check()?;
        Ok(mounted)
    }

    /// Makes files of the volumes.
    fn serve(&mut self, volumes: Vec<Volume>, threads: usize) -> Result<(), MountError> {
        let files = volumes.into_iter().map(|volume| VolumeFile {
            name: volume.name,
            disk: volume.disk,
        });
        let folder = self.run.volumes();
        let threads = threads.clamp(FUSE_THREADS_MIN, FUSE_THREADS_MAX);
        let sender = self.events.sender.clone();
        // Nobody listens any more where the mount is dropped.
        let at_end = move || drop(sender.send(Event::FuseEnded));
        let fuse = fuse::serve(files.collect(), &folder, threads, at_end);
        self.fuse = Some(fuse.map_err(|source| MountError::Io {
            op: "mount a FUSE file system at",
            path: folder,
            source,
        })?);
        Ok(())
    }

    /// Finds the file systems among the volumes, and notes the others.
    fn probe(&mut self, names: Vec<String>) -> Result<Vec<(String, FileSystem)>, MountError> {
        let mut found = Vec::new();
        for name in names {
            self.events.check()?;
            match file_systems::probe(&self.run.volumes().join(&name))? {
                Content::FileSystem(file_system) => found.push((name, file_system)),
                Content::Other { kind, reason } => self.skipped.push(Skipped {
                    volume: name,
                    kind,
                    reason: reason.to_owned(),
                    is_failure: false,
                }),
            }
        }
        Ok(found)
    }

    /// Mounts one file system. That the kernel does not want it is noted, and hurts no other.
    fn mount(
        &mut self,
        volume: String,
        file_system: &FileSystem,
        directory: PathBuf,
        replay: bool,
    ) -> Result<(), MountError> {
        let kind = file_system.kind.clone();
        let reason = match file_system.conflict() {
            Some(reason) => Some(reason.to_owned()),
            None => match self.attach_and_mount(&volume, file_system, &directory, replay) {
                Ok(()) => None,
                Err(error) if file_systems::is_refusal(&error) => Some(error.to_string()),
                Err(error) => return Err(error),
            },
        };
        match reason {
            None => self.volumes.push(MountedVolume {
                volume,
                kind,
                directory,
            }),
            Some(reason) => self.skipped.push(Skipped {
                volume,
                kind,
                reason,
                is_failure: true,
            }),
        }
        Ok(())
    }

    fn attach_and_mount(
        &self,
        volume: &str,
        file_system: &FileSystem,
        directory: &Path,
        replay: bool,
    ) -> Result<(), MountError> {
        let file = self.run.volumes().join(volume);
        let device = LoopDevice::attach(&file, !replay)?;
        std::fs::create_dir(directory).map_err(|source| MountError::Io {
            op: "make folder",
            path: directory.to_owned(),
            source,
        })?;
        if let Err(error) = file_system.mount(device.path(), directory, replay) {
            // An empty mount point would look like an empty file system.
            drop(std::fs::remove_dir(directory));
            return Err(error);
        }
        device.end_with_its_mount()
    }

    /// Serves until everything is unmounted or a signal asks for the end. `remark` is told what
    /// the user should know.
    ///
    /// # Errors
    ///
    /// [`MountError::Interrupted`] if users of the files were cut off by a second signal.
    pub fn run_until_end(mut self, remark: &mut dyn FnMut(&str)) -> Result<(), MountError> {
        let mut is_leaving = false;
        loop {
            match self.events.receiver.recv_timeout(LOOK_EVERY) {
                Ok(Event::FuseEnded) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Event::Stop) if is_leaving => {
                    self.cut_off(Outcome::Interrupted, remark)?;
                    return Err(MountError::Interrupted);
                }
                Ok(Event::Stop) => is_leaving = !self.leave(remark)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if teardown::is_unused(&self.run) {
                break;
            }
        }
        teardown::take_down(&self.run)?;
        self.finish()
    }

    /// Takes everything down, or out of sight where it is in use; returns whether it is down.
    fn leave(&self, remark: &mut dyn FnMut(&str)) -> Result<bool, MountError> {
        if teardown::mounts(&self.run)?.is_empty() {
            return Ok(teardown::is_unused(&self.run));
        }
        match teardown::take_down(&self.run) {
            Err(error @ MountError::Busy { .. }) => {
                remark(&format!(
                    "{error}; it is served on, out of sight, until they are done: a second signal \
                     cuts them off"
                ));
                teardown::detach(&self.run)?;
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    /// Leaves users that do not end to their fate: their reads fail from now on. `outcome` is that
    /// of the process where it must end at once.
    fn cut_off(
        &mut self,
        outcome: Outcome,
        remark: &mut dyn FnMut(&str),
    ) -> Result<(), MountError> {
        let cut = teardown::cut_off(&self.run);
        if self
            .fuse
            .as_ref()
            .is_some_and(|fuse| !fuse.ends_within(CUT_OFF_WITHIN))
        {
            // A thread waits for the repository's disk. The process must not end below it in good
            // order: what RocksDB keeps in statics would be destroyed while it may be asked.
            remark("a read from the repository does not end; the process ends without it");
            drop(self.run.remove());
            exit(outcome as i32);
        }
        cut?;
        self.finish()
    }

    /// Waits for what runs in this process, and removes the run folder.
    fn finish(&mut self) -> Result<(), MountError> {
        drop(self.fuse.take());
        self.run.remove()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.fuse.is_none() && self.run.is_removed() {
            return;
        }
        if teardown::take_down(&self.run).is_err() {
            // Someone was quick to use it, or it hangs: then at least it ends with its users.
            drop(teardown::detach(&self.run));
            let mut say = |text: &str| context::warn(text);
            drop(self.cut_off(Outcome::Failed, &mut say));
        } else {
            drop(self.finish());
        }
    }
}
