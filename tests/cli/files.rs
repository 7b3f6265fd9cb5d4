//! `cairn ls`, `get` and `find`: files of a snapshot, as the kernel shows them.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::mounts::MountedImage;
use crate::world::{World, text};

const MIB: u64 = 1 << 20;

/// Mounts an image in a world's folder.
fn mounted(world: &World, image: &Path, args: &[&str]) -> MountedImage {
    MountedImage::new(image, &world.path("mounted"), args)
}

const POPULATE: &str = r#"
    cp -a /etc etc; mkdir -p odd deep share; cp -a /usr/share/bash-completion share
    head -c 40000000 /dev/urandom > large
    printf x > "odd/$(printf 'l%.0s' {1..250})"; printf y > $'odd/new\nline'; : > $'odd/\xff'
    d=deep; for i in {1..300}; do d=$d/d; mkdir $d; done; echo bottom > $d/file; chmod 500 deep
    truncate -s 1G sparse; printf mid | dd of=sparse bs=1 seek=500000001 conv=notrunc status=none
    ln large odd/second; ln -s ../large odd/link; ln -s /nowhere odd/broken; chmod 4750 odd/second
    mkfifo odd/fifo; chown -h 1234:70000 odd/link odd/fifo; touch -h -d 2001-02-03 odd/link
    touch -d '1969-07-20 20:17:40.123456789' odd; chmod 2751 odd
"#;
const ATTRIBUTES: &str = r#"
    mknod odd/block b 259 70000; setfattr -n user.a -v value large; setfattr -n trusted.t -v 1 odd
    setfacl -m u:1001:rw,m::rwx sparse; setcap cap_net_raw+ep etc/passwd
"#;

/// A disk with a GPT whose first partition holds what `script` made, backed up; and its image.
fn backed_up(world: &World, mkfs: &[&str], len: u64, script: &str) -> PathBuf {
    let part = world.path("part");
    let file = File::create(&part).expect("an image can be made");
    file.set_len(len).expect("an image can grow");
    world.tool(mkfs[0], &[&mkfs[1..], &[text(&part)]].concat());
    let mounted = mounted(world, &part, &[]);
    let script = format!("cd {}\n{script}", text(&mounted.path));
    world.tool("bash", &["-euc", &script]);
    drop(mounted);
    let disk = world.path("disk.raw");
    let file = File::create(&disk).expect("a disk can be made");
    file.set_len(len + 4 * MIB).expect("a disk can grow");
    // What boots by a BIOS has a part with code and no files.
    file.write_all_at(b"\x52\xe8\x28\x01", len + MIB)
        .expect("there is space");
    drop(file);
    let table = format!(
        "printf 'label: gpt\\nstart=2048, size={}\\nsize=2048, \
         type=21686148-6449-6E6F-744E-656564454649\\n' | sfdisk -q --no-reread disk.raw",
        len / 512
    );
    world.tool("bash", &["-euc", &table]);
    let copy = "dd if=part of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none";
    world.tool("bash", &["-euc", copy]);
    world.backup("disk.raw");
    part
}

/// Fails unless two trees are the same in everything but times of access and change.
fn assert_same(world: &World, a: &Path, b: &Path) {
    // diff has no special file equal another; the listing compares them.
    let special = ["-x", "block", "-x", "fifo"];
    let args = [
        &["-r", "--no-dereference"],
        &special[..],
        &[text(a), text(b)],
    ]
    .concat();
    world.tool("diff", &args);
    let list = "find . -printf '%p|%y|%#m|%U|%G|%T@|%l|%n\\n' | grep -v '^[.]|' | sort; \
                find . -type f -printf '%p|%s|%b\\n' | grep sparse; \
                getfattr -hRPd -m - . | grep -v SGI_ACL | sort";
    let of = |path: &Path| {
        // Links to a folder differ where lost+found does.
        let script = format!(
            "cd {}; ({list}) | sed 's/\\(|d|.*\\)|[0-9]*$/\\1/'",
            text(path)
        );
        world.tool("bash", &["-euc", &script])
    };
    let (a, b) = (of(a), of(b));
    for (a, b) in a.lines().zip(b.lines()) {
        assert_eq!(a, b);
    }
    assert_eq!(a.lines().count(), b.lines().count());
}

