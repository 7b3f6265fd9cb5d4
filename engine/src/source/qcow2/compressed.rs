//! Compressed clusters: finding neighbours, reading them at once, decoding.

use std::io;
use std::sync::{Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress};
use zstd::bulk::Decompressor;
use zstd::zstd_safe::find_frame_compressed_size;

use super::image::Image;
use super::mapping::{CompressedPlace, Mapping};
use super::types::{Fault, GuestOffset, HostOffset, malformed};
use crate::source::SourceError;

/// How an image's compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// A bare deflate stream.
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// Bytes of neighbouring clusters that are read at once. One cluster can have more by itself.
const BATCH_LEN_MAX: u64 = 256 * 1024;
/// Bytes between two clusters that are read in vain rather than begin another read.
const BATCH_GAP_MAX: u64 = 4096;
/// Decoders kept for reuse; more threads than this make their own.
const POOL_LEN_MAX: usize = 32;

/// What decoding needs, kept from cluster to cluster.
#[derive(Default)]
struct Codecs {
    zlib: Option<Decompress>,
    zstd: Option<Decompressor<'static>>,
}

/// Codecs and buffers of one reading thread.
#[derive(Default)]
pub(super) struct Decoder {
    codecs: Codecs,
    input: Vec<u8>,
    /// The last cluster that was asked for in part, and which it is: the rest is often next.
    cluster: Vec<u8>,
    holds: Option<(u32, HostOffset)>,
}

/// Decoders that no thread is using.
#[derive(Default)]
pub(super) struct DecoderPool(Mutex<Vec<Decoder>>);

impl DecoderPool {
    fn take(&self) -> Decoder {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pool.pop().unwrap_or_default()
    }

    fn give_back(&self, decoder: Decoder) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < POOL_LEN_MAX {
            pool.push(decoder);
        }
    }
}

impl Codecs {
    /// Decodes one cluster, which fills `output`; bytes of `input` may be left over, because
    /// lengths are known in sectors only.
    fn decode(&mut self, kind: Compression, input: &[u8], output: &mut [u8]) -> io::Result<()> {
        match kind {
            Compression::Zlib => self.decode_zlib(input, output),
            Compression::Zstd => self.decode_zstd(input, output),
        }
    }

