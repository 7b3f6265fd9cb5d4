//! File systems with flipped bytes: any answer will do, but one must come, soon.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_engine::guest::tree::{FileKind, FileSystem, GuestError, Volume};
use cairn_engine::guest::{btrfs, ext4, fat, ntfs, xfs};

use crate::guest_truth::{image, kernel_mount, run, script};
use crate::support::waiting::PATIENCE;

/// What all flips of one image take together, `CAIRN_HISTORIES` times.
const TIME: Duration = Duration::from_millis(1200);

struct Flipped {
    file: File,
    size: u64,
    flips: BTreeMap<u64, u8>,
}

impl Volume for Flipped {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        assert!(buf.len() <= 4 << 20, "a read of {} bytes", buf.len());
        self.file.read_exact_at(buf, offset)?;
        for (at, flip) in self.flips.range(offset..offset + buf.len() as u64) {
            buf[usize::try_from(at - offset).expect("within")] ^= flip;
        }
        Ok(())
    }
}

type Open = fn(Arc<dyn Volume>) -> Result<Box<dyn FileSystem>, GuestError>;

/// Touches all that can be reached, within bounds: a flip may make a folder contain itself.
fn walk(fs: &dyn FileSystem) -> Result<(), GuestError> {
    let (mut open, mut left) = (vec![fs.root()], 2000);
    while let Some(id) = open.pop() {
        left -= 1;
        if left == 0 {
            return Ok(());
        }
        let Ok(stat) = fs.stat(id) else { continue };
        let _attributes = fs.xattrs(id);
        let mut bytes = 0;
        let _read = match stat.kind {
            FileKind::Folder => fs.read_folder(id, &mut |entry| {
                open.push(entry.id);
                open.len() < 4000
            }),
            FileKind::File => fs.read_file(id, &mut |_, run| {
                bytes += run.len();
                if bytes > 16 << 20 {
                    return Err(io::Error::other("enough"));
                }
                Ok(())
            }),
            _ => fs.read_link(id).map(drop),
        };
    }
    Ok(())
}

fn survives(image: &Path, open: Open) {
    let file = File::open(image).expect("an image can be opened");
    let size = file.metadata().expect("an image has a size").len();
    let held = sectors_with_data(&file, size);
    let time = TIME * u32::try_from(number("CAIRN_HISTORIES").unwrap_or(1)).unwrap_or(1);
    let seed = number("CAIRN_SEED").unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let (start, mut opened) = (Instant::now(), 0);
    // times: how long the test goes on, and longer where it found nothing to go on with.
    while start.elapsed() < time || opened == 0 && start.elapsed() < PATIENCE {
        let mut flips = BTreeMap::new();
        for _ in 0..random.usize(1..40) {
            let sector = held[random.usize(..held.len())];
            flips.insert(sector + random.u64(..512), random.u8(1..));
        }
        let file = file.try_clone().expect("a file can be shared");
        let before = Instant::now();
        let result = std::panic::catch_unwind(|| {
            let fs = open(Arc::new(Flipped { file, size, flips }))?;
            walk(&*fs)
        });
        opened += u32::from(matches!(result, Ok(Ok(()))));
        assert!(result.is_ok(), "a panic; CAIRN_SEED={seed}");
        assert!(before.elapsed() < PATIENCE, "too slow; CAIRN_SEED={seed}");
    }
    assert!(opened > 0, "nothing could be opened; CAIRN_SEED={seed}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the seed and the length of a test come from the environment"
)]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn sectors_with_data(file: &File, size: u64) -> Vec<u64> {
    let mut held = Vec::new();
    let mut block = vec![0; 1 << 20];
    for start in (0..size).step_by(1 << 20) {
        let len = usize::try_from(size - start).map_or(1 << 20, |left| left.min(1 << 20));
        file.read_exact_at(&mut block[..len], start)
            .expect("an image can be read");
        for (number, sector) in block[..len].chunks(512).enumerate() {
            if sector.iter().any(|byte| *byte != 0) {
                held.push(start + 512 * number as u64);
            }
        }
    }
    held
}

