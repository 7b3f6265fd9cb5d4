//! Packs in a real folder: writing frames into them until they are durable, reading footers, and
//! reading all that a pack holds with every hash. Data: 256 MiB of the files below `/usr`, chosen
//! by `CAIRN_SEED`; `TMPDIR` is where the packs go. Rates are of plain bytes.

mod support;

use std::sync::{Arc, OnceLock};

use cairn_engine::compress::Decompressor;
use cairn_engine::crypto::Keys;
use cairn_engine::format::pack::{FooterEntry, PackKind};
use cairn_engine::id::{ContentId, PackId};
use cairn_engine::limits::{FRAME_LEN_DEFAULT, PACK_LEN_DEFAULT};
use cairn_engine::pack::{Frame, PackContext, PackWriter, read_footer};
use cairn_engine::storage::{Folder, Session, SharedStorage};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use tempfile::TempDir;

const DATA_LEN: usize = 256 * 1024 * 1024;

fn main() {
    divan::main();
}

/// A repository's folder, removed when dropped.
struct Place {
    storage: SharedStorage,
    session: Box<dyn Session>,
    keys: Arc<Keys>,
    _folder: TempDir,
}

impl Place {
    fn new(encrypted: bool) -> Self {
        let folder = tempfile::tempdir().expect("TMPDIR can be written");
        let storage = Folder::create_at(&folder.path().join("repository"));
        let storage: SharedStorage = Arc::new(storage.expect("TMPDIR can be written"));
        let session = storage.open_session(b"bench");
        Self {
            storage,
            session: session.expect("TMPDIR can be written"),
            keys: support::keys(encrypted),
            _folder: folder,
        }
    }

    fn write(&self, frames: Vec<Frame>) -> Vec<PackId> {
        let context = PackContext {
            storage: Arc::clone(&self.storage),
            session: self.session.id(),
            keys: Arc::clone(&self.keys),
            pack_len: PACK_LEN_DEFAULT,
            frame_len: FRAME_LEN_DEFAULT,
            parity_percent: None,
        };
        let mut packs = Vec::new();
        let mut open: Option<PackWriter> = None;
        for frame in frames {
            if let Some(full) = open.take_if(|pack| pack.is_full(frame.entries.len())) {
                packs.push(publish(full));
            }
            let mut pack = open.take().unwrap_or_else(|| {
                PackWriter::begin(&context, PackKind::Data).expect("TMPDIR can be written")
            });
            pack.add(frame).expect("TMPDIR can be written");
            open = Some(pack);
        }
        packs.extend(open.map(publish));
        packs
    }
}

fn publish(pack: PackWriter) -> PackId {
    let sealed = pack.seal().expect("TMPDIR can be written");
    sealed.publish().expect("TMPDIR can be written").0
}

/// Frames of all the data, compressed once. A new copy each time, since a pack takes them.
fn frames() -> Vec<Frame> {
    static FRAMES: OnceLock<Vec<Frame>> = OnceLock::new();
    let frames = FRAMES.get_or_init(|| {
        let bytes = support::system_files(DATA_LEN);
        let chunks = support::chunks(&bytes, &support::keys(false));
        support::frames(&mut support::framer(FRAME_LEN_DEFAULT), &chunks, &bytes)
    });
    frames.iter().map(copy).collect()
}

fn copy(frame: &Frame) -> Frame {
    let entry = |entry: &FooterEntry| FooterEntry {
        id: entry.id,
        len: entry.len,
    };
    Frame {
        codec: frame.codec,
        plain_len: frame.plain_len,
        stored: frame.stored.clone(),
        entries: frame.entries.iter().map(entry).collect(),
    }
}

/// Compressed frames into durable packs.
#[divan::bench(args = [false, true], sample_count = 5)]
fn write(bencher: Bencher<'_, '_>, encrypted: bool) {
    bencher
        .counter(BytesCount::new(DATA_LEN))
        .with_inputs(|| (Place::new(encrypted), frames()))
        .bench_local_values(|(place, frames)| {
            place.write(frames);
            place
        });
}

/// Header, trailer and footer of one pack, checked and decoded.
#[divan::bench(args = [false, true])]
fn footer(bencher: Bencher<'_, '_>, encrypted: bool) {
    let place = Place::new(encrypted);
    let pack = place.write(frames())[0];
    bencher.bench_local(|| {
        read_footer(&place.storage, &place.keys, pack)
            .map(black_box)
            .is_ok()
    });
}

/// Every frame read and decoded; with `hashed`, every chunk compared with its id.
#[divan::bench(args = [false, true], sample_count = 10)]
fn read(bencher: Bencher<'_, '_>, hashed: bool) {
    let place = Place::new(false);
    let packs = place.write(frames());
    bencher.counter(BytesCount::new(DATA_LEN)).bench_local(|| {
        packs
            .iter()
            .for_each(|pack| read_pack(&place, *pack, hashed))
    });
}

fn read_pack(place: &Place, pack: PackId, hashed: bool) {
    let reader = read_footer(&place.storage, &place.keys, pack).expect("it is whole");
    let mut decompressor = Decompressor::new();
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    for (number, frame) in (0..).zip(&reader.footer().frames) {
        reader
            .read_frame(
                &place.storage,
                number,
                &mut decompressor,
                &mut stored,
                &mut plain,
            )
            .expect("it is whole");
        let mut rest = plain.as_slice();
        for entry in reader.footer().frame_entries(frame) {
            let (chunk, tail) = rest.split_at(entry.len as usize);
            assert!(!hashed || ContentId::from(place.keys.chunk_id(chunk)) == entry.id);
            rest = tail;
        }
    }
}
