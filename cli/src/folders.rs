//! Where a user's caches and state are, as the XDG base directory specification has it; also where
//! nobody says so, as under cron and systemd.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cairn_engine::storage::make_private_folder;
use nix::unistd::User;
use rustix::fs::{Access, access};
use tempfile::TempDir;

/// The cache of root where there is neither a home nor a word on it.
const ROOT_CACHE: &str = "/var/cache/cairn";

/// Returns the folder that an environment variable names.
pub fn named(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.filter(|path| path.is_absolute())
}

/// Returns this user's home: `HOME`, or else what the system's list of users says.
///
/// Root in the environment of another user (`sudo -E`) has a home of its own: what it makes in the
/// other's would be in that user's way.
pub fn home() -> Option<PathBuf> {
    let user = rustix::process::geteuid();
    let is_ours = |home: &PathBuf| {
        !user.is_root() || fs::metadata(home).is_ok_and(|home| home.uid() == user.as_raw())
    };
    named("HOME").filter(is_ours).or_else(|| {
        let entry = User::from_uid(user.as_raw().into()).ok().flatten();
        entry.map(|user| user.dir).filter(|home| home.is_absolute())
    })
}

/// A folder for what can be found out again.
#[derive(Debug)]
pub enum Cache {
    /// One that lasts.
    Kept(PathBuf),
    /// One that goes with this process, since there is no other.
    Lost(TempDir),
}

impl Cache {
    /// Finds this user's cache folder.
    ///
    /// # Errors
    ///
    /// The system's reason, where not even a temporary folder can be made.
    pub fn find() -> std::io::Result<Self> {
        if let Some(folder) = named("XDG_CACHE_HOME") {
            return Ok(Self::Kept(folder.join("cairn")));
        }
        let is_root = rustix::process::geteuid().is_root();
        let home = home().map(|home| home.join(".cache").join("cairn"));
        let root = is_root.then(|| PathBuf::from(ROOT_CACHE));
        let is_usable = |folder: &PathBuf| {
            make_private_folder(folder).is_ok() && access(folder, Access::WRITE_OK).is_ok()
        };
        match home.into_iter().chain(root).find(is_usable) {
            Some(folder) => Ok(Self::Kept(folder)),
            None => tempfile::Builder::new()
                .prefix("cairn-cache-")
                .tempdir()
                .map(Self::Lost),
        }
    }

    /// Returns the folder.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Kept(folder) => folder.clone(),
            Self::Lost(folder) => folder.path().to_owned(),
        }
    }
}