fn same_as_kernel(mkfs: &[&str], options: &str) {
    let world = World::new();
    let script = format!("{POPULATE}{ATTRIBUTES}");
    let part = backed_up(&world, mkfs, 400 * MIB, &script);
    let got = world.json(["get", "web1:vdap1/", "out"]);
    assert_eq!(got["problems"], 0, "{got}");
    assert_eq!(got["hard_links"], 1);
    let mounted = mounted(&world, &part, &["-o", options]);
    assert_same(&world, &mounted.path, &world.path("out"));
    let used = fs::metadata(world.path("out/sparse"))
        .expect("it was written")
        .blocks();
    assert!(used < 1024, "holes were filled: {used}");
    let modified = |path: PathBuf| {
        let found = fs::metadata(path).expect("it is there");
        (found.mtime(), found.mtime_nsec(), found.mode())
    };
    assert_eq!(
        modified(mounted.path.join("odd")),
        modified(world.path("out/odd"))
    );
    let link = fs::symlink_metadata(world.path("out/odd/second")).expect("it is there");
    assert_eq!(link.nlink(), 2);
}

#[test]
fn a_tree_of_ext4_is_fetched_as_it_was() {
    same_as_kernel(&["mkfs.ext4", "-qF", "-b", "4096"], "ro");
}

#[test]
fn a_tree_of_xfs_is_fetched_as_it_was() {
    same_as_kernel(&["mkfs.xfs", "-q"], "ro,nouuid");
}

#[test]
fn a_tree_of_btrfs_is_fetched_as_it_was() {
    same_as_kernel(&["mkfs.btrfs", "-q"], "ro");
}

/// Backs up a disk without a table, and fetches what another tool put into it.
fn file_is_fetched(mkfs: &[&str], put: &str) {
    let world = World::new();
    let file = File::create(world.path("disk.raw")).expect("a disk can be made");
    file.set_len(100 * MIB).expect("a disk can grow");
    world.tool(mkfs[0], &[&mkfs[1..], &["disk.raw"]].concat());
    world.tool("bash", &["-euc", "seq 1 3000000 > 'a long name.txt'"]);
    world.tool("bash", &["-euc", put]);
    world.backup("disk.raw");
    world.ok(["get", "web1:vda/a long name.txt", "out"]);
    let put = fs::read(world.path("a long name.txt")).expect("it is there");
    assert!(fs::read(world.path("out")).expect("it was fetched") == put);
    let listed = world.ok(["ls", "-l", "web1:vda"]);
    assert!(listed.contains("a long name.txt"), "{listed}");
}

#[test]
fn a_file_of_fat_is_fetched_as_it_was() {
    file_is_fetched(
        &["mkfs.fat", "-F", "32"],
        "mcopy -i disk.raw 'a long name.txt' ::",
    );
}

#[test]
fn a_file_of_ntfs_is_fetched_as_it_was() {
    file_is_fetched(
        &["mkntfs", "-qFQ"],
        "ntfscp -q disk.raw 'a long name.txt' 'a long name.txt'",
    );
}

fn small(world: &World) {
    let script = "mkdir -p etc sub/folder; echo one > etc/one.conf; echo two > sub/two.conf
                  ln -s ../etc/one.conf sub/link; ln -s /etc sub/away; seq 1 99 > sub/folder/n";
    backed_up(world, &["mkfs.ext4", "-qF"], 20 * MIB, script);
}

