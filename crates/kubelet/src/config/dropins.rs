//! The drop-in directory: its `*.conf` files, subdirectories included, in lexical order, each a merge patch.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{ConfigError, Note, document::merge, files};

/// The base with every drop-in merged over it, before defaults.
pub fn merged(base: Value, directory: &Path, notes: &mut Vec<Note>) -> Result<Map<String, Value>, ConfigError> {
    let mut document = base;
    let mut found = Vec::new();
    walk(directory, &mut found)
        .map_err(|source| ConfigError::DropinDirectory { path: directory.to_owned(), source })?;
    for file in found {
        if file.extension().is_none_or(|extension| extension != "conf") {
            notes.push(Note::SkippedFile { file });
            continue;
        }
        let patch = files::read(&file, notes).map_err(|source| ConfigError::File { path: file, source })?;
        merge(&mut document, Value::Object(patch));
    }
    match document {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}

/// Every file below the directory; a link is a file, wherever it leads.
fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}
