//! Images that a process may write to are not read.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cairn_engine::source::{Format, SourceError, SourceSpec, open};

use crate::qemu::{Folder, MIB, create, text};

/// qemu-io with an image open, until dropped.
pub struct Holder(Child);

impl Holder {
    pub fn new(image: &Path, format: &str, read_only: bool) -> Self {
        let mut command = Command::new("qemu-io");
        command.args(["-f", format]);
        if read_only {
            command.arg("-r");
        }
        let mut child = command
            .arg(text(image))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run qemu-io (package qemu-utils): {error}"));
        let (stdin, stdout) = (child.stdin.as_mut(), child.stdout.as_mut());
        writeln!(stdin.expect("a pipe"), "length").expect("qemu-io listens");
        // It answers when the image is open.
        let mut answer = Vec::new();
        let stdout = stdout.expect("a pipe");
        while !answer.ends_with(b"MiB") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).expect("qemu-io answers");
            answer.push(byte[0]);
        }
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn spec(path: &Path, format: Format) -> SourceSpec {
    let mut spec = SourceSpec::new(path);
    spec.format = Some(format);
    spec.backing = true;
    spec
}

#[test]
fn an_image_open_for_writing_is_refused_and_one_open_for_reading_is_not() {
    let folder = Folder::new();
    let (raw, base, top) = (
        folder.path("disk.raw"),
        folder.path("base.qcow2"),
        folder.path("top.qcow2"),
    );
    fs::write(&raw, vec![1; MIB as usize]).expect("the disk can be written");
    create(&base, "cluster_size=64k", MIB);
    create(&top, "backing_file=base.qcow2,backing_fmt=qcow2", MIB);
    let read = |path: &Path, format| open(&spec(path, format)).map(|source| source.size());
    for (held, name, path, format) in [
        (&raw, "raw", &raw, Format::Raw),
        (&base, "qcow2", &base, Format::Qcow2),
        (&base, "qcow2", &top, Format::Qcow2),
    ] {
        let holder = Holder::new(held, name, false);
        let refused = read(path, format);
        assert!(
            matches!(&refused, Err(SourceError::InUse { path, by })
                if path == held && by.starts_with("qemu-io (process ")),
            "{refused:?}"
        );
        drop(holder);
        assert!(matches!(read(path, format), Ok(MIB)));
        let _holder = Holder::new(held, name, true);
        assert!(matches!(read(path, format), Ok(MIB)));
    }
    // A running overlay leaves its backing file alone.
    let _holder = Holder::new(&top, "qcow2", false);
    assert!(matches!(read(&base, Format::Qcow2), Ok(MIB)));
}
