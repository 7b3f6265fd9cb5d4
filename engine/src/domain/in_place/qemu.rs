//! `qemu-img`, which knows how to write into images of any shape.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{InPlaceError, Result};
use crate::child;
use crate::domain::named;
use crate::source::libvirt::ImageLock;

/// What an image holds beside its disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// The names of its bitmaps.
    pub(super) bitmaps: Vec<String>,
    /// Whether it has libvirt snapshots inside.
    pub(super) has_snapshots: bool,
}

/// A disk whose lock is held. It is written to by way of the lock, and so is the file that was
/// locked, whatever has its name by then.
#[derive(Clone, Copy)]
pub(super) struct Held<'h> {
    /// Where it is.
    pub(super) path: &'h Path,
    /// Its format.
    pub(super) format: &'h str,
    pub(super) lock: &'h ImageLock,
}

/// Asks for what an image holds. Changes nothing, and minds no lock.
pub(super) fn info(held: &Held<'_>) -> Result<Info> {
    let mut command = child::program("qemu-img");
    command
        .args(["info", "--output=json"])
        .arg(named(&held.image()?));
    held.give_lock(&mut command)?;
    parse_info(&run(command, "info")?)
}

fn parse_info(text: &str) -> Result<Info> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        snapshots: Vec<Value>,
        #[serde(rename = "format-specific", default)]
        specific: Value,
    }
    let failed = |error: serde_json::Error| InPlaceError::QemuImg {
        what: "info",
        said: error.to_string(),
    };
    let document: Document = serde_json::from_str(text).map_err(failed)?;
    let bitmaps = document.specific["data"]["bitmaps"]
        .as_array()
        .into_iter()
        .flatten();
    let names = bitmaps.filter_map(|bitmap| bitmap["name"].as_str().map(str::to_owned));
    Ok(Info {
        bitmaps: names.collect(),
        has_snapshots: !document.snapshots.is_empty(),
    })
}

/// Removes a bitmap; that it is not there is fine.
pub(super) fn remove_bitmap(held: &Held<'_>, name: &str) -> Result<()> {
    if !info(held)?.bitmaps.iter().any(|bitmap| bitmap == name) {
        return Ok(());
    }
    let mut command = child::program("qemu-img");
    command
        .args(["bitmap", "--remove"])
        .arg(named(&held.image()?))
        .arg(name);
    held.give_lock(&mut command)?;
    run(command, "bitmap").map(drop)
}

/// Writes all that an overlay holds into the image below it, which grows where it is smaller. Once
/// more does no harm.
pub(super) fn commit(overlay: &File, below: &Held<'_>) -> Result<()> {
    let file = json!({"driver": "file", "filename": named::of_ours(overlay).to_string_lossy(),
        "locking": "off"});
    let top = json!({"driver": "qcow2", "file": file, "backing": below.image()?});
    let mut command = child::program("qemu-img");
    // The overlay keeps what it holds: a crash may come before the disk is durable.
    command.args(["commit", "-q", "-d"]).arg(named(&top));
    below.give_lock(&mut command)?;
    run(command, "commit").map(drop)
}

impl Held<'_> {
    /// Describes it to a QEMU that has its lock for input. It asks for no lock, since we hold it.
    fn image(&self) -> Result<Value> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let file = self.lock.file();
        let image = named::describe(file, &named::input(), folder, self.format);
        let mut image = image.map_err(|source| InPlaceError::Lock {
            path: self.path.to_owned(),
            source,
        })?;
        image["file"]["locking"] = json!("off");
        Ok(image)
    }

    /// Lets a child hold our lock for as long as it lives, whatever becomes of us.
    fn give_lock(&self, command: &mut Command) -> Result<()> {
        let input = self.lock.for_child().map_err(|source| InPlaceError::Lock {
            path: self.path.to_owned(),
            source,
        })?;
        command.stdin(input);
        Ok(())
    }
}

/// Names a described image on a command line.
fn named(image: &Value) -> String {
    format!("json:{image}")
}

fn run(mut command: Command, what: &'static str) -> Result<String> {
    let output = command.output().map_err(InPlaceError::NoQemuImg)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or("it says nothing").trim();
    Err(InPlaceError::QemuImg {
        what,
        said: said.chars().take(500).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_and_snapshots_are_found() {
        let text = r#"{"snapshots": [{"id": "1"}], "format-specific": {"type": "qcow2",
            "data": {"bitmaps": [{"name": "cp1", "flags": ["auto"]}]}}}"#;
        let found = parse_info(text).expect("it is qemu-img's");
        let bitmaps = vec!["cp1".to_owned()];
        assert_eq!(
            found,
            Info {
                bitmaps,
                has_snapshots: true
            }
        );
        assert_eq!(
            parse_info("{}").expect("a raw image has none"),
            Info::default()
        );
        assert!(parse_info("x").is_err());
    }
}