const CONTENT: &str = r#"
    mkdir -p folder/many; for i in {1..400}; do : > folder/many/file-number-$i; done
    for i in {1..200}; do printf $i | dd of=fragments bs=8192 seek=$i conv=notrunc status=none; done
    seq 1 20000 > lines; echo small > small; truncate -s 20M holes
"#;

const ATTRIBUTES: &str = r#"
    ln -s "$(printf 'l%.0s' {1..900})" link; ln -s short link2
    for i in {1..80}; do setfattr -n user.number$i -v "$(printf 'v%.0s' {1..60})" small; done
    setfattr -n user.large -v "$(printf 'v%.0s' {1..3000})" lines; setfacl -m u:1001:rw small
"#;

#[test]
fn ext4_with_flips() {
    for options in [
        "-Oinline_data",
        "-Oextents,^metadata_csum",
        "-O^extents,^64bit",
    ] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let image = image(folder.path().join("image"), 60 << 20);
        let args = ["-qF", options].map(AsRef::as_ref);
        let args = [&args[..], &[image.as_os_str()]].concat();
        run("e2fsprogs", "mkfs.ext4", &args);
        let mounted = kernel_mount(&image, &[]);
        let attributes = ATTRIBUTES
            .replace("{1..80}", "{1..4}")
            .replace("{1..3000}", "{1..300}");
        script(
            &mounted.path,
            &format!("{CONTENT}{attributes} sync; touch late; sync; xfs_io -x -c shutdown ."),
        );
        drop(mounted);
        survives(&image, ext4::open);
    }
}

#[test]
fn xfs_with_flips() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = image(folder.path().join("image"), 320 << 20);
    run("xfsprogs", "mkfs.xfs", &["-q".as_ref(), image.as_os_str()]);
    let mounted = kernel_mount(&image, &[]);
    script(&mounted.path, &format!("{CONTENT}{ATTRIBUTES}"));
    drop(mounted);
    survives(&image, xfs::open);
}

#[test]
fn xfs_with_a_log_to_replay_with_flips() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = image(folder.path().join("image"), 320 << 20);
    run("xfsprogs", "mkfs.xfs", &["-q".as_ref(), image.as_os_str()]);
    let mounted = kernel_mount(&image, &[]);
    script(
        &mounted.path,
        &format!("{CONTENT}{ATTRIBUTES} xfs_io -x -c 'shutdown -f' ."),
    );
    drop(mounted);
    survives(&image, xfs::open);
}

#[test]
fn btrfs_with_flips() {
    for sum in ["crc32c", "xxhash"] {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let image = image(folder.path().join("image"), 120 << 20);
        let args = ["-q", "-m", "single", "--csum", sum].map(AsRef::as_ref);
        run(
            "btrfs-progs",
            "mkfs.btrfs",
            &[&args[..], &[image.as_os_str()]].concat(),
        );
        let mounted = kernel_mount(&image, &["-o", "compress-force=lzo"]);
        script(&mounted.path, &format!("{CONTENT}{ATTRIBUTES}"));
        drop(mounted);
        survives(&image, btrfs::open);
    }
}

#[test]
fn ntfs_with_flips() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let image = image(folder.path().join("image"), 40 << 20);
    run("ntfs-3g", "mkntfs", &["-qFQ".as_ref(), image.as_os_str()]);
    let mounted = kernel_mount(&image, &["-t", "ntfs-3g", "-o", "compression"]);
    script(
        &mounted.path,
        &format!(
            "{CONTENT} mkdir packed; setfattr -h -v 0x00000800 -n system.ntfs_attrib_be packed
             cp lines packed"
        ),
    );
    drop(mounted);
    survives(&image, ntfs::open);
}

#[test]
fn fat_with_flips() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let source = folder.path().join("source");
    std::fs::create_dir(&source).expect("a folder can be made");
    script(&source, CONTENT);
    let image = image(folder.path().join("image"), 40 << 20);
    run(
        "dosfstools",
        "mkfs.fat",
        &["-F32".as_ref(), image.as_os_str()],
    );
    script(&source, &format!("mcopy -s -i {} * ::", image.display()));
    survives(&image, fat::open);
}
