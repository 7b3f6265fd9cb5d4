//! Bitmaps along a chain: an external snapshot leaves what was written before to the image below.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cairn_engine::extent::ExtentStatus;
use cairn_engine::source::qcow2::{Qcow2Options, Qcow2Source};
use cairn_engine::source::{Origin, Source, SourceError};

use crate::qemu::{Folder, MIB, check_source, converted, create, io, run, text, try_run};

const SIZE: u64 = 32 * MIB;

fn open(top: &Path, origin: Option<&Path>) -> Result<Qcow2Source, SourceError> {
    let options = Qcow2Options {
        allow_backing: true,
        bitmap: Some("since".to_owned()),
        origin: origin.map(|path| Origin {
            path: path.to_path_buf(),
            inode: fs::metadata(path).ok().map(|found| found.ino()),
        }),
        ..Qcow2Options::default()
    };
    Qcow2Source::open(top, &options)
}

fn bitmap(what: &str, image: &Path) {
    run("qemu-img", &["bitmap", what, text(image), "since"]);
}

fn write(image: &Path, mib: u64) {
    io(image, "qcow2", &[format!("write -P 7 {mib}M 1M")]);
}

fn dirty(source: &Qcow2Source) -> Vec<u64> {
    let extents = source.extents(0..source.size());
    let extents = extents.expect("extents can be listed");
    let dirty = extents
        .iter()
        .filter(|extent| extent.status != ExtentStatus::Unchanged);
    dirty
        .flat_map(|extent| extent.offset / MIB..extent.range().end.div_ceil(MIB))
        .collect()
}

/// `a` below `b` below `c`, each with the bitmap and a mebibyte of its own: 4, 8 and 16.
fn chain() -> Folder {
    let folder = Folder::new();
    let mut below: Option<&str> = None;
    for (name, mib) in [("a.qcow2", 4), ("b.qcow2", 8), ("c.qcow2", 16)] {
        let image = folder.path(name);
        let backing = below.map_or_else(String::new, |below| {
            format!(",backing_file={below},backing_fmt=qcow2")
        });
        create(&image, &format!("cluster_size=64k{backing}"), SIZE);
        if below.is_none() {
            io(&image, "qcow2", &["write -P 1 0 32M".to_owned()]);
        }
        bitmap("--add", &image);
        write(&image, mib);
        below = Some(name);
    }
    folder
}

#[test]
fn what_any_layer_marks_is_dirty_down_to_where_the_bitmap_was_made() {
    let folder = chain();
    let [a, b, c] = ["a.qcow2", "b.qcow2", "c.qcow2"].map(|name| folder.path(name));
    for (origin, expected) in [
        (Some(&a), vec![4, 8, 16]),
        (Some(&b), vec![8, 16]),
        (Some(&c), vec![16]),
        (None, vec![4, 8, 16]),
    ] {
        let source = open(&c, origin.map(|path| &**path));
        let source = source.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(dirty(&source), expected, "{origin:?}");
        check_source("a chain", &source, &converted(&c, "qcow2", &[]));
    }
}

/// What is done to a chain, the origin, and the doubt that comes of it.
type Case = (
    &'static str,
    Option<&'static str>,
    &'static str,
    fn(&Folder),
);

const CASES: [Case; 9] = [
    (
        "lacking below",
        Some("a.qcow2"),
        "not in the backing file",
        |folder| {
            bitmap("--remove", &folder.path("a.qcow2"));
        },
    ),
    (
        "lacking between",
        Some("a.qcow2"),
        "not in the backing file",
        |folder| {
            bitmap("--remove", &folder.path("b.qcow2"));
        },
    ),
    ("a gap", None, "further down", |folder| {
        bitmap("--remove", &folder.path("b.qcow2"));
    }),
    ("disabled", Some("a.qcow2"), "disabled", |folder| {
        bitmap("--disable", &folder.path("b.qcow2"));
    }),
    ("in use", Some("a.qcow2"), "inconsistent", |folder| {
        let image = folder.path("b.qcow2");
        let args = [
            "-f",
            "qcow2",
            "-c",
            "write 1M 64k",
            "-c",
            "abort",
            text(&image),
        ];
        assert!(!try_run("qemu-io", &args).status.success());
    }),
    ("another size", Some("a.qcow2"), "another size", |folder| {
        run(
            "qemu-img",
            &["resize", "-q", text(&folder.path("c.qcow2")), "48M"],
        );
    }),
    (
        "not in the chain",
        Some("x.qcow2"),
        "another image",
        |folder| {
            create(&folder.path("x.qcow2"), "cluster_size=64k", SIZE);
        },
    ),
    ("gone", Some("y.qcow2"), "another image", |_| ()),
    (
        "a raw file below",
        Some("a.qcow2"),
        "not in the backing file",
        |folder| {
            let (a, b) = (folder.path("a.qcow2"), folder.path("b.qcow2"));
            run(
                "qemu-img",
                &["convert", "-O", "raw", text(&a), text(&folder.path("raw"))],
            );
            run("mv", &[text(&folder.path("raw")), text(&a)]);
            run(
                "qemu-img",
                &["rebase", "-u", "-b", "a.qcow2", "-F", "raw", text(&b)],
            );
        },
    ),
];

#[test]
fn a_layer_that_cannot_tell_makes_the_bitmap_doubtful() {
    for (what, origin, expected, change) in CASES {
        let folder = chain();
        change(&folder);
        let origin = origin.map(|name| folder.path(name));
        match open(&folder.path("c.qcow2"), origin.as_deref()).err() {
            Some(SourceError::Bitmap { fault, .. }) => {
                assert!(fault.contains(expected), "{what}: {fault}");
            }
            other => panic!("{what}: not a doubt: {other:?}"),
        }
    }
}

#[test]
fn a_file_in_the_place_of_the_one_that_the_bitmap_was_made_on_is_another() {
    let folder = chain();
    let (a, copy) = (folder.path("a.qcow2"), folder.path("copy.qcow2"));
    let inode = fs::metadata(&a).expect("it is there").ino();
    fs::copy(&a, &copy).expect("it can be copied");
    run("mv", &[text(&copy), text(&a)]);
    let options = Qcow2Options {
        allow_backing: true,
        bitmap: Some("since".to_owned()),
        origin: Some(Origin {
            path: a,
            inode: Some(inode),
        }),
        ..Qcow2Options::default()
    };
    let refused = Qcow2Source::open(&folder.path("c.qcow2"), &options).err();
    let refused = refused.map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("replaced"), "{refused}");
}
