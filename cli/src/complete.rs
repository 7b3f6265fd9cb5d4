//! What a shell offers while a snapshot or a place in it is being typed.
//!
//! Never asks anything: an encrypted repository is opened only where its passphrase is given. Never
//! says anything either: what does not work offers nothing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::Result;
use cairn_engine::guest::path::{self, LastLink};
use cairn_engine::guest::tree::FileKind;
use clap_complete::engine::CompletionCandidate;

use crate::args::Global;
use crate::context::Context;
use crate::files::disks::Named;
use crate::output::time;
use crate::session::{self, Snapshots};

/// The variable by which a shell's script asks. Its value is the shell.
pub const VARIABLE: &str = "CAIRN_COMPLETE";
/// Most that is offered.
const COUNT_MAX: usize = 2000;

/// Sees to it that nobody is asked and nothing is said from now on.
pub fn be_silent() {
    let null = File::options().read(true).write(true).open("/dev/null");
    if let Ok(null) = null {
        // Without it something may be said, and nothing is lost.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Returns the global options of the line that is being typed.
fn context() -> Context {
    let words: Vec<OsString> = std::env::args_os().collect();
    let typed = |names: &[&str]| {
        let mut pairs = words.windows(2);
        let found = pairs.find(|pair| names.iter().any(|name| pair[0] == *name));
        found.map(|pair| pair[1].clone())
    };
    let or_variable = |typed: Option<OsString>, name| typed.or_else(|| std::env::var_os(name));
    Context::new(Global {
        repository: or_variable(typed(&["-r", "--repository"]), "CAIRN_REPOSITORY"),
        json: false,
        quiet: true,
        verbose: 0,
        threads: None,
        password_file: or_variable(typed(&["--password-file"]), "CAIRN_PASSWORD_FILE")
            .map(Into::into),
    })
}

fn read() -> Result<Snapshots> {
    let context = context();
    let repository = session::open(&context)?;
    Snapshots::read(&context, &repository)
}

/// Offers the names of VMs.
pub fn vms(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = read().map(|snapshots| vm_names(&snapshots));
    offered(current, names.unwrap_or_default())
}

/// Offers VMs, and of a VM that is named its snapshots.
pub fn snapshots(current: &OsStr) -> Vec<CompletionCandidate> {
    offered(current, snapshot_names(current, "").unwrap_or_default())
}

/// Offers snapshots, the disks in them, and the paths in these.
pub fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    offered(current, place_names(current).unwrap_or_default())
}

fn vm_names(snapshots: &Snapshots) -> Vec<OsString> {
    let mut names: Vec<OsString> = snapshots
        .live()
        .map(|snapshot| snapshot.manifest.vm.clone().into())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn snapshot_names(current: &OsStr, end: &str) -> Result<Vec<OsString>> {
    let snapshots = read()?;
    let Some((vm, _)) = current.to_str().and_then(|text| text.rsplit_once('@')) else {
        let mut names = vm_names(&snapshots);
        names.iter_mut().for_each(|name| name.push(end));
        return Ok(names);
    };
    let of_vm = snapshots.live().rev().filter(|it| it.manifest.vm == vm);
    let mut names = vec![format!("{vm}@latest{end}").into()];
    for snapshot in of_vm.take(COUNT_MAX) {
        let time = time::local(snapshot.manifest.time).replace(' ', "T");
        names.push(format!("{vm}@{time}{end}").into());
        names.push(format!("{vm}@{}{end}", snapshot.id.short()).into());
    }
    Ok(names)
}

fn place_names(current: &OsStr) -> Result<Vec<OsString>> {
    let bytes = current.as_bytes();
    let slash = bytes.iter().rposition(|byte| *byte == b'/');
    if let Some(slash) = slash {
        return folder(OsStr::from_bytes(&bytes[..=slash]));
    }
    // The time of a snapshot may hold a `:` of its own, so each is tried.
    let colons = bytes.iter().enumerate().rev();
    for (at, _) in colons.filter(|(_, byte)| **byte == b':') {
        if let Ok(names) = areas(OsStr::from_bytes(&bytes[..at])) {
            return Ok(names);
        }
    }
    snapshot_names(current, ":")
}

/// Returns the parts of a snapshot's disks that hold file systems.
fn areas(snapshot: &OsStr) -> Result<Vec<OsString>> {
    let named = Named::open(&context(), snapshot, "complete")?;
    let mut names = Vec::new();
    for disk in &named.layout.disks {
        let areas = disk.areas.iter();
        for area in areas.filter(|area| area.content.is_file_system()) {
            let mut name = snapshot.to_owned();
            name.push(format!(":{}{}/", disk.target, area.name));
            names.push(name);
        }
    }
    Ok(names)
}

/// Returns what is in a folder of a guest, with the folder before it.
fn folder(place: &OsStr) -> Result<Vec<OsString>> {
    let context = context();
    let opened = Named::open(&context, place, "complete")?.file_system(&context)?;
    let file_system = &*opened.file_system;
    let folder = path::resolve(file_system, &opened.path, LastLink::Follow)?.id;
    let mut entries = Vec::new();
    file_system.read_folder(folder, &mut |entry| {
        entries.push((entry.name.to_vec(), entry.id));
        entries.len() < COUNT_MAX
    })?;
    let mut names = Vec::new();
    for (name, id) in entries {
        let is_folder = file_system
            .stat(id)
            .is_ok_and(|stat| stat.kind == FileKind::Folder);
        let end: &[u8] = if is_folder { b"/" } else { b"" };
        let whole = [place.as_bytes(), &name, end].concat();
        // What would move the cursor or begin another line is typed by hand.
        if !whole.iter().any(u8::is_ascii_control) {
            names.push(OsString::from_vec(whole));
        }
    }
    names.sort();
    Ok(names)
}

fn offered(current: &OsStr, names: Vec<OsString>) -> Vec<CompletionCandidate> {
    let begun = |name: &OsString| name.as_bytes().starts_with(current.as_bytes());
    let names = names.into_iter().filter(begun).take(COUNT_MAX);
    names.map(CompletionCandidate::new).collect()
}
