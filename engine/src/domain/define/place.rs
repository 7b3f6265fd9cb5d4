//! Where the files of a restored domain go.

use std::path::{Path, PathBuf};

use super::{DefineError, Result};
use crate::source::libvirt::Connection;
use crate::source::libvirt::xml::{Element, XmlError};

/// libvirt's own pool, where it has one, and the folder that it has by default.
const POOL: &str = "default";
const FOLDER: &str = "/var/lib/libvirt/images";

/// Where files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Where libvirt puts images by itself.
    Default,
    /// A folder.
    Folder(PathBuf),
    /// A storage pool.
    Pool(String),
}

impl Place {
    /// Returns the folder.
    pub(super) fn folder(&self, connection: &Connection) -> Result<PathBuf> {
        match self {
            Self::Folder(path) => {
                std::path::absolute(path).map_err(super::file("find the folder", path))
            }
            Self::Pool(name) => pool_folder(connection, name),
            Self::Default => {
                // A host without that pool is as common as one with it.
                let found = pool_folder(connection, POOL);
                Ok(found.unwrap_or_else(|_| Path::new(FOLDER).to_owned()))
            }
        }
    }

    /// Lets the pool see the new files. A pool that cannot be refreshed is behind, and no more.
    pub(super) fn refresh(&self, connection: &Connection) {
        match self {
            Self::Folder(_) => {}
            Self::Pool(name) => drop(connection.refresh_pool(name)),
            Self::Default => drop(connection.refresh_pool(POOL)),
        }
    }
}

fn pool_folder(connection: &Connection, name: &str) -> Result<PathBuf> {
    let xml = connection.pool_xml(name)?;
    folder_in(&xml, name)
}

fn folder_in(xml: &str, name: &str) -> Result<PathBuf> {
    let invalid = |error: XmlError| super::RewriteError::from(error);
    let pool = Element::parse(xml, "pool").map_err(invalid)?;
    let kind = pool.get("type").unwrap_or_default();
    let path = pool
        .text_at("target/path")
        .filter(|path| path.starts_with('/'));
    match path {
        Some(path) if ["dir", "fs", "netfs"].contains(&kind) => Ok(PathBuf::from(&*path)),
        _ => Err(DefineError::NoFolder {
            pool: name.to_owned(),
            kind: kind.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pools_of_files_have_a_folder() {
        let xml =
            |kind| format!("<pool type='{kind}'><target><path>/dev/vg0</path></target></pool>");
        let folder = folder_in(&xml("dir"), "p").ok();
        assert_eq!(folder.as_deref(), Some(Path::new("/dev/vg0")));
        assert!(matches!(
            folder_in(&xml("logical"), "p"),
            Err(DefineError::NoFolder { .. })
        ));
        assert!(folder_in("<pool type='dir'/>", "p").is_err());
    }
}
