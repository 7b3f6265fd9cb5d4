//! The chain of images that make up a disk: who names whom, what may be opened, and reading and
//! listing through it.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Qcow2Options;
use super::header::Header;
use super::image::{Image, Shared};
use super::mapping::Mapping;
use super::types::{Fault, GuestOffset, HostOffset};
use crate::extent::{Extent, ExtentStatus, push_extent};
use crate::source::file::{Access, DiskFile, Identity, ReadAt};
use crate::source::raw::RawSource;
use crate::source::spec::{Format, printable};
use crate::source::watched::Watched;
use crate::source::{Source, SourceError};

/// Longest chain: as long as libvirt's. Each image is an open file.
const CHAIN_LEN_MAX: usize = 200;

/// One file of a chain.
enum Layer {
    Qcow2(Image),
    Raw(RawSource),
}

/// What an unallocated range of the last layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Zeros: there is nothing below.
    Zero,
    /// The same as in the parent snapshot, which is not here.
    Unchanged,
}

/// A disk's images, the active one first.
pub(super) struct Chain {
    layers: Vec<Layer>,
    /// What tells the files of the layers from others, as far as they are files.
    identities: Vec<Option<Identity>>,
    missing: Missing,
    /// Where the files lie that its images name.
    named_files: Vec<PathBuf>,
    /// What tells whether these are written to.
    watched: Vec<Arc<Watched>>,
}

/// Opens what images name, as far as that is allowed.
struct Opener<'a> {
    options: &'a Qcow2Options,
    access: Access,
    shared: Arc<Shared>,
    seen: Vec<Identity>,
    named_files: Vec<PathBuf>,
    watched: Vec<Arc<Watched>>,
}

impl Chain {
    /// Opens the chain whose first image is `file`, known to messages as `path`; returns it with
    /// the first image's header.
    pub fn open(
        path: &Path,
        file: Arc<dyn ReadAt>,
        identity: Option<Identity>,
        options: &Qcow2Options,
    ) -> Result<(Self, Header), SourceError> {
        let mut opener = Opener {
            options,
            access: access(options),
            shared: Arc::default(),
            seen: identity.into_iter().collect(),
            named_files: Vec::new(),
            watched: Vec::new(),
        };
        let mut identities = vec![identity];
        let (first, header) = opener.image(path, file, 0)?;
        let mut layers = vec![Layer::Qcow2(first)];
        if options.delta {
            // Whatever it names is not looked at: it is often long gone.
            return Ok((opener.chain(layers, identities, Missing::Unchanged), header));
        }
        let mut next = opener.backing(path, &header)?;
        while let Some((path, format)) = next.take() {
            if layers.len() >= CHAIN_LEN_MAX {
                let limit = CHAIN_LEN_MAX;
                return Err(SourceError::ChainTooLong { path, limit });
            }
            let file = opener.file(&path)?;
            identities.push(Some(file.identity()));
            let layer = match format {
                Format::Raw => Layer::Raw(RawSource::from_file(file)?),
                Format::Qcow2 => {
                    let id = u32::try_from(layers.len()).expect("a chain is short");
                    let (image, header) = opener.image(&path, Arc::new(file), id)?;
                    next = opener.backing(&path, &header)?;
                    Layer::Qcow2(image)
                }
            };
            layers.push(layer);
        }
        Ok((opener.chain(layers, identities, Missing::Zero), header))
    }

    /// Returns the backing and data files that are read beside the first image.
    pub fn named_files(&self) -> &[PathBuf] {
        &self.named_files
    }

    /// Hands over what tells whether those are written to.
    pub fn take_watched(&mut self) -> Vec<Arc<Watched>> {
        std::mem::take(&mut self.watched)
    }

    /// Returns the first image.
    pub fn top(&self) -> &Image {
        match self.layers.first() {
            Some(Layer::Qcow2(image)) => image,
            _ => unreachable!("a chain is opened by its first image"),
        }
    }

    /// Returns the first image, to choose its state.
    pub fn top_mut(&mut self) -> &mut Image {
        match self.layers.first_mut() {
            Some(Layer::Qcow2(image)) => image,
            _ => unreachable!("a chain is opened by its first image"),
        }
    }

    /// Returns the images, the active one first; `None` stands for one that is raw.
    pub fn images(&self) -> impl Iterator<Item = Option<&Image>> {
        self.layers.iter().map(|layer| match layer {
            Layer::Qcow2(image) => Some(image),
            Layer::Raw(_) => None,
        })
    }

    /// Returns where in the chain a file is.
    pub fn place_of(&self, file: Identity) -> Option<usize> {
        let mut identities = self.identities.iter();
        identities.position(|identity| *identity == Some(file))
    }

