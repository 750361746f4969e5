//! Values that one manager hands to another through the pod worker.

use std::path::PathBuf;

/// One mount of one container, ready for the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMount {
    pub name: String,
    pub container_path: String,
    /// Empty for an image volume.
    pub host_path: PathBuf,
    pub readonly: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    pub selinux_relabel: bool,
    /// Image volume: the reference that was pulled, and a path inside it.
    pub image: Option<String>,
    pub image_sub_path: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// An image that is present, as the runtime names it, and the user that it declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedImage {
    /// What to put into ContainerConfig.image.image and what the container's status.imageID becomes.
    pub image_ref: String,
    pub user: ImageUser,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageUser {
    /// Declares none: root.
    #[default]
    Root,
    Uid(i64),
    Name(String),
}

/// One line for `kubectl get events`: what happened to which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}