    fn decode_zlib(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<()> {
        let zlib = self.zlib.get_or_insert_with(|| Decompress::new(false));
        zlib.reset(false);
        zlib.decompress(input, output, FlushDecompress::Finish)?;
        if u64::try_from(output.len()) == Ok(zlib.total_out()) {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn decode_zstd(&mut self, mut input: &[u8], mut output: &mut [u8]) -> io::Result<()> {
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(Decompressor::new()?),
        };
        // QEMU reads frames until the cluster is full.
        while !output.is_empty() {
            let frame_len = find_frame_compressed_size(input)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            let (frame, rest) = (input.split_at_checked(frame_len)).unwrap_or((input, &[]));
            let len = zstd.decompress_to_buffer(frame, output)?;
            if frame.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            output = output.get_mut(len..).unwrap_or_default();
            input = rest;
        }
        Ok(())
    }
}

impl Image {
    /// Fills the start of `buf` with bytes from `offset`, where a run of compressed clusters
    /// begins with `place`, and returns how many bytes that was; at least one.
    pub(super) fn read_compressed(
        &self,
        place: CompressedPlace,
        run_len: u64,
        offset: GuestOffset,
        buf: &mut [u8],
    ) -> Result<usize, SourceError> {
        let mut decoder = self.decoders().take();
        let in_cluster = self.geometry().in_cluster(offset.0);
        let done = if in_cluster == 0 && run_len == self.geometry().cluster_len() {
            self.read_whole_clusters(&mut decoder, place, offset, buf)
        } else {
            self.read_part(&mut decoder, place, in_cluster, run_len, buf)
                .map_err(|fault| self.fault_at(fault, offset))
        };
        self.decoders().give_back(decoder);
        done
    }

    /// Reads part of one cluster by way of a decoded copy of it.
    fn read_part(
        &self,
        decoder: &mut Decoder,
        place: CompressedPlace,
        in_cluster: u64,
        run_len: u64,
        buf: &mut [u8],
    ) -> Result<usize, Fault> {
        let wanted = Some((self.id(), place.host));
        if decoder.holds != wanted {
            decoder.holds = None;
            let cluster_len = usize::try_from(self.geometry().cluster_len()).unwrap_or(0);
            decoder.cluster.resize(cluster_len, 0);
            self.load(&mut decoder.input, place.host, place.host.plus(place.len))?;
            let Decoder {
                codecs,
                input,
                cluster,
                ..
            } = decoder;
            decode(codecs, self.compression(), place, input, cluster)?;
            decoder.holds = wanted;
        }
        let len = usize::try_from(run_len)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let start = usize::try_from(in_cluster).unwrap_or(usize::MAX);
        let part = start
            .checked_add(len)
            .and_then(|end| decoder.cluster.get(start..end));
        match (part, buf.get_mut(..len)) {
            (Some(part), Some(buf)) => buf.copy_from_slice(part),
            _ => return malformed("a compressed cluster is shorter than its run"),
        }
        Ok(len)
    }

    /// Reads as many whole clusters as lie close together in the file.
    fn read_whole_clusters(
        &self,
        decoder: &mut Decoder,
        first: CompressedPlace,
        offset: GuestOffset,
        buf: &mut [u8],
    ) -> Result<usize, SourceError> {
        let cluster_len = self.geometry().cluster_len();
        let step = usize::try_from(cluster_len).unwrap_or(usize::MAX);
        let whole = buf.len().checked_div(step).unwrap_or(0);
        let mut places = vec![first];
        let mut end = first.host.plus(first.len);
        let mut next = offset.plus(cluster_len);
        for _ in 1..whole {
            let run = self.map(next, cluster_len)?;
            let Mapping::Compressed(place) = run.mapping else {
                break;
            };
            let place_end = place.host.plus(place.len);
            let is_close = place.host >= first.host && place.host <= end.plus(BATCH_GAP_MAX);
            if !is_close || place_end.0.saturating_sub(first.host.0) > BATCH_LEN_MAX {
                break;
            }
            places.push(place);
            end = end.max(place_end);
            next = next.plus(cluster_len);
        }
        self.load(&mut decoder.input, first.host, end)
            .map_err(|fault| self.fault_at(fault, offset))?;
        let mut at = offset;
        let mut done = 0_usize;
        for (place, output) in places.iter().zip(buf.chunks_exact_mut(step.max(1))) {
            let skip = usize::try_from(place.host.0.saturating_sub(first.host.0)).ok();
            let input = skip
                .and_then(|skip| decoder.input.get(skip..))
                .unwrap_or_default();
            decode(
                &mut decoder.codecs,
                self.compression(),
                *place,
                input,
                output,
            )
            .map_err(|fault| self.fault_at(fault, at))?;
            at = at.plus(cluster_len);
            done = done.saturating_add(output.len());
        }
        Ok(done)
    }

    /// Reads the file's bytes from `start` to `end` or to its end, if that comes first.
    fn load(&self, input: &mut Vec<u8>, start: HostOffset, end: HostOffset) -> Result<(), Fault> {
        if start.0 >= self.file_len() {
            return malformed(format!(
                "a compressed cluster at {} lies outside the file",
                start.0
            ));
        }
        let len = end.0.min(self.file_len()).saturating_sub(start.0);
        input.resize(usize::try_from(len).unwrap_or(0), 0);
        Ok(self.file().read_exact_at(start.0, input)?)
    }
}

/// Decodes the cluster at `place`, whose bytes `input` begins with.
fn decode(
    codecs: &mut Codecs,
    kind: Compression,
    place: CompressedPlace,
    input: &[u8],
    output: &mut [u8],
) -> Result<(), Fault> {
    let len = usize::try_from(place.len)
        .unwrap_or(usize::MAX)
        .min(input.len());
    let input = input.get(..len).unwrap_or_default();
    codecs.decode(kind, input, output).map_err(|_| {
        Fault::Malformed(format!(
            "the compressed cluster at {} cannot be decoded",
            place.host.0
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_decoded_with_bytes_left_over() -> io::Result<()> {
        let plain: Vec<u8> = (0..65_536_u32).map(|n| (n / 7 % 251) as u8).collect();
        let mut frames = zstd::bulk::compress(&plain[..30_000], 1)?;
        frames.extend(zstd::bulk::compress(&plain[30_000..], 1)?);
        let mut deflate = Vec::new();
        let level = flate2::Compression::fast();
        flate2::Compress::new(level, false)
            .compress_vec(
                &plain,
                {
                    deflate.reserve(65_536);
                    &mut deflate
                },
                flate2::FlushCompress::Finish,
            )
            .map_err(io::Error::from)?;
        let mut codecs = Codecs::default();
        for (kind, mut packed) in [(Compression::Zlib, deflate), (Compression::Zstd, frames)] {
            packed.extend([0xee; 511]);
            for _ in 0..2 {
                let mut output = vec![0; plain.len()];
                codecs.decode(kind, &packed, &mut output)?;
                assert!(output == plain);
            }
            let mut longer = vec![0; plain.len() + 1];
            assert!(codecs.decode(kind, &packed, &mut longer).is_err());
            let mut output = vec![0; plain.len()];
            assert!(
                codecs
                    .decode(kind, &packed[..packed.len() / 2], &mut output)
                    .is_err()
            );
            assert!(codecs.decode(kind, &[], &mut output).is_err());
        }
        Ok(())
    }
}
