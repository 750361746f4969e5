//! The logs of services: from the journal where it knows the service, else from a file of the service's name.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, process::Command, sync::mpsc};

use super::{CHUNK, Found, open, query::LogQuery};

/// How long one query may take, all its services together.
const LONGEST: Duration = Duration::from_secs(30);
const JOURNALCTL: &str = "journalctl";

pub type Chunks = mpsc::Sender<std::io::Result<Bytes>>;

/// Writes the logs; whatever goes wrong becomes a line of them, since the reply has begun.
pub async fn write(query: LogQuery, logs: PathBuf, out: Chunks) {
    let work = async {
        let units = journal_units().await;
        let known = |service: &&str| units.contains(&format!("{service}.service"));
        let (native, files): (Vec<&str>, Vec<&str>) = query.services.iter().map(String::as_str).partition(known);
        if !native.is_empty() {
            from_journal(&query, &native, &out).await;
        }
        if !files.is_empty() && query.options != super::query::Options::default() {
            say(&out, format!("options are only for the journal, and {files:?} are looked for as files")).await;
            return;
        }
        for service in files {
            from_file(&logs, service, &out).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(LONGEST, work) => {}
        // The client has gone: ends journalctl too.
        () = out.closed() => {}
    }
}

async fn say(out: &Chunks, line: String) {
    // An error means that nobody listens any more.
    let _ = out.send(Ok(format!("\n{line}\n").into())).await;
}

/// The units that have ever written to the journal; nothing where there is no journal.
async fn journal_units() -> String {
    let asked = Command::new(JOURNALCTL).args(["--field", "_SYSTEMD_UNIT"]).kill_on_drop(true).output().await;
    asked
        .ok()
        .filter(|answer| answer.status.success())
        .map_or_else(String::new, |answer| String::from_utf8_lossy(&answer.stdout).into_owned())
}

async fn from_journal(query: &LogQuery, services: &[&str], out: &Chunks) {
    if run(query.journal_arguments(services), out).await.is_err() {
        say(out, "error: journal output not available".into()).await;
    }
}

/// One pipe for both outputs keeps their order.
async fn run(arguments: Vec<String>, out: &Chunks) -> std::io::Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(JOURNALCTL);
    command.args(arguments).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).kill_on_drop(true);
    let mut child = command.spawn()?;
    // Holds the writing ends, without which the reading would not end.
    drop(command);
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    loop {
        let mut chunk = vec![0; CHUNK];
        let count = reader.read(&mut chunk).await?;
        chunk.truncate(count);
        if count == 0 || out.send(Ok(chunk.into())).await.is_err() {
            break;
        }
    }
    // Its exit code says no more than what it wrote.
    child.wait().await.map(drop)
}

async fn from_file(logs: &Path, service: &str, out: &Chunks) {
    let candidates = [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")];
    for candidate in candidates {
        let root = logs.to_owned();
        let found = tokio::task::spawn_blocking(move || open(&root, Path::new(&candidate))).await;
        if let Ok(Ok(Found::File { file, length })) = found {
            let out = out.clone();
            let copy = move || super::copy(file.take(length), &out);
            let _ = tokio::task::spawn_blocking(copy).await;
            return;
        }
    }
    say(out, format!("log not found for {service}")).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn logs_of(service: &str, logs: &Path) -> String {
        let (out, mut chunks) = mpsc::channel(4);
        from_file(logs, service, &out).await;
        drop(out);
        let mut text = String::new();
        while let Some(Ok(chunk)) = chunks.recv().await {
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
        text
    }

    #[tokio::test]
    async fn a_service_without_journal_is_looked_for_as_a_file() {
        let logs = tempfile::tempdir().unwrap();
        std::fs::write(logs.path().join("plain"), "1").unwrap();
        std::fs::write(logs.path().join("ended.log"), "2").unwrap();
        std::fs::create_dir(logs.path().join("own")).unwrap();
        std::fs::write(logs.path().join("own/own.log"), "3").unwrap();
        for (service, expected) in [("plain", "1"), ("ended", "2"), ("own", "3")] {
            assert_eq!(logs_of(service, logs.path()).await, expected);
        }
        assert_eq!(logs_of("none", logs.path()).await, "\nlog not found for none\n");
        assert_eq!(logs_of("..", logs.path()).await, "\nlog not found for ..\n");
    }
}
