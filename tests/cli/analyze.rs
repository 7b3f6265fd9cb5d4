//! `cairn analyze`.

use std::fs;

use crate::world::{MIB, World, disk, edit};

#[test]
fn rows_tell_what_each_chunk_size_gains() {
    let world = World::empty();
    let mut bytes = disk(110, 8 * MIB);
    world.raw("a.raw", &bytes);
    edit(111, &mut bytes);
    world.qcow2("b.qcow2", &bytes, "");
    let sizes = ["--chunk-sizes", "8KiB,64KiB", "--plot", "chunks.svg"];
    let report = world.json(["analyze", "a.raw", "b.qcow2"].iter().chain(&sizes));
    let rows = report["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 2);
    let number = |row: usize, name: &str| rows[row][name].as_u64().expect("a number");
    assert_eq!(number(0, "chunk_size"), 8192);
    assert!(number(0, "chunks") > number(1, "chunks"));
    assert!(number(0, "unique_bytes") <= number(1, "unique_bytes"));
    for row in rows {
        assert!(
            row["dedup_ratio"].as_f64().is_some_and(|ratio| ratio > 1.5),
            "{row}"
        );
        assert!(row["stored_bytes"].is_u64() && row["compression_ratio"].is_f64());
    }
    let plot = fs::read_to_string(world.path("chunks.svg")).expect("the chart was drawn");
    assert_well_formed(&plot);
    assert!(plot.contains("64 KiB"), "{plot}");
    let table = world.ok(["analyze", "a.raw", "--chunk-sizes", "16KiB"]);
    assert!(
        table.contains("CHUNK SIZE") && table.contains("16 KiB"),
        "{table}"
    );
}

#[test]
fn the_repository_would_take_what_the_analysis_says() {
    let world = World::new();
    world.raw("a.raw", &disk(112, 8 * MIB));
    let report = world.json(["analyze", "a.raw", "--chunk-sizes", "16KiB"]);
    let done = world.backup("a.raw");
    assert_eq!(
        report["rows"][0]["unique_bytes"],
        done["disks"][0]["new_bytes"]
    );
}

#[test]
fn mistakes_are_named() {
    let world = World::empty();
    world.run(["analyze"]).refused(2, "IMAGE");
    world
        .run(["analyze", "absent.raw"])
        .refused(1, "absent.raw");
    world
        .run(["analyze", "a.raw", "--chunk-sizes", "5"])
        .refused(2, "4KiB");
}

/// Fails unless every element is closed, in order, and there is one root.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    let mut roots = 0;
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("every tag ends");
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next();
        let name = name.expect("there is always a first part");
        if tag.starts_with(['?', '!']) {
            continue;
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{svg}");
        } else if !tag.ends_with('/') {
            roots += usize::from(open.is_empty());
            open.push(name);
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert!(open.is_empty() && roots == 1, "{open:?}");
    let text = svg
        .replace("&amp;", "")
        .replace("&lt;", "")
        .replace("&gt;", "");
    assert!(
        !text
            .replace("&quot;", "")
            .replace("&apos;", "")
            .contains('&'),
        "{svg}"
    );
}