#[test]
fn listings_show_what_is_there() {
    let world = World::new();
    small(&world);
    let disks = world.json(["ls", "web1"]);
    assert_eq!(disks["disks"][0]["table"], "gpt");
    assert_eq!(disks["disks"][0]["parts"][0]["place"], "vdap1");
    assert_eq!(disks["disks"][0]["parts"][0]["content"], "ext4");
    assert_eq!(disks["disks"][0]["parts"][1]["content"], "BIOS boot code");
    assert!(world.ok(["ls", "web1:vda"]).contains("vdap1"));
    let names = "etc\nlost+found\nsub\n";
    assert_eq!(world.ok(["ls", "web1:vdap1"]), names);
    // The only file system of the disk needs no number.
    assert_eq!(world.ok(["ls", "web1@latest:vda/"]), names);
    assert_eq!(
        world.ok(["ls", "web1@2099-01-01T10:30:vda/sub/away"]),
        "one.conf\n"
    );
    let all = world.ok(["ls", "-R", "web1:vdap1/sub"]);
    assert_eq!(all, "away\nfolder\nfolder/n\nlink\ntwo.conf\n");
    let long = world.ok(["ls", "-l", "web1:vdap1/sub"]);
    assert!(long.contains("link -> ../etc/one.conf"), "{long}");
    let file = world.json(["ls", "web1:vdap1/sub/link"]);
    assert_eq!(file["entries"][0]["path"], "/etc/one.conf");
    assert_eq!(file["entries"][0]["size"], 4);
    let found = world.ok(["find", "web1", "*.conf"]);
    assert_eq!(found, "vdap1/etc/one.conf\nvdap1/sub/two.conf\n");
    let found = world.json(["find", "web1:vda", "/sub/**/n"]);
    assert_eq!(found["entries"][0]["path"], "/sub/folder/n");
}

#[test]
fn what_is_not_there_is_said() {
    let world = World::new();
    small(&world);
    world
        .run(["ls", "web1:vdap1/nothing"])
        .refused(1, "no such file");
    world.run(["ls", "web1:vdap9/"]).refused(2, "vdap9");
    world.run(["ls", "web1:vdb/"]).refused(2, "vda");
    world.run(["ls", "web2:vda/"]).refused(1, "web2");
    world.run(["get", "web1"]).refused(2, "TARGET");
    world.run(["find", "web1", "["]).refused(2, "pattern");
}

