//! What a run has made. Whoever clears up after it deletes and writes what stands here, as root:
//! so everything must be what a run of that name makes, and nothing else.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::backup::{ScratchKind, is_remote_folder, remote_mark, scratch_mark};
use crate::domain::checkpoint::{self, CheckpointName};
use crate::domain::freeze::Held;
use crate::domain::overlay::Overlay;

/// What a run has made, written before it makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The domain's UUID.
    pub uuid: String,
    /// The domain's name.
    pub name: String,
    /// The process that owns the run.
    pub pid: u32,
    /// The checkpoint that it makes, if it does.
    pub checkpoint: Option<String>,
    /// The scratch files that QEMU makes for it.
    pub scratch: Vec<PathBuf>,
    /// Overlays that must be committed back.
    #[serde(default)]
    pub overlays: Vec<Overlay>,
    /// Images of a domain that is off, which get the checkpoint's bitmap.
    #[serde(default)]
    pub images: Vec<PathBuf>,
    /// Whether the guest may be frozen by it: `agent` or `suspend`.
    pub frozen: Option<String>,
    /// Whether its snapshot is published, so that the checkpoint stays.
    pub published: bool,
    /// What it has on another host.
    #[serde(default)]
    pub remote: Option<RemoteRecord>,
}

/// What a run has made on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRecord {
    /// The libvirt URI by which the host is reached.
    pub uri: String,
    /// The folder of QEMU's socket there, where there is one.
    pub folder: Option<PathBuf>,
    /// What the job's XML holds, and no other job's.
    pub mark: String,
}

/// Returns whether a name can be a run's.
pub(super) fn is_drawn(name: &str) -> bool {
    checkpoint::is_drawn(name)
}

impl RunRecord {
    /// Requires that all it names is what a run of this name makes.
    ///
    /// # Errors
    ///
    /// In words, what is not.
    pub(super) fn check(&self, drawn: &str) -> Result<(), String> {
        let another = |what: &str, name: &str| Err(format!("it names {what} {name}, not its own"));
        if let Some(name) = &self.checkpoint
            && !CheckpointName::is_drawn_as(name, drawn)
        {
            return another("checkpoint", name);
        }
        for path in &self.scratch {
            let name = own_name(path).unwrap_or_default();
            let memory = format!(".cairn-{drawn}.memory");
            if name != memory && !is_named(name, drawn, ScratchKind::Scratch) {
                return another("file", &path.to_string_lossy());
            }
        }
        for overlay in &self.overlays {
            let name = own_name(&overlay.path).unwrap_or_default();
            let wanted = ScratchKind::Overlay.name(drawn, &overlay.target);
            let is_known = ["qcow2", "raw"].contains(&&*overlay.format);
            if name != wanted || own_name(&overlay.base).is_none() || !is_known {
                return another("overlay", &overlay.path.to_string_lossy());
            }
        }
        if let Some(path) = self.images.iter().find(|path| own_name(path).is_none()) {
            return another("image", &path.to_string_lossy());
        }
        if let Some(frozen) = &self.frozen
            && Held::of(frozen).is_none()
        {
            return another("stillness", frozen);
        }
        match &self.remote {
            Some(remote) => remote.check(drawn),
            None => Ok(()),
        }
    }
}

impl RemoteRecord {
    fn check(&self, drawn: &str) -> Result<(), String> {
        let mark = match &self.folder {
            None => scratch_mark(drawn),
            Some(folder) if is_remote_folder(folder, drawn) => remote_mark(folder),
            Some(folder) => {
                let folder = folder.display();
                return Err(format!("it names folder {folder} there, not its own"));
            }
        };
        match self.mark == mark {
            true => Ok(()),
            false => Err(format!("it names job {}, not its own", self.mark)),
        }
    }
}

/// Returns the name of a file whose path says plainly where it is.
fn own_name(path: &Path) -> Option<&str> {
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    let is_plain = path.is_absolute() && path.components().all(is_plain);
    path.file_name()?.to_str().filter(|_| is_plain)
}

/// Returns whether a file of a kind is named so for any disk of a run.
fn is_named(name: &str, drawn: &str, kind: ScratchKind) -> bool {
    let rest = name.strip_prefix(&scratch_mark(drawn));
    let target = rest.and_then(|rest| rest.rsplit_once('.'));
    target.is_some_and(|(target, _)| kind.name(drawn, target) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWN: &str = "0123abcd";

    /// What a run of `DRAWN` makes.
    fn record() -> RunRecord {
        RunRecord {
            uuid: "u".to_owned(),
            name: "web1".to_owned(),
            pid: 1,
            checkpoint: Some(format!("cairn-01234567-{DRAWN}")),
            scratch: vec![
                format!("/i/.cairn-{DRAWN}-vda.scratch").into(),
                format!("/i/.cairn-{DRAWN}.memory").into(),
            ],
            overlays: vec![Overlay {
                target: "vda".to_owned(),
                path: format!("/i/.cairn-{DRAWN}-vda.overlay").into(),
                base: "/i/a.qcow2".into(),
                format: "qcow2".to_owned(),
                is_device: false,
                identity: None,
            }],
            images: vec!["/i/a.qcow2".into()],
            frozen: Some("agent".to_owned()),
            published: false,
            remote: Some(RemoteRecord {
                uri: "qemu+ssh://h/system".to_owned(),
                folder: Some(format!("/run/cairn/{DRAWN}").into()),
                mark: format!("/run/cairn/{DRAWN}/nbd.sock"),
            }),
        }
    }

    #[test]
    fn a_record_names_what_its_run_makes_and_nothing_else() {
        assert_eq!(record().check(DRAWN), Ok(()));
        assert!(record().check("0123abce").is_err());
        let scratch = |path: &str| {
            let path = PathBuf::from(path);
            move |record: &mut RunRecord| record.scratch.push(path)
        };
        let refused = |forge: &dyn Fn(&mut RunRecord)| {
            let mut forged = record();
            forge(&mut forged);
            assert!(forged.check(DRAWN).is_err(), "{forged:?}");
        };
        for path in [
            "/etc/shadow",
            "/i/.cairn-ffffffff-vda.scratch",
            "/i/.cairn-0123abcd-vda.qcow2",
            "/i/../etc/.cairn-0123abcd-vda.scratch",
            ".cairn-0123abcd-vda.scratch",
            "/i/.cairn-0123abcd-vda.scratch/..",
            "",
        ] {
            let mut forged = record();
            scratch(path)(&mut forged);
            assert!(forged.check(DRAWN).is_err(), "{path}");
        }
        refused(&|record| record.checkpoint = Some("nightly".to_owned()));
        refused(&|record| record.checkpoint = Some("cairn-01234567-ffffffff".to_owned()));
        refused(&|record| record.overlays[0].path = "/i/mine.qcow2".into());
        refused(&|record| record.overlays[0].target = "vdb".to_owned());
        refused(&|record| record.overlays[0].base = "/i/../etc/shadow".into());
        refused(&|record| record.overlays[0].format = "luks".to_owned());
        refused(&|record| record.images = vec!["json:{}".into()]);
        refused(&|record| record.frozen = Some("for ever".to_owned()));
        let remote = |forge: &dyn Fn(&mut RemoteRecord)| {
            refused(&|record| forge(record.remote.as_mut().expect("it has one")));
        };
        remote(&|remote| remote.folder = Some("/run/cairn".into()));
        remote(&|remote| remote.folder = Some("/run/cairn/0123abcd/..".into()));
        remote(&|remote| remote.folder = None);
        remote(&|remote| remote.mark = "<".to_owned());
    }
}
