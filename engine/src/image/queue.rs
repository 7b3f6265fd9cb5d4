//! What waits to be read ahead: urgent ranges first, and then images in turn.

use std::collections::VecDeque;
use std::ops::Range;

use crate::limits::KIB;

/// What is taken in one piece, so that several threads share what lies ahead.
const STEP: u64 = 512 * KIB;
/// Ranges of one image that wait.
const RANGES_MAX: usize = 64;

/// Ranges of images that wait. Those that are not urgent are bounded in sum.
pub(super) struct Queue<I> {
    urgent: VecDeque<(I, Range<u64>)>,
    /// Images that have ranges waiting, each once; the first one's turn is next.
    lines: VecDeque<Line<I>>,
    /// Bytes in `lines`, and how many there may be.
    bytes: u64,
    bytes_max: u64,
}

struct Line<I> {
    number: u32,
    image: I,
    ranges: VecDeque<Range<u64>>,
}

impl<I: Clone> Queue<I> {
    /// Returns an empty queue for `bytes_max` bytes at most, urgent ones not counted.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            urgent: VecDeque::new(),
            lines: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Takes in a range that somebody waits for.
    pub(super) fn put_urgent(&mut self, image: I, range: Range<u64>) {
        if !range.is_empty() {
            self.urgent.push_back((image, range));
        }
    }

    /// Takes in as much of a range of the image of this number as there is room for.
    pub(super) fn put(&mut self, number: u32, image: I, range: Range<u64>) {
        let room = self.bytes_max.saturating_sub(self.bytes);
        let range = range.start..range.end.min(range.start.saturating_add(room));
        if range.is_empty() {
            return;
        }
        let len = range.end - range.start;
        match self.lines.iter_mut().find(|line| line.number == number) {
            Some(line) if line.ranges.len() >= RANGES_MAX => return,
            Some(line) => line.ranges.push_back(range),
            None => self.lines.push_back(Line {
                number,
                image,
                ranges: VecDeque::from([range]),
            }),
        }
        self.bytes += len;
    }

    /// Takes out the piece that is to be read next.
    pub(super) fn take(&mut self) -> Option<(I, Range<u64>)> {
        if let Some((image, range)) = self.urgent.front_mut() {
            let next = (image.clone(), first_piece(range));
            if range.is_empty() {
                self.urgent.pop_front();
            }
            return Some(next);
        }
        let mut line = self.lines.pop_front()?;
        let range = line.ranges.front_mut()?;
        let piece = first_piece(range);
        if range.is_empty() {
            line.ranges.pop_front();
        }
        self.bytes -= piece.end - piece.start;
        let image = line.image.clone();
        if !line.ranges.is_empty() {
            self.lines.push_back(line);
        }
        Some((image, piece))
    }

    /// Drops what waits for the images that are `gone`.
    pub(super) fn forget(&mut self, gone: impl Fn(&I) -> bool) {
        self.urgent.retain(|(image, _)| !gone(image));
        self.lines.retain(|line| !gone(&line.image));
        let waiting = self.lines.iter().flat_map(|line| &line.ranges);
        self.bytes = waiting.map(|range| range.end - range.start).sum();
    }

    /// Drops all that waits.
    pub(super) fn clear(&mut self) {
        self.urgent.clear();
        self.lines.clear();
        self.bytes = 0;
    }
}

/// Cuts the first piece off a range.
fn first_piece(range: &mut Range<u64>) -> Range<u64> {
    let end = (range.start / STEP + 1).saturating_mul(STEP).min(range.end);
    let piece = range.start..end;
    range.start = end;
    piece
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MIB;

    fn drain(queue: &mut Queue<u32>) -> Vec<(u32, Range<u64>)> {
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn images_take_turns_and_urgent_ranges_come_first() {
        let mut queue = Queue::new(64 * MIB);
        queue.put(1, 1, 0..2 * MIB);
        queue.put(2, 2, 0..MIB);
        queue.put(1, 1, 9 * MIB..9 * MIB + 1);
        queue.put_urgent(3, MIB - 1..MIB + 1);
        let taken = drain(&mut queue);
        let images: Vec<u32> = taken.iter().map(|(image, _)| *image).collect();
        assert_eq!(images, [3, 3, 1, 2, 1, 2, 1, 1, 1]);
        assert_eq!(taken[0].1, MIB - 1..MIB);
        assert_eq!(taken[1].1, MIB..MIB + 1);
        let of_one = taken.iter().filter(|(image, _)| *image == 1);
        let bytes: u64 = of_one.map(|(_, range)| range.end - range.start).sum();
        assert_eq!(bytes, 2 * MIB + 1);
    }

    #[test]
    fn what_waits_is_bounded_in_sum_except_what_is_urgent() {
        let mut queue = Queue::new(10 * MIB);
        for image in 0..100 {
            queue.put(image, image, 0..7 * MIB);
        }
        queue.put_urgent(7, 0..100 * MIB);
        let bytes = |taken: &[(u32, Range<u64>)]| -> u64 {
            taken.iter().map(|(_, range)| range.end - range.start).sum()
        };
        assert_eq!(bytes(&drain(&mut queue)), 110 * MIB);
        // All of it is given back.
        queue.put(1, 1, 0..u64::MAX);
        assert_eq!(bytes(&drain(&mut queue)), 10 * MIB);
        for at in 0..1000 {
            queue.put(1, 1, at * MIB..at * MIB + 1);
        }
        assert_eq!(drain(&mut queue).len(), RANGES_MAX);
        queue.put(1, 1, 0..MIB);
        queue.clear();
        assert_eq!(drain(&mut queue), []);
        queue.put(1, 1, 0..u64::MAX);
        assert_eq!(bytes(&drain(&mut queue)), 10 * MIB);
    }

    #[test]
    fn an_image_that_is_gone_is_forgotten_with_the_room_that_it_took() {
        let mut queue = Queue::new(10 * MIB);
        queue.put(1, 1, 0..4 * MIB);
        queue.put(2, 2, 0..u64::MAX);
        queue.put_urgent(1, 0..MIB);
        queue.put_urgent(2, 0..MIB);
        queue.forget(|image| *image == 1);
        queue.put(3, 3, 0..u64::MAX);
        let taken = drain(&mut queue);
        let bytes = |wanted: u32| -> u64 {
            let of_it = taken.iter().filter(|(image, _)| *image == wanted);
            of_it.map(|(_, range)| range.end - range.start).sum()
        };
        assert_eq!([1, 2, 3].map(bytes), [0, 7 * MIB, 4 * MIB]);
    }
}