    /// Appends the extents of `range` of the disk.
    pub fn extents(&self, range: Range<u64>, extents: &mut Vec<Extent>) -> Result<(), SourceError> {
        append_extents(&self.layers, self.missing, range, extents)
    }

    /// Fills `buf` with the disk's bytes from `offset`.
    pub fn read(&self, offset: GuestOffset, buf: &mut [u8]) -> Result<(), SourceError> {
        read_layers(&self.layers, self.missing, offset, buf)
    }
}

/// Returns how the files will be read: an increment touches a little of the disk, all else all.
pub(super) fn access(options: &Qcow2Options) -> Access {
    if options.delta || options.bitmap.is_some() {
        Access::Scattered
    } else {
        Access::Sequential
    }
}

impl Opener<'_> {
    fn chain(
        self,
        layers: Vec<Layer>,
        identities: Vec<Option<Identity>>,
        missing: Missing,
    ) -> Chain {
        Chain {
            layers,
            identities,
            missing,
            named_files: self.named_files,
            watched: self.watched,
        }
    }

    fn file(&mut self, path: &Path) -> Result<DiskFile, SourceError> {
        let file = DiskFile::open(path, self.access, self.options.may_be_written)?;
        if self.seen.contains(&file.identity()) {
            return Err(SourceError::ChainLoop {
                path: path.to_path_buf(),
            });
        }
        self.seen.push(file.identity());
        self.named_files.push(path.to_path_buf());
        self.watched.push(Arc::clone(file.watched()));
        Ok(file)
    }

    fn image(
        &mut self,
        path: &Path,
        file: Arc<dyn ReadAt>,
        id: u32,
    ) -> Result<(Image, Header), SourceError> {
        let header = Header::read(&*file).map_err(|fault| fault.at(path))?;
        let data_file = self.data_file(path, &header)?;
        let shared = Arc::clone(&self.shared);
        let image = Image::new(path.to_path_buf(), id, file, data_file, &header, shared);
        Ok((image, header))
    }

    fn data_file(
        &mut self,
        path: &Path,
        header: &Header,
    ) -> Result<Option<Arc<dyn ReadAt>>, SourceError> {
        if !header.has_data_file {
            return Ok(None);
        }
        let Some(name) = &header.data_file else {
            let fault = "it does not name its external data file".to_owned();
            return Err(Fault::Malformed(fault).at(path));
        };
        if !self.options.allow_data_file {
            return Err(not_allowed(path, "data file", name));
        }
        Ok(Some(Arc::new(self.file(&resolve(path, name)?)?)))
    }

    /// Returns the path and format of the backing file that an image names.
    fn backing(
        &self,
        path: &Path,
        header: &Header,
    ) -> Result<Option<(PathBuf, Format)>, SourceError> {
        let Some(name) = &header.backing else {
            return Ok(None);
        };
        if !self.options.allow_backing {
            return Err(not_allowed(path, "backing file", name));
        }
        let format = match (&header.backing_format, self.options.backing_format) {
            (None, Some(said)) => said,
            (None, None) => {
                return Err(SourceError::BackingFormatUnknown {
                    path: path.to_path_buf(),
                    name: printable(name),
                });
            }
            (Some(format), _) => Format::from_name(format).ok_or_else(|| {
                let feature = format!("a backing file of format `{}`", printable(format));
                Fault::Unsupported(feature).at(path)
            })?,
        };
        Ok(Some((resolve(path, name)?, format)))
    }
}

fn not_allowed(path: &Path, role: &'static str, name: &[u8]) -> SourceError {
    SourceError::NotAllowed {
        path: path.to_path_buf(),
        role,
        name: printable(name),
    }
}

