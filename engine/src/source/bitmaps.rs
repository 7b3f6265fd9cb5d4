//! Bitmaps of qcow2 images that nobody has open: `qemu-img` adds, lists and removes them.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::child;

/// Adds a dirty bitmap: from now on QEMU marks in it what is written.
///
/// # Errors
///
/// Where `qemu-img` cannot be run, or refuses: the image may be open, or be of a version that keeps
/// no bitmaps.
pub fn add(image: &Path, name: &str) -> io::Result<()> {
    change("--add", image, name)
}

/// Removes a dirty bitmap.
///
/// # Errors
///
/// As [`add`].
pub fn remove(image: &Path, name: &str) -> io::Result<()> {
    change("--remove", image, name)
}

/// Returns the names of an image's bitmaps.
///
/// # Errors
///
/// As [`add`].
pub fn names(image: &Path) -> io::Result<Vec<String>> {
    names_by(&[], image)
}

/// Returns the names of the bitmaps in an image that a QEMU may have open: those of before it was
/// opened, for the most part.
///
/// # Errors
///
/// As [`add`].
pub fn names_in_use(image: &Path) -> io::Result<Vec<String>> {
    names_by(&["-U"], image)
}

fn names_by(options: &[&str], image: &Path) -> io::Result<Vec<String>> {
    let mut command = child::program("qemu-img");
    command.args(["info", "--output=json", "-f", "qcow2"]);
    let said = run(command.args(options).arg("--").arg(image))?;
    let info: Info = serde_json::from_slice(&said)?;
    let bitmaps = info.specific.map(|specific| specific.data.bitmaps);
    let names = bitmaps.unwrap_or_default().into_iter();
    Ok(names.map(|bitmap| bitmap.name).collect())
}

#[derive(Deserialize)]
struct Info {
    #[serde(rename = "format-specific")]
    specific: Option<Specific>,
}

#[derive(Deserialize)]
struct Specific {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    bitmaps: Vec<Bitmap>,
}

#[derive(Deserialize)]
struct Bitmap {
    name: String,
}

fn change(what: &str, image: &Path, name: &str) -> io::Result<()> {
    let mut command = child::program("qemu-img");
    command.args(["bitmap", what, "-f", "qcow2", "--"]);
    run(command.arg(image).arg(name)).map(drop)
}

fn run(command: &mut Command) -> io::Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}
