//! What these tests share: a folder with a repository, disks and caches, and the command itself.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;
pub const PASSPHRASE: &str = "correct horse battery staple";

/// A folder of a test's own. The command sees nothing of the user's environment in it.
pub struct World {
    folder: tempfile::TempDir,
    pub passphrase: Option<&'static str>,
    /// The user's cache folder, in this one.
    pub cache: &'static str,
}

impl World {
    /// A folder without a repository.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self {
            folder,
            passphrase: None,
            cache: "cache",
        }
    }

    /// A folder with a repository.
    pub fn new() -> Self {
        let world = Self::empty();
        world.ok(["init"]);
        world
    }

    /// A folder with an encrypted repository, whose passphrase is given to every command.
    pub fn encrypted() -> Self {
        let world = Self {
            passphrase: Some(PASSPHRASE),
            ..Self::empty()
        };
        world.ok(["init", "--encrypt"]);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// The command, ready to be run in this folder.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("CAIRN_REPOSITORY", self.repository())
            .env("XDG_CACHE_HOME", self.path(self.cache))
            .env("TZ", "UTC")
            .env_remove("CAIRN_PASSWORD")
            .stdin(Stdio::null());
        if let Some(passphrase) = self.passphrase {
            command.env("CAIRN_PASSWORD", passphrase);
        }
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// Runs the command, which must succeed, and returns what it prints.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out
    }

    /// Runs the command with `--json`; it must succeed and print one document.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(args);
        let ran = Ran::of(command.arg("--json"));
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.document()
    }

    /// Backs `disk` up as `vda` of `web1`, and returns the JSON document.
    #[track_caller]
    pub fn backup(&self, disk: &str) -> Value {
        self.json(["backup", "web1", "--disk", &format!("vda={disk}")])
    }

    /// Makes a backup as `backup` does, with another date and parent, and returns its id.
    #[track_caller]
    pub fn dated(&self, vm: &str, disk: &str, time: &str, parent: Option<&str>) -> String {
        let disk = format!("vda={disk}");
        let made = self.json(["backup", vm, "--disk", &disk]);
        let id = made["snapshot"].as_str().expect("an id");
        let folder = self.repository().join("snapshots");
        let manifest = fs::read(folder.join(id)).expect("the manifest can be read");
        let mut manifest: Value = serde_json::from_slice(&manifest).expect("it is JSON");
        manifest["time"] = time.into();
        manifest["parent"] = parent.into();
        let bytes = manifest.to_string();
        let new = blake3::hash(bytes.as_bytes()).to_string();
        fs::remove_file(folder.join(id)).expect("the manifest can be removed");
        fs::write(folder.join(&new), bytes).expect("the manifest can be written");
        // The one that was made is not missed.
        self.clear_memory();
        new
    }

    /// Lets this client forget which snapshots it has seen.
    pub fn clear_memory(&self) {
        let mut cached = Vec::new();
        files_below(&self.path("cache"), &mut cached);
        for file in cached.iter().filter(|file| file.ends_with("newest")) {
            fs::remove_file(file).expect("what is remembered can be removed");
        }
    }

    /// Restores `vda` of a snapshot as a raw file, and returns its bytes.
    #[track_caller]
    pub fn restored(&self, snapshot: &str) -> Vec<u8> {
        let path = self.path("restored.raw");
        let to = text(&path);
        self.ok(["restore", snapshot, "--disk", "vda", "--to", to]);
        let bytes = fs::read(&path).expect("the restored disk can be read");
        fs::remove_file(&path).expect("the restored disk can be removed");
        bytes
    }

    /// Makes a raw disk of these bytes.
    pub fn raw(&self, name: &str, bytes: &[u8]) {
        let file = File::create(self.path(name)).expect("a disk can be made");
        file.set_len(bytes.len() as u64).expect("a disk can grow");
        for (number, block) in bytes.chunks(64 * 1024).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                let offset = number as u64 * 64 * KIB;
                file.write_all_at(block, offset).expect("there is space");
            }
        }
    }

    /// Makes a qcow2 disk of these bytes; `options` is qemu-img's text after `-o`.
    pub fn qcow2(&self, name: &str, bytes: &[u8], options: &str) {
        self.raw("source.raw", bytes);
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend(["source.raw", name]);
        self.tool("qemu-img", &args);
    }

    /// Runs another tool in this folder, which must succeed, and returns what it prints.
    #[track_caller]
    pub fn tool(&self, tool: &str, args: &[&str]) -> String {
        let mut command = Command::new(tool);
        command.args(args).current_dir(self.folder.path());
        let output = command.output().unwrap_or_else(|error| {
            panic!("cannot run {tool} (packages qemu-utils, mount and util-linux): {error}")
        });
        let ran = Ran::from(output);
        assert_eq!(ran.code, 0, "{tool} {args:?}: {ran:?}");
        ran.out
    }

    /// Writes through QEMU, which marks what it writes in the image's bitmaps.
    pub fn write(&self, image: &str, commands: &[&str]) {
        let mut args = vec!["-f", "qcow2"];
        for command in commands {
            args.extend(["-c", command]);
        }
        args.push(image);
        self.tool("qemu-io", &args);
    }

    /// Fails unless QEMU sees the same disk in both.
    #[track_caller]
    pub fn assert_equal(&self, a: (&str, &str), b: (&str, &str)) {
        self.tool("qemu-img", &["compare", "-f", a.0, "-F", b.0, a.1, b.1]);
    }

    /// Returns the files of a folder of the repository and of the folders in it.
    pub fn stored(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        files_below(&self.repository().join(folder), &mut found);
        found.sort();
        found
    }
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Copies what is below a folder to below another.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folders can be made");
    for entry in fs::read_dir(from).expect("it is a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_tree(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).expect("there is space")),
        }
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        command.output().expect("the command can be run").into()
    }

    #[track_caller]
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails unless the command ended with this code and said this on stderr, in one line that
    /// begins with its name, and with nothing on stdout but the same as a document where one was
    /// asked for.
    #[track_caller]
    pub fn refused(&self, code: i32, saying: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(saying), "no `{saying}`: {self:?}");
        let is_document = || self.document()["error"]["class"].is_string();
        assert!(self.out.is_empty() || is_document(), "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            // A process that a signal ended has no code.
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A disk with holes, with text that compresses and with noise that does not.
pub fn disk(seed: u64, len: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; usize::try_from(len).expect("test disks are small")];
    for block in bytes.chunks_mut(64 * 1024) {
        match random.u8(0..8) {
            0 | 1 => {}
            2..5 => random.fill(block),
            _ => {
                random.fill(block);
                block.iter_mut().for_each(|byte| *byte = b'a' + *byte % 16);
            }
        }
    }
    bytes
}

/// Changes a disk in a few places, as a guest would.
pub fn edit(seed: u64, bytes: &mut [u8]) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        let start = random.usize(0..bytes.len());
        let len = random.usize(1..100_000).min(bytes.len() - start);
        random.fill(&mut bytes[start..start + len]);
    }
}

/// Flips one bit in the middle of a file.
pub fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("stored files can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).expect("stored files can be written");
}
