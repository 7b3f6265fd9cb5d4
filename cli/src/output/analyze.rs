//! What `analyze` says: a table, and a chart.

use std::io::{self, Write};

use cairn_engine::analyze;
use serde::Serialize;

use super::plot::{Panel, Plot, Series, Unit};
use super::table::Table;
use super::{Report, size};

/// What images would take at several chunk sizes. All lengths are bytes.
#[derive(Debug, Serialize)]
pub struct AnalyzeReport {
    /// Images that were read.
    pub images: u64,
    /// Their sizes together.
    pub size: u64,
    /// What is not in holes.
    pub logical_bytes: u64,
    /// One row for each chunk size, in ascending order.
    pub rows: Vec<AnalyzeRow>,
}

/// What images would take at one chunk size.
#[derive(Debug, Serialize)]
pub struct AnalyzeRow {
    /// Average chunk size.
    pub chunk_size: u64,
    /// Chunk references.
    pub chunks: u64,
    /// Chunks, each counted once.
    pub unique_chunks: u64,
    /// Their plain length.
    pub unique_bytes: u64,
    /// What they would take, compressed.
    pub stored_bytes: u64,
    /// `logical_bytes / unique_bytes`.
    pub dedup_ratio: f64,
    /// `unique_bytes / stored_bytes`.
    pub compression_ratio: f64,
}

impl AnalyzeReport {
    /// Returns the rows that an analysis of `images` images of `size` bytes in sum gave.
    pub fn new(images: u64, size: u64, rows: &[analyze::AnalyzeRow]) -> Self {
        let ratio = |whole: u64, part: u64| match part {
            0 => 1.0,
            _ => whole as f64 / part as f64,
        };
        let row = |row: &analyze::AnalyzeRow| AnalyzeRow {
            chunk_size: u64::from(row.chunk_size),
            chunks: row.chunks,
            unique_chunks: row.unique_chunks,
            unique_bytes: row.unique_bytes,
            stored_bytes: row.stored_bytes,
            dedup_ratio: ratio(row.logical_bytes, row.unique_bytes),
            compression_ratio: ratio(row.unique_bytes, row.stored_bytes),
        };
        let logical_bytes = rows.first().map_or(0, |row| row.logical_bytes);
        Self {
            images,
            size,
            logical_bytes,
            rows: rows.iter().map(row).collect(),
        }
    }

    /// Returns the chart of the rows.
    pub fn plot(&self) -> Plot {
        let series = |name: &str, value: fn(&AnalyzeRow) -> f64| Series {
            name: name.to_owned(),
            points: self
                .rows
                .iter()
                .map(|row| (row.chunk_size, value(row)))
                .collect(),
        };
        let images = if self.images == 1 { "image" } else { "images" };
        let data = size::human(self.logical_bytes);
        Plot {
            title: "Deduplication by chunk size".to_owned(),
            subtitle: format!("{} {images}, {data} of data without holes", self.images),
            panels: vec![
                Panel {
                    label: "Space taken".to_owned(),
                    unit: Unit::Bytes,
                    series: vec![
                        series("deduplicated", |row| row.unique_bytes as f64),
                        series("and compressed", |row| row.stored_bytes as f64),
                    ],
                },
                Panel {
                    label: "Deduplication ratio".to_owned(),
                    unit: Unit::Ratio,
                    series: vec![series("data / unique", |row| row.dedup_ratio)],
                },
            ],
        }
    }
}

impl Report for AnalyzeReport {
    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (size, data) = (size::human(self.size), size::human(self.logical_bytes));
        writeln!(
            out,
            "{} images, {size}, {data} of data without holes",
            self.images
        )?;
        let mut table = Table::new(&[
            ">CHUNK SIZE",
            ">CHUNKS",
            ">UNIQUE CHUNKS",
            ">UNIQUE",
            ">STORED",
            ">DEDUP",
            ">COMPRESSION",
        ]);
        for row in &self.rows {
            table.row([
                size::exact(row.chunk_size),
                row.chunks.to_string(),
                row.unique_chunks.to_string(),
                size::human(row.unique_bytes),
                size::human(row.stored_bytes),
                format!("{:.2}", row.dedup_ratio),
                format!("{:.2}", row.compression_ratio),
            ]);
        }
        table.write(out)
    }
}
