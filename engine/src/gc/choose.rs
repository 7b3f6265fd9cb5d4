//! Which packs go. A pure decision over what the census found.

use crate::format::pack::PackKind;

/// What is known of a pack. Stored bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighed {
    pub(super) kind: PackKind,
    pub(super) stored_len: u64,
    pub(super) dead: u64,
    pub(super) is_dead: bool,
}

/// Packs shorter than this part of a full one are small.
const SMALL: u64 = 8;

/// Says of each pack whether it goes. `None` stands for one that cannot be read, and stays.
///
/// Packs in which nothing lives go. Of the others those go in which the most is dead, until at most
/// `max_unused` percent of what stays is dead. Small packs go where together they fill a whole one,
/// so that years of small backups do not leave thousands of them: each byte is moved for that no
/// more often than its pack grows by a whole one.
pub(super) fn choose(packs: &[Option<Weighed>], max_unused: f64, pack_len: u64) -> Vec<bool> {
    let dead = |pack: &Option<Weighed>| pack.is_some_and(|pack| pack.is_dead);
    let mut goes: Vec<bool> = packs.iter().map(dead).collect();
    let mut mixed: Vec<(usize, Weighed)> = Vec::new();
    for (at, pack) in packs.iter().enumerate() {
        if let Some(pack) = pack.filter(|pack| !pack.is_dead && pack.dead > 0) {
            mixed.push((at, pack));
        }
    }
    // The greatest part first; compared without division.
    let part = |a: &Weighed, b: &Weighed| {
        let product = |x: u64, y: u64| u128::from(x) * u128::from(y);
        product(b.dead, a.stored_len).cmp(&product(a.dead, b.stored_len))
    };
    mixed.sort_by(|(a_at, a), (b_at, b)| part(a, b).then(a_at.cmp(b_at)));
    let stays = packs.iter().flatten().filter(|pack| !pack.is_dead);
    let mut stored: u64 = stays.map(|pack| pack.stored_len).sum();
    let mut unused: u64 = mixed.iter().map(|(_, pack)| pack.dead).sum();
    for (at, pack) in mixed {
        if unused as f64 <= stored as f64 * max_unused / 100.0 {
            break;
        }
        goes[at] = true;
        unused -= pack.dead;
        stored -= pack.dead;
    }
    for kind in [PackKind::Data, PackKind::Nodes] {
        merge_small(packs, kind, pack_len, &mut goes);
    }
    goes
}

fn merge_small(packs: &[Option<Weighed>], kind: PackKind, pack_len: u64, goes: &mut [bool]) {
    let is_small = |pack: &Weighed| pack.kind == kind && pack.stored_len < pack_len / SMALL;
    let small: Vec<(usize, u64)> = packs
        .iter()
        .enumerate()
        .filter(|(at, _)| !goes[*at])
        .filter_map(|(at, pack)| Some((at, pack.filter(is_small)?.stored_len)))
        .collect();
    if small.iter().map(|(_, len)| len).sum::<u64>() >= pack_len {
        small.iter().for_each(|(at, _)| goes[*at] = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK_LEN: u64 = 1000;

    fn pack(stored_len: u64, dead: u64) -> Option<Weighed> {
        Some(Weighed {
            kind: PackKind::Data,
            stored_len,
            dead,
            is_dead: stored_len == dead,
        })
    }

    #[test]
    fn what_is_dead_goes_and_what_cannot_be_read_stays() {
        let packs = [pack(1000, 1000), None, pack(1000, 0)];
        assert_eq!(choose(&packs, 100.0, PACK_LEN), [true, false, false]);
        assert_eq!(choose(&packs, 0.0, PACK_LEN), [true, false, false]);
    }

    #[test]
    fn without_a_part_to_leave_all_that_holds_anything_dead_goes() {
        let packs = [pack(1000, 1), pack(1000, 0), pack(900, 899)];
        assert_eq!(choose(&packs, 0.0, PACK_LEN), [true, false, true]);
    }

    #[test]
    fn the_deadest_go_until_little_enough_is_left() {
        let packs = [
            pack(1000, 100),
            pack(1000, 600),
            pack(1000, 40),
            pack(1000, 0),
        ];
        // 740 of 4000 are dead; without the second 140 of 3400, which is 4.1 percent.
        assert_eq!(choose(&packs, 5.0, PACK_LEN), [false, true, false, false]);
        assert_eq!(choose(&packs, 4.0, PACK_LEN), [true, true, false, false]);
        assert_eq!(choose(&packs, 20.0, PACK_LEN), [false; 4]);
    }

    #[test]
    fn small_packs_go_once_they_fill_a_whole_one() {
        let mut packs = vec![pack(100, 0); 9];
        packs.push(pack(600, 0));
        assert_eq!(choose(&packs, 5.0, PACK_LEN), [false; 10]);
        packs.push(pack(100, 0));
        let goes = choose(&packs, 5.0, PACK_LEN);
        assert_eq!(goes.iter().filter(|goes| **goes).count(), 10);
        assert!(!goes[9], "the large one stays");
    }
}