/// Returns the path that `name`, as it stands in the image at `path`, means.
fn resolve(path: &Path, name: &[u8]) -> Result<PathBuf, SourceError> {
    // As in QEMU: a colon before any slash ends a protocol's name, be it `json`, `nbd` or `file`.
    let first_part = name.split(|&byte| byte == b'/').next().unwrap_or_default();
    if first_part.contains(&b':') {
        let feature = format!(
            "the file name `{}`, which is not a plain path,",
            printable(name)
        );
        return Err(Fault::Unsupported(feature).at(path));
    }
    if name.contains(&0) {
        let fault = format!("the file name `{}` has a zero byte", printable(name));
        return Err(Fault::Malformed(fault).at(path));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(folder.join(OsStr::from_bytes(name)))
}

/// Appends the extents of `range` as the first of `layers` has them, and those below it.
fn append_extents(
    layers: &[Layer],
    missing: Missing,
    range: Range<u64>,
    extents: &mut Vec<Extent>,
) -> Result<(), SourceError> {
    let Some((layer, below)) = layers.split_first() else {
        let status = match missing {
            Missing::Zero => ExtentStatus::Zero,
            Missing::Unchanged => ExtentStatus::Unchanged,
        };
        push_extent(
            extents,
            range.start,
            range.end.saturating_sub(range.start),
            status,
        );
        return Ok(());
    };
    let end = range.end.min(layer.size()).max(range.start);
    match layer {
        Layer::Raw(raw) => raw.append_extents(range.start..end, extents)?,
        Layer::Qcow2(image) => {
            let mut place = range.start;
            while place < end {
                let run = image.map(GuestOffset(place), end.saturating_sub(place))?;
                let run_end = place.saturating_add(run.len);
                match run.mapping {
                    Mapping::Unallocated => {
                        append_extents(below, missing, place..run_end, extents)?;
                    }
                    Mapping::Zero => push_extent(extents, place, run.len, ExtentStatus::Zero),
                    Mapping::Compressed(_) => {
                        push_extent(extents, place, run.len, ExtentStatus::Data);
                    }
                    Mapping::Data(host) => append_data(image, place, host, run.len, extents)?,
                }
                place = run_end;
            }
        }
    }
    // A backing file may be shorter than the image above it; what it has not is zeros.
    push_extent(
        extents,
        end,
        range.end.saturating_sub(end),
        ExtentStatus::Zero,
    );
    Ok(())
}

/// Appends a run of data clusters. Where they were preallocated, the file has holes there.
fn append_data(
    image: &Image,
    offset: u64,
    host: HostOffset,
    len: u64,
    extents: &mut Vec<Extent>,
) -> Result<(), SourceError> {
    let data = image.guest_data();
    let end = host.plus(len).0;
    if !data.is_sparse() || image.lost_cluster(host, len).is_some() {
        push_extent(extents, offset, len, ExtentStatus::Data);
        return Ok(());
    }
    let to_guest = |place: u64| offset.saturating_add(place.saturating_sub(host.0));
    let mut place = host.0;
    while place < end {
        let next = data
            .next_data(place)
            .map_err(|source| image.fault_at(Fault::Io(source), GuestOffset(to_guest(place))))?;
        let next = next.unwrap_or(end..end);
        let (data_start, data_end) = (next.start.min(end), next.end.min(end));
        let zeros = data_start.saturating_sub(place);
        push_extent(extents, to_guest(place), zeros, ExtentStatus::Zero);
        let bytes = data_end.saturating_sub(data_start);
        push_extent(extents, to_guest(data_start), bytes, ExtentStatus::Data);
        place = data_end;
    }
    Ok(())
}

/// Fills `buf` with the bytes from `offset` as the first of `layers` has them, or those below it.
fn read_layers(
    layers: &[Layer],
    missing: Missing,
    mut offset: GuestOffset,
    buf: &mut [u8],
) -> Result<(), SourceError> {
    let Some((layer, below)) = layers.split_first() else {
        if missing == Missing::Unchanged && !buf.is_empty() {
            return Err(SourceError::NotHere { offset: offset.0 });
        }
        buf.fill(0);
        return Ok(());
    };
    let there = usize::try_from(layer.size().saturating_sub(offset.0)).unwrap_or(usize::MAX);
    let (mut buf, beyond) = buf.split_at_mut(there.min(buf.len()));
    beyond.fill(0);
    if buf.is_empty() {
        return Ok(());
    }
    let image = match layer {
        Layer::Raw(raw) => return raw.read_at(offset.0, buf),
        Layer::Qcow2(image) => image,
    };
    while !buf.is_empty() {
        let left = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let run = image.map(offset, left)?;
        let len = usize::try_from(run.len)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let done = if let Mapping::Compressed(place) = run.mapping {
            image.read_compressed(place, run.len, offset, buf)?
        } else {
            let (part, _) = buf.split_at_mut(len);
            match run.mapping {
                Mapping::Unallocated => read_layers(below, missing, offset, part)?,
                Mapping::Data(host) => image.read_data(host, offset, part)?,
                Mapping::Zero | Mapping::Compressed(_) => part.fill(0),
            }
            len
        };
        offset = offset.plus(u64::try_from(done).unwrap_or(u64::MAX));
        buf = buf.split_at_mut(done).1;
    }
    Ok(())
}

impl Layer {
    fn size(&self) -> u64 {
        match self {
            Layer::Qcow2(image) => image.size(),
            Layer::Raw(raw) => raw.size(),
        }
    }
}
