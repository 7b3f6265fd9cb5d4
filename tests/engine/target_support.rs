//! A disk that tests restore to targets, and the tools that look at what came out.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use cairn_engine::limits::{BLOCK_LEN, REGION_LEN};
use cairn_engine::target::{Target, TargetError};

/// A disk in memory, with its data runs in blocks.
pub struct Disk {
    pub bytes: Vec<u8>,
    pub runs: Vec<Range<u64>>,
}

impl Disk {
    /// Makes a disk of `size` bytes, of which about `percent` of the blocks have data, in runs.
    pub fn random(rng: &mut fastrand::Rng, size: u64, percent: u8) -> Self {
        let mut bytes = vec![0; usize::try_from(size).expect("test disks are small")];
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut data = false;
        for (number, block) in bytes.chunks_mut(BLOCK_LEN as usize).enumerate() {
            if rng.u8(0..4) == 0 {
                data = rng.u8(0..100) < percent;
            }
            if !data {
                continue;
            }
            rng.fill(block);
            let start = number as u64 * BLOCK_LEN;
            let end = start + block.len() as u64;
            match runs.last_mut() {
                Some(run) if run.end == start && !start.is_multiple_of(REGION_LEN) => run.end = end,
                _ => runs.push(start..end),
            }
        }
        Self { bytes, runs }
    }

    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn data_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    fn regions(&self) -> Vec<(u64, Vec<Range<u64>>)> {
        let mut regions: Vec<(u64, Vec<Range<u64>>)> = Vec::new();
        for run in &self.runs {
            let start = run.start / REGION_LEN * REGION_LEN;
            match regions.last_mut() {
                Some((last, runs)) if *last == start => runs.push(run.clone()),
                _ => regions.push((start, vec![run.clone()])),
            }
        }
        regions
    }

    /// Writes all data to a target as a restore does: by four threads, regions and their pieces in
    /// random order, pieces of any length.
    pub fn write_to(&self, target: &dyn Target, seed: u64) -> Result<(), TargetError> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut regions = self.regions();
        rng.shuffle(&mut regions);
        let share = regions.len().div_ceil(4).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = regions
                .chunks(share)
                .map(|share| {
                    let rng = rng.fork();
                    scope.spawn(move || self.write_share(target, share, rng))
                })
                .collect();
            for thread in threads {
                thread.join().expect("a writing thread does not panic")?;
            }
            Ok(())
        })
    }

    fn write_share(
        &self,
        target: &dyn Target,
        regions: &[(u64, Vec<Range<u64>>)],
        mut rng: fastrand::Rng,
    ) -> Result<(), TargetError> {
        for (start, runs) in regions {
            target.begin_region(*start, runs)?;
            let mut pieces = Vec::new();
            for run in runs {
                let mut at = run.start;
                while at < run.end {
                    let end = (at + rng.u64(1..60_000)).min(run.end);
                    pieces.push(at..end);
                    at = end;
                }
            }
            rng.shuffle(&mut pieces);
            for piece in pieces {
                let bytes = &self.bytes[piece.start as usize..piece.end as usize];
                target.write_at(piece.start, bytes)?;
            }
            target.end_region(*start);
        }
        Ok(())
    }

    /// Writes the disk to a plain file, by the standard library alone.
    pub fn write_reference(&self, path: &Path) {
        let file = File::create(path).expect("the scratch folder takes files");
        file.set_len(self.size()).expect("files can be sparse");
        for run in &self.runs {
            let bytes = &self.bytes[run.start as usize..run.end as usize];
            file.write_all_at(bytes, run.start).expect("there is space");
        }
    }
}

/// Runs a tool and returns its output; a tool that is not there fails the test by name.
pub fn run(package: &str, program: &str, args: &[&str]) -> Output {
    match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {program} (Debian package {package}): {error}"),
    }
}

/// Runs a tool that must succeed, and returns what it printed.
#[track_caller]
pub fn run_ok(package: &str, program: &str, args: &[&str]) -> String {
    let output = run(package, program, args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{program} {args:?}: {stdout}{stderr}"
    );
    stdout
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("scratch paths are text")
}

/// Returns the names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
