//! The XML of backup jobs and checkpoints.

use std::path::PathBuf;

use super::{Element, XmlError};

/// Where a job's NBD server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupServer {
    /// On a unix socket of the domain's host.
    Unix(PathBuf),
    /// On a port of the network, under TLS.
    Tls {
        /// The address to listen on.
        host: String,
        /// The port.
        port: u16,
    },
}

/// What a job does with one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupDisk {
    /// The disk.
    pub target: String,
    /// The checkpoint that its dirty bitmap counts from; `None` reads it whole.
    pub incremental: Option<String>,
    /// Where old data goes that the guest overwrites during the job.
    pub scratch: PathBuf,
    /// Whether the new checkpoint gets a bitmap on it.
    pub has_bitmap: bool,
}

/// A pull-mode backup job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupJob {
    /// Where it serves.
    pub server: BackupServer,
    /// The disks that take part.
    pub disks: Vec<BackupDisk>,
    /// The domain's other disks, which do not.
    pub left_out: Vec<String>,
}

impl BackupJob {
    /// Writes the job for libvirt.
    pub fn xml(&self) -> String {
        let server = match &self.server {
            BackupServer::Unix(path) => Element::new("server")
                .attribute("transport", "unix")
                .attribute("socket", &path.to_string_lossy()),
            BackupServer::Tls { host, port } => Element::new("server")
                .attribute("transport", "tcp")
                .attribute("tls", "yes")
                .attribute("name", host)
                .attribute("port", &port.to_string()),
        };
        let mut disks = Element::new("disks");
        for disk in &self.disks {
            disks = disks.child(disk.element());
        }
        for target in &self.left_out {
            let left_out = Element::new("disk").attribute("name", target);
            disks = disks.child(left_out.attribute("backup", "no"));
        }
        let root = Element::new("domainbackup").attribute("mode", "pull");
        root.child(server).child(disks).to_string()
    }
}

impl BackupDisk {
    fn element(&self) -> Element {
        let scratch = Element::new("scratch").attribute("file", &self.scratch.to_string_lossy());
        let disk = Element::new("disk")
            .attribute("name", &self.target)
            .attribute("backup", "yes")
            .attribute("type", "file")
            .attribute("exportname", &self.target);
        let disk = match &self.incremental {
            Some(checkpoint) => disk
                .attribute("backupmode", "incremental")
                .attribute("incremental", checkpoint)
                .attribute("exportbitmap", &bitmap_name(&self.target)),
            None => disk.attribute("backupmode", "full"),
        };
        disk.child(scratch)
    }
}

/// Returns the name under which a job shows a disk's dirty bitmap.
fn bitmap_name(target: &str) -> String {
    format!("backup-{target}")
}

impl BackupDisk {
    /// Returns the metadata context in which the job shows what is dirty, if it does.
    pub fn dirty_context(&self) -> Option<String> {
        let incremental = self.incremental.is_some();
        incremental.then(|| format!("qemu:dirty-bitmap:{}", bitmap_name(&self.target)))
    }
}

/// Writes a checkpoint for libvirt: a bitmap of its own name on each of `targets`, none on
/// `others`. `created` is needed to define one anew, in seconds since 1970.
pub fn checkpoint_xml(
    name: &str,
    description: &str,
    created: Option<i64>,
    targets: &[String],
    others: &[String],
) -> String {
    let mut disks = Element::new("disks");
    for target in targets {
        let disk = Element::new("disk").attribute("name", target);
        disks = disks.child(
            disk.attribute("checkpoint", "bitmap")
                .attribute("bitmap", name),
        );
    }
    for target in others {
        let disk = Element::new("disk").attribute("name", target);
        disks = disks.child(disk.attribute("checkpoint", "no"));
    }
    let mut root = Element::new("domaincheckpoint").child(Element::with_text("name", name));
    root = root.child(Element::with_text("description", description));
    if let Some(created) = created {
        root = root.child(Element::with_text("creationTime", &created.to_string()));
    }
    root.child(disks).to_string()
}

/// What a checkpoint's XML says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name.
    pub name: String,
    /// What was said when it was made.
    pub description: String,
    /// When it was made, in seconds since 1970.
    pub created: Option<i64>,
    /// The disks that it has a bitmap on, each with the bytes marked where QEMU told.
    pub disks: Vec<(String, Option<u64>)>,
}

impl Checkpoint {
    /// Reads a checkpoint's XML.
    pub fn parse(xml: &str) -> Result<Self, XmlError> {
        let root = Element::parse(xml, "domaincheckpoint")?;
        let text = |path| root.text_at(path).map(|text| text.into_owned());
        let disks = root.first("disks");
        let disks = disks.into_iter().flat_map(|disks| disks.all("disk"));
        let with_bitmap = disks.filter(|disk| disk.get("checkpoint") == Some("bitmap"));
        let told = with_bitmap.filter_map(|disk| {
            let size = disk.get("size").and_then(|size| size.parse().ok());
            disk.get("name").map(|name| (name.to_owned(), size))
        });
        Ok(Self {
            name: text("name").ok_or(XmlError::Missing { what: "name" })?,
            description: text("description").unwrap_or_default(),
            created: text("creationTime").and_then(|time| time.parse().ok()),
            disks: told.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_checkpoints_are_written_as_libvirt_reads_them() {
        let job = BackupJob {
            server: BackupServer::Unix("/r/s".into()),
            disks: vec![BackupDisk {
                target: "vda".to_owned(),
                incremental: Some("c".to_owned()),
                scratch: "/i/.cairn-x-vda.scratch".into(),
                has_bitmap: true,
            }],
            left_out: vec!["sda".to_owned()],
        };
        assert_eq!(
            job.xml(),
            "<domainbackup mode='pull'><server transport='unix' socket='/r/s'/><disks>\
             <disk name='vda' backup='yes' type='file' exportname='vda' \
             backupmode='incremental' incremental='c' exportbitmap='backup-vda'>\
             <scratch file='/i/.cairn-x-vda.scratch'/></disk>\
             <disk name='sda' backup='no'/></disks></domainbackup>"
        );
        let xml = checkpoint_xml("c", "d", Some(7), &["vda".to_owned()], &["vdb".to_owned()]);
        let read = Checkpoint::parse(&xml).expect("it was just written");
        assert_eq!((read.created, read.disks.len()), (Some(7), 1));
    }
}
