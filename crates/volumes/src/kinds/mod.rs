//! One module per kind of volume that needs more than a payload of files.

pub(crate) mod claim;
pub(crate) mod empty_dir;
pub(crate) mod host_path;
pub(crate) mod local;
pub(crate) mod projected;
