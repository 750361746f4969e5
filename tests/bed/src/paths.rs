//! Where things are kept: one cache folder outside the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `$FERROLET_CACHE`, else `$XDG_CACHE_HOME/ferrolet`, else `~/.cache/ferrolet`.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    pub fn of_user() -> Result<Self> {
        let from = |var: &str| std::env::var_os(var).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = from("FERROLET_CACHE")
            .or_else(|| from("XDG_CACHE_HOME").map(|p| p.join("ferrolet")))
            .or_else(|| from("HOME").map(|p| p.join(".cache/ferrolet")))
            .context("no cache folder: set FERROLET_CACHE, XDG_CACHE_HOME or HOME")?;
        std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self(root))
    }

    pub fn root(&self) -> &Path {
        &self.0
    }
    /// Programs of the stack.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.0.join("stack/bin").join(name)
    }
    pub fn cni(&self) -> PathBuf {
        self.0.join("stack/cni")
    }
    pub fn src(&self, module: &str) -> PathBuf {
        self.0.join("stack/src").join(module)
    }
    pub fn images(&self) -> PathBuf {
        self.0.join("stack/images")
    }
    /// What kubeadm's own static pods and add-ons run.
    pub fn kubeadm_images(&self) -> PathBuf {
        self.0.join("stack/images-kubeadm")
    }
    /// Clusters that run or ran, one folder each.
    pub fn runs(&self) -> PathBuf {
        self.0.join("run")
    }
    pub fn reports(&self) -> PathBuf {
        self.0.join("reports")
    }
    pub fn vm(&self) -> PathBuf {
        self.0.join("vm")
    }
}
