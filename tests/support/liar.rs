//! Indexes that say other than the packs.

use std::collections::BTreeMap;
use std::fs;

use cairn_engine::id::{ContentId, PackId};
use cairn_engine::index::{Index, IndexOptions, PackFooters, Place};
use cairn_engine::pack::{PackError, places_in};
use cairn_engine::repository::{Contents, Repository};

use super::sim::scratch;

/// What packs are said to hold.
pub type Tale = BTreeMap<PackId, Vec<(ContentId, Place)>>;

struct Liar(Tale);

impl PackFooters for Liar {
    type Error = PackError;

    fn places(&self, pack: PackId) -> Result<Vec<(ContentId, Place)>, PackError> {
        Ok(self.0.get(&pack).cloned().unwrap_or_default())
    }
}

/// Returns what all packs hold.
pub fn truth(contents: &Contents) -> Tale {
    let packs = contents.packs();
    let footers = packs.iter().map(|pack| {
        let reader = contents.footer(*pack).expect("it is whole");
        (*pack, places_in(*pack, reader.footer()).collect())
    });
    footers.collect()
}

/// Replaces the index of a repository by one that tells this.
pub fn replace_index(repository: &Repository, packs: &[PackId], tale: Tale) {
    let (folder, temp) = (repository.index_folder(), scratch());
    fs::remove_dir_all(folder).expect("nobody uses it");
    let options = IndexOptions::new(
        folder.to_owned(),
        temp.path().to_owned(),
        repository.config().repository_id,
    );
    let (index, report) = Index::open(options, packs, &Liar(tale)).expect("opens");
    assert_eq!(report.taken_in, packs.len());
    drop(index);
}
