//! What a kernel shows of a file system, and what a reader does: the same, or a test fails.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cairn_engine::guest::tree::{FileId, FileKind, FileSystem, Volume};

use crate::support::mounts::MountedImage;

/// Runs a program to its end; `package` has it.
pub fn run(package: &str, program: &str, args: &[&OsStr]) {
    let output = Command::new(program).args(args).env("TZ", "UTC").output();
    let output = output.unwrap_or_else(|error| panic!("{program}, of {package}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

/// Runs a script of bash in a folder.
pub fn script(folder: &Path, script: &str) {
    let script = format!("cd \"$0\"\n{script}");
    let args = ["-eu", "-c", &script].map(OsStr::new);
    run(
        "bash, attr, acl",
        "bash",
        &[&args[..], &[folder.as_os_str()]].concat(),
    );
}

/// Makes a file of holes.
pub fn image(path: PathBuf, size: u64) -> PathBuf {
    let file = File::create(&path).expect("an image can be made");
    file.set_len(size).expect("an image can be made large");
    path
}

/// Has the kernel mount an image beside it.
pub fn kernel_mount(image: &Path, args: &[&str]) -> MountedImage {
    MountedImage::new(image, &image.with_extension("mounted"), args)
}

/// An image as a volume.
pub struct Disk(pub File);

impl Disk {
    pub fn open(path: &Path) -> Arc<dyn Volume> {
        Arc::new(Self(File::open(path).expect("an image can be opened")))
    }
}

impl Volume for Disk {
    fn size(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

/// All that is compared of a file.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Seen {
    pub kind: String,
    pub mode: Option<u32>,
    pub owner: Option<(u32, u32)>,
    pub size: u64,
    pub links: u32,
    pub modified: (i64, u32),
    pub target: Vec<u8>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub content: Option<blake3::Hash>,
    /// The first path that names the same file.
    pub first: Vec<u8>,
}

/// Files by their paths.
pub type Tree = BTreeMap<Vec<u8>, Seen>;

/// Walks what a kernel shows.
pub fn of_kernel(root: &Path) -> Tree {
    let (mut tree, mut firsts) = (Tree::new(), BTreeMap::new());
    let mut ids = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let whole = root.join(&path);
        let metadata = fs::symlink_metadata(&whole).expect("the kernel knows its files");
        if metadata.is_dir() {
            for entry in fs::read_dir(&whole).expect("a folder can be read") {
                open.push(path.join(entry.expect("a folder can be read").file_name()));
            }
        }
        let path = path.into_os_string().into_vec();
        ids.insert(path.clone(), (metadata.dev(), metadata.ino()));
        tree.insert(path, seen_by_kernel(&whole, &metadata));
    }
    for (path, seen) in &mut tree {
        seen.first
            .clone_from(firsts.entry(ids[path]).or_insert_with(|| path.clone()));
    }
    tree
}

fn seen_by_kernel(path: &Path, metadata: &fs::Metadata) -> Seen {
    let kind = metadata.file_type();
    let device = metadata.rdev();
    let kind = match () {
        () if kind.is_dir() => FileKind::Folder,
        () if kind.is_symlink() => FileKind::Symlink,
        () if kind.is_fifo() => FileKind::Fifo,
        () if kind.is_socket() => FileKind::Socket,
        () if kind.is_block_device() => FileKind::BlockDevice(device),
        () if kind.is_char_device() => FileKind::CharDevice(device),
        () => FileKind::File,
    };
    let mut content = None;
    if kind == FileKind::File {
        let mut hasher = blake3::Hasher::new();
        let file = File::open(path).expect("a file can be opened");
        hasher.update_reader(file).expect("a file can be read");
        content = Some(hasher.finalize());
    }
    let target = match kind {
        FileKind::Symlink => fs::read_link(path).expect("a link can be read"),
        _ => PathBuf::new(),
    };
    Seen {
        kind: format!("{kind:?}"),
        mode: Some(metadata.mode() & 0o7777),
        owner: Some((metadata.uid(), metadata.gid())),
        size: metadata.size(),
        links: u32::try_from(metadata.nlink()).expect("few links"),
        modified: (
            metadata.mtime(),
            u32::try_from(metadata.mtime_nsec()).expect("below a second"),
        ),
        target: target.into_os_string().into_vec(),
        attributes: attributes_by_kernel(path),
        content,
        first: Vec::new(),
    }
}

fn attributes_by_kernel(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|byte| *byte == 0);
    let mut attributes = BTreeMap::new();
    for name in names.filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]);
        value.truncate(len.expect("an attribute can be read"));
        attributes.insert(name.to_vec(), value);
    }
    attributes
}

