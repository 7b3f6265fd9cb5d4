//! The bitmaps of one name along a chain, taken together.
//!
//! An external snapshot puts an empty bitmap of the same name into the overlay: what was written
//! before it is marked in the image below. So what changed is what any of them marks, from the
//! first image down to the one that the bitmap was made on.

use std::ops::Range;

use super::bitmaps::{DirtyBitmap, DirtyRun};
use super::chain::Chain;
use super::image::Image;
use super::types::GuestOffset;
use crate::source::SourceError;
use crate::source::file::Identity;
use crate::source::spec::Origin;

/// The checked bitmaps of a chain, by the first images of it.
pub(super) struct Marks {
    bitmaps: Vec<DirtyBitmap>,
}

impl Marks {
    /// Finds the bitmap `name` in a chain, down to the image that it was made on.
    pub fn open(chain: &Chain, name: &str, origin: Option<&Origin>) -> Result<Self, SourceError> {
        let refused = |image: &Image, fault| SourceError::Bitmap {
            path: image.path().to_path_buf(),
            name: name.to_owned(),
            fault,
        };
        let last = origin.map(|origin| place(chain, origin));
        let last = last
            .transpose()
            .map_err(|fault| refused(chain.top(), fault))?;
        let mut bitmaps = Vec::new();
        let mut lacking = None;
        let mut above = chain.top();
        for (depth, image) in chain.images().enumerate() {
            if last.is_some_and(|last| depth > last) {
                break;
            }
            let found = image
                .map(|image| DirtyBitmap::find(image, name))
                .transpose()?;
            let (Some(image), Some(bitmap)) = (image, found.flatten()) else {
                let lacks = if depth == 0 {
                    "is not there"
                } else {
                    "is not in the backing file, which has what was written before"
                };
                if depth == 0 || last.is_some() {
                    return Err(refused(above, lacks));
                }
                lacking.get_or_insert(above);
                continue;
            };
            if let Some(above) = lacking {
                let fault = "is in a file further down, but not in the backing file";
                return Err(refused(above, fault));
            }
            if image.size() != chain.top().size() {
                return Err(refused(image, "is of a backing file of another size"));
            }
            bitmaps.push(bitmap);
            above = image;
        }
        Ok(Self { bitmaps })
    }

    /// Returns whether the bytes from `range.start` on are dirty, and for how long that is known.
    /// The range is not empty.
    pub fn run(&self, chain: &Chain, range: &Range<u64>) -> Result<DirtyRun, SourceError> {
        let mut clean = range.end.saturating_sub(range.start);
        let mut dirty = 0;
        for (image, bitmap) in chain.images().flatten().zip(&self.bitmaps) {
            let run = bitmap.run(image, range);
            let run = run.map_err(|fault| image.fault_at(fault, GuestOffset(range.start)))?;
            if run.dirty {
                dirty = run.len.max(dirty);
            } else {
                clean = run.len.min(clean);
            }
        }
        Ok(DirtyRun {
            len: if dirty > 0 { dirty } else { clean },
            dirty: dirty > 0,
        })
    }
}

/// Returns where in a chain the image is that the bitmap was made on, or why it is not.
fn place(chain: &Chain, origin: &Origin) -> Result<usize, &'static str> {
    let identity = Identity::of(&origin.path);
    let place = identity.and_then(|identity| chain.place_of(identity));
    let (Some(identity), Some(place)) = (identity, place) else {
        return Err("was made on another image, which is not in the backing chain");
    };
    match origin.inode {
        Some(inode) if inode != identity.inode() => {
            Err("was made on an image that was replaced by another file")
        }
        _ => Ok(place),
    }
}
