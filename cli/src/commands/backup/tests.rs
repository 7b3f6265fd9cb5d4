//! The command line of backups.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: BackupArgs,
}

fn parse(line: &[&str]) -> Result<BackupArgs, clap::Error> {
    let line = ["backup"].into_iter().chain(line.iter().copied());
    Line::try_parse_from(line).map(|line| line.args)
}

#[test]
fn disks_are_target_and_source() {
    let args = parse(&[
        "web1",
        "--disk",
        "vda=/a=b.raw,format=raw",
        "--disk",
        "vdb=b",
    ])
    .expect("the line is valid");
    let sources: Vec<_> = args.disks.iter().map(|disk| disk.source.clone()).collect();
    assert_eq!(sources, ["/a=b.raw,format=raw", "b"]);
    assert_eq!(args.disks[1].target, "vdb");
    assert!(args.check_targets().is_ok());
    for disk in ["vda", "=a", "vda=", "a/b=c"] {
        assert!(parse(&["web1", "--disk", disk]).is_err(), "{disk}");
    }
    assert!(parse(&[]).is_err(), "a VM is needed");
    let twice = parse(&["web1", "--disk", "vda=a", "--disk", "vda=b"]).expect("parses");
    assert!(twice.check_targets().is_err());
}

#[test]
fn parents_and_tags_are_read() {
    let line = [
        "web1", "--disk", "vda=a", "--parent", "none", "--tag", "a=b=c", "--tag", "d=",
    ];
    let args = parse(&line).expect("the line is valid");
    assert_eq!(args.parent, Some(ParentArg::None));
    let tags = args.tags().expect("the keys differ");
    assert_eq!(
        tags.into_iter().collect::<Vec<_>>(),
        [
            ("a".to_owned(), "b=c".to_owned()),
            ("d".to_owned(), String::new()),
        ]
    );
    let twice = parse(&["w", "--disk", "a=b", "--tag", "a=b", "--tag", "a=c"]).expect("parses");
    assert!(twice.tags().is_err());
    assert!(parse(&["w", "--disk", "a=b", "--tag", "=b"]).is_err());
}

#[cfg(feature = "libvirt")]
#[test]
fn memory_is_not_saved_of_a_guest_that_is_held_still() {
    let check = |line: &[&str]| parse(line).expect("the line is valid").domain.check();
    assert!(check(&["web1", "--memory"]).is_ok());
    assert!(check(&["web1", "--memory", "--freeze", "auto"]).is_ok());
    assert!(check(&["web1", "--freeze", "suspend"]).is_ok());
    for freeze in ["none", "agent", "suspend"] {
        let refused = check(&["web1", "--memory", "--freeze", freeze]);
        assert!(matches!(refused, Err(CliError::Usage(_))), "{freeze}");
    }
}
