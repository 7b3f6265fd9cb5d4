//! Random access to a snapshot's disk, through its recipe.
//!
//! A read finds its window (the chunks of 2 MiB of disk, with their places), in it the chunk, and
//! the chunk's frame. All of that is cached, so a read of what is cached costs two look-ups and a
//! copy; [`ImageCache`] bounds the memory. No byte leaves that was not compared with its chunk's
//! id: a frame remembers which of its chunks were. A chunk that is not whole where the index says
//! is looked for in all packs before a read fails, and a failed read never gives zeros.

mod ahead;
mod cache;
mod clock;
mod disk;
mod error;
mod flights;
mod frame;
mod load;
mod mend;
mod queue;
mod read;
mod straight;
mod window;

pub use cache::{CACHE_BYTES_DEFAULT, ImageCache};
pub use disk::Image;
use disk::Inner;
pub use error::ImageError;