#[test]
fn nothing_is_overwritten_without_force_and_no_link_is_followed() {
    let world = World::new();
    small(&world);
    fs::create_dir(world.path("out")).expect("a folder can be made");
    fs::write(world.path("out/one.conf"), "mine").expect("there is space");
    let line = ["get", "web1:vdap1/etc/one.conf", "out"];
    world.run(line).refused(1, "--force");
    assert_eq!(
        fs::read(world.path("out/one.conf")).expect("it is there"),
        b"mine"
    );
    world.ok(line.iter().chain(&["--force"]));
    assert_eq!(
        fs::read(world.path("out/one.conf")).expect("it is there"),
        b"one\n"
    );

    // Someone put links where the files go.
    fs::create_dir(world.path("elsewhere")).expect("a folder can be made");
    fs::create_dir(world.path("out/sub")).expect("a folder can be made");
    symlink(world.path("elsewhere"), world.path("out/sub/folder")).expect("a link can be made");
    symlink(world.path("precious"), world.path("out/sub/two.conf")).expect("a link can be made");
    fs::write(world.path("precious"), "mine").expect("there is space");
    let ran = world.run(["get", "web1:vdap1/sub", "out", "--force"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("sub/folder"), "{ran:?}");
    assert_eq!(
        fs::read(world.path("precious")).expect("it is there"),
        b"mine"
    );
    assert!(
        fs::read_dir(world.path("elsewhere"))
            .expect("it is there")
            .next()
            .is_none()
    );
    assert_eq!(
        fs::read(world.path("out/sub/two.conf")).expect("replaced"),
        b"two\n"
    );
}

#[test]
fn a_file_that_cannot_be_read_whole_replaces_nothing() {
    let world = World::new();
    let script = "mkdir tree; seq 1 9999 > tree/bad; echo good > tree/good; echo two > tree/two
                  ln tree/good tree/second";
    backed_up(&world, &["mkfs.ext4", "-qF"], 20 * MIB, script);
    // The map of the file begins with a wrong number.
    let part = "dd if=disk.raw of=part bs=1M skip=1 count=20 status=none
                debugfs -w -R 'set_inode_field /tree/bad block[0] 1' part
                dd if=part of=disk.raw bs=1M seek=1 conv=notrunc status=none";
    world.tool("bash", &["-euc", part]);
    world.backup("disk.raw");
    fs::create_dir_all(world.path("out/tree")).expect("a folder can be made");
    for name in ["bad", "good", "second", "two"] {
        let path = world.path("out/tree").join(name);
        fs::write(path, "mine").expect("there is space");
    }
    for _ in 0..2 {
        let ran = world.run(["get", "web1:vdap1/tree", "out", "--force"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.err.contains("tree/bad: cannot read it"), "{ran:?}");
    }
    let ran = world.run(["get", "web1:vdap1/tree/bad", "out/tree", "--force"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    let listed = world.tool("bash", &["-euc", "cd out/tree; ls -A; cat bad good second"]);
    assert_eq!(listed, "bad\ngood\nsecond\ntwo\nminegood\ngood\n");
}

#[test]
fn content_goes_to_standard_output() {
    let world = World::new();
    small(&world);
    assert_eq!(world.ok(["get", "web1:vdap1/sub/link", "-"]), "one\n");
    world
        .run(["get", "web1:vdap1/sub", "-"])
        .refused(2, "regular files");
    world.ok(["get", "web1:vdap1/sub/link"]);
    let link = fs::read_link(world.path("link")).expect("it is a link");
    assert_eq!(link, Path::new("../etc/one.conf"));
    world.ok(["get", "-L", "web1:vdap1/sub/link", "followed"]);
    assert_eq!(
        fs::read(world.path("followed")).expect("it is a file"),
        b"one\n"
    );
}

#[test]
fn names_that_a_guest_made_up_lead_nowhere_else() {
    let world = World::new();
    let script = "mkdir victim; echo evil > victim/aaaaaaaaaaaaaaaa";
    backed_up(
        &world,
        &["mkfs.ext4", "-qF", "-O", "^metadata_csum"],
        20 * MIB,
        script,
    );
    let bytes = fs::read(world.path("disk.raw")).expect("it can be read");
    let name = b"aaaaaaaaaaaaaaaa";
    let file = File::options().write(true).open(world.path("disk.raw"));
    let file = file.expect("it can be opened");
    for at in 0..bytes.len() - name.len() {
        if bytes[at..].starts_with(name) {
            file.write_all_at(b"../../../../evil", at as u64)
                .expect("there is space");
        }
    }
    world.backup("disk.raw");
    let ran = world.run(["get", "web1:vdap1/victim", "out"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        fs::read_dir(world.path("out"))
            .expect("it is made")
            .next()
            .is_none()
    );
    assert!(!world.path("evil").exists() && !world.path("../evil").exists());
}

#[test]
fn who_is_not_root_gets_what_is_possible() {
    let world = World::new();
    let script = "mkdir tree; echo x > tree/file; chown 1234:1234 tree/file; chmod 4755 tree/file
                  setfattr -n security.cairn -v 1 tree/file; mknod tree/device c 1 3
                  mkfifo tree/fifo; mkdir -m 0500 tree/closed; echo y > tree/closed/in";
    backed_up(&world, &["mkfs.ext4", "-qF"], 20 * MIB, script);
    let open = "chmod -R a+rX . && mkdir -m 777 out && mkdir -p cache && chmod 777 . && \
                chown -R 65534:65534 repository cache";
    world.tool("bash", &["-euc", open]);
    let mut command = world.command(["get", "web1:vdap1/tree", "out", "--json"]);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    std::os::unix::process::CommandExt::gid(&mut command, 65534);
    let ran = crate::world::Ran::of(&mut command);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("tree/device: only root"), "{ran:?}");
    let report = ran.document();
    assert_eq!(report["refused_attributes"]["security.cairn"], 1);
    assert!(
        report["owners_not_set"]
            .as_u64()
            .is_some_and(|count| count > 0)
    );
    let file = fs::metadata(world.path("out/tree/file")).expect("it is there");
    assert_eq!(file.permissions().mode() & 0o7777, 0o755);
    assert!(world.path("out/tree/closed/in").exists());
    let names = fs::read_dir(world.path("out/tree")).expect("it is there");
    assert!(
        names
            .flatten()
            .all(|entry| entry.file_name().as_bytes() != b"device")
    );
}
