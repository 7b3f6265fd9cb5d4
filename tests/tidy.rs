//! Style as a test: what a reviewer should not have to look for.
//!
//! Each check is a pure function from text to faults, tried on a bad sample of its own, and then
//! on every file of the project.

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/licences.rs"]
mod licences;
#[path = "tidy/listings.rs"]
mod listings;
#[path = "tidy/pipes.rs"]
mod pipes;
#[path = "tidy/shape.rs"]
mod shape;
#[path = "tidy/terminal.rs"]
mod terminal;
#[path = "tidy/threads.rs"]
mod threads;
#[path = "tidy/tree.rs"]
mod tree;
#[path = "tidy/words.rs"]
mod words;

/// Fails with every fault, one a line.
#[track_caller]
fn assert_clean(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