/// Walks what a reader shows.
pub fn of_reader(fs: &dyn FileSystem) -> Tree {
    let (mut tree, mut firsts) = (Tree::new(), BTreeMap::new());
    let mut ids = BTreeMap::new();
    let mut open = vec![(Vec::new(), fs.root())];
    while let Some((path, id)) = open.pop() {
        let seen = seen_by_reader(fs, id);
        if seen.kind == "Folder" {
            fs.read_folder(id, &mut |entry| {
                let mut path: Vec<u8> = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(&entry.name);
                open.push((path, entry.id));
                true
            })
            .expect("a folder can be read");
        }
        ids.insert(path.clone(), id);
        tree.insert(path, seen);
    }
    for (path, seen) in &mut tree {
        seen.first
            .clone_from(firsts.entry(ids[path]).or_insert_with(|| path.clone()));
    }
    tree
}

fn seen_by_reader(fs: &dyn FileSystem, id: FileId) -> Seen {
    let stat = fs.stat(id).expect("a file is known");
    let mut content = None;
    if stat.kind == FileKind::File {
        let mut hasher = blake3::Hasher::new();
        let mut end = 0;
        fs.read_file(id, &mut |offset, run| {
            assert!(offset >= end && run.len() <= 1 << 20 && !run.is_empty());
            zeros(&mut hasher, offset - end);
            hasher.update(run);
            end = offset + run.len() as u64;
            Ok(())
        })
        .expect("a file can be read");
        zeros(
            &mut hasher,
            stat.size.checked_sub(end).expect("no more than its size"),
        );
        content = Some(hasher.finalize());
    }
    let target = match stat.kind {
        FileKind::Symlink => fs.read_link(id).expect("a link can be read"),
        _ => Vec::new(),
    };
    Seen {
        kind: format!("{:?}", stat.kind),
        mode: stat.mode.map(u32::from),
        owner: stat.owner,
        size: stat.size,
        links: stat.links,
        modified: (stat.modified.seconds, stat.modified.nanoseconds),
        target,
        attributes: fs
            .xattrs(id)
            .expect("attributes can be read")
            .into_iter()
            .collect(),
        content,
        first: Vec::new(),
    }
}

fn zeros(hasher: &mut blake3::Hasher, mut len: u64) {
    let block = [0; 64 << 10];
    while len > 0 {
        let now = len.min(64 << 10);
        hasher.update(&block[..usize::try_from(now).expect("small")]);
        len -= now;
    }
}

/// Fails at the first file that differs.
pub fn assert_same(kernel: &Tree, reader: &Tree, what: &str) {
    assert!(kernel.len() > 1, "{what}: there is nothing to compare");
    for (path, seen) in kernel {
        let name = String::from_utf8_lossy(path);
        let other = reader.get(path);
        assert_eq!(
            Some(seen),
            other,
            "{what}: {name:?}, by the kernel and by the reader"
        );
    }
    for path in reader.keys() {
        let name = String::from_utf8_lossy(path);
        assert!(
            kernel.contains_key(path),
            "{what}: the kernel has no {name:?}"
        );
    }
}

/// Fills a folder of a file system that has all that Unix has.
pub const POPULATE: &str = r#"
    cp -a /etc etc; cp -a /usr/share/bash-completion .; mkdir terminfo
    cp -a /usr/share/terminfo/[a-h]* terminfo
    mkdir -p odd many deep special; chmod 2750 odd; chown 70000:4000000000 odd
    printf x > "odd/$(printf 'l%.0s' {1..255})"; printf y > $'odd/new\nline'
    printf z > $'odd/\xff\xfe not utf8'; printf u > 'odd/Grüße ☃'; : > odd/empty
    for i in {1..2500}; do : > "many/file number $i of a folder with many"; done
    d=deep; for i in {1..60}; do d=$d/level$i; done; mkdir -p $d; echo bottom > $d/file
    printf data > special/original; ln special/original special/second
    ln special/original odd/third; chmod 4755 special/original
    touch -d '1969-07-20 20:17:40.123456789' special/original
    touch -d '2037-12-31 23:59:59.999999999' special/late
    mkfifo special/fifo; mknod special/block b 259 70000; mknod special/char c 5 1
    python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("special/socket")'
    ln -s ../etc/passwd special/short-link
    ln -s "/$(printf 'long/%.0s' {1..200})end" special/long-link
    truncate -s 100M special/holes; printf start | dd of=special/holes conv=notrunc status=none
    printf middle | dd of=special/holes bs=1 seek=50000001 conv=notrunc status=none
    fallocate -l 3M special/allocated
    printf part | dd of=special/allocated bs=1 seek=1000000 conv=notrunc status=none
    seq 1 200000 > special/lines; head -c 2000000 /dev/urandom > special/random
    yes 'packs well' | head -c 2000000 > special/packs || true
    setfattr -n user.small -v value special/lines; setfattr -n user.empty special/lines
    setfattr -n trusted.t -v 1 special/lines
    setfattr -n security.cairn -v s special/lines
    for i in {1..60}; do setfattr -n "user.many$i" -v "$(printf "$i%.0s" {1..30})" odd/empty; done
    setfattr -n user.large -v "$(printf 'v%.0s' {1..3000})" special/random
    setfacl -m u:1001:rw,g:2000:r,m::rwx special/lines; setfacl -d -m u:1002:rx odd
    setfattr -h -n trusted.link -v l special/short-link
"#;
