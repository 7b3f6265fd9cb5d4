//! `cairn analyze`: what images would take, without a repository.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cairn_engine::analyze::{AnalyzeOptions, analyze};
use cairn_engine::chunker::ChunkerSettings;
use cairn_engine::compress::Compression;
use cairn_engine::limits::FRAME_LEN_DEFAULT;
use cairn_engine::nbd::client::ClientOptions;
use cairn_engine::progress::Progress;
use cairn_engine::source::{self, SourceSpec};

use crate::commands::init::ChunkSize;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output::analyze::AnalyzeReport;

const EXAMPLES: &str = "\
IMAGE is a path with options after commas, as for `cairn backup`: `disk.img,format=qcow2`.

Examples:
  cairn analyze /vm/*.qcow2
  cairn analyze day0.raw day1.raw --chunk-sizes 8KiB,16KiB,64KiB --plot chunks.svg";

/// Find out how well images deduplicate, at several chunk sizes
///
/// Reads the images; needs no repository, and writes nothing but the chart.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct AnalyzeArgs {
    /// Images to read
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<OsString>,

    /// Average chunk sizes to try
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',')]
    #[arg(default_value = "4KiB,8KiB,16KiB,32KiB,64KiB,128KiB,256KiB,1MiB")]
    pub chunk_sizes: Vec<ChunkSize>,

    /// Draw a chart into this file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

impl AnalyzeArgs {
    /// Returns the chunk sizes in bytes, in ascending order, each once.
    pub fn sizes(&self) -> Vec<u32> {
        let mut sizes: Vec<u32> = self.chunk_sizes.iter().map(|size| size.0).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

/// Runs the command.
pub fn run(args: &AnalyzeArgs, context: &Context) -> Result<Outcome> {
    let cancel = context.cancel()?;
    let mut sources = Vec::with_capacity(args.images.len());
    let waiting = ClientOptions {
        cancel: cancel.clone(),
        ..ClientOptions::default()
    };
    for image in &args.images {
        sources.push(source::open_with(&SourceSpec::parse(image)?, &waiting)?);
    }
    let mut sizes = Vec::new();
    for size in args.sizes() {
        sizes.push(ChunkerSettings::new(size)?);
    }
    let progress = Arc::new(Progress::default());
    let meter = context.meter("analyze", &progress);
    let options = AnalyzeOptions {
        frame_len: FRAME_LEN_DEFAULT,
        compression: Compression::Zstd { level: 1 },
        threads: context.threads().get(),
        progress: &progress,
        cancel: &cancel,
    };
    let rows = analyze(&sources, &sizes, &options)?;
    drop(meter);
    let size = sources.iter().map(|source| source.size()).sum();
    let report = AnalyzeReport::new(sources.len() as u64, size, &rows);
    context.print(&report)?;
    if let Some(path) = &args.plot {
        std::fs::write(path, report.plot().to_svg())
            .with_context(|| format!("cannot write {}", path.display()))?;
        context.remark(&format!("drew {}", path.display()));
    }
    Ok(Outcome::Done)
}
