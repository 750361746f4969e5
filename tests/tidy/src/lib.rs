//! The rules of docs/ARCHITECTURE.md that a machine can hold, as tests. Nothing but tests is here.

#[cfg(test)]
mod crates;
#[cfg(test)]
mod files;

#[cfg(test)]
fn repository() -> std::path::PathBuf {
    std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
