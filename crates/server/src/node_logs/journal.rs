//! The logs of services: from the journal where it knows the service, else from a file of the service's name.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncReadExt as _, net::unix::pipe, process::Command};

use super::{Found, look, query::LogQuery};
use crate::chunk;

/// How long one query may take, all its services together.
const LONGEST: Duration = Duration::from_secs(30);
const JOURNALCTL: &str = "journalctl";

/// Writes the logs; whatever goes wrong becomes a line of them, since the reply has begun.
pub async fn write(query: LogQuery, logs: PathBuf, out: chunk::Sender) {
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

async fn say(out: &chunk::Sender, line: String) {
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

async fn from_journal(query: &LogQuery, services: &[&str], out: &chunk::Sender) {
    let mut journal = Command::new(JOURNALCTL);
    journal.args(query.journal_arguments(services));
    if run(journal, out).await.is_err() {
        say(out, "error: journal output not available".into()).await;
    }
}

/// One pipe for both outputs keeps their order.
async fn run(mut command: Command, out: &chunk::Sender) -> std::io::Result<()> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).kill_on_drop(true);
    let mut child = command.spawn()?;
    // Holds the writing ends, without which the reading would not end.
    drop(command);
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    loop {
        let mut chunk = vec![0; chunk::MOST];
        let count = reader.read(&mut chunk).await?;
        chunk.truncate(count);
        if count == 0 {
            // Its exit code says no more than what it wrote.
            return child.wait().await.map(drop);
        }
        if out.send(Ok(chunk.into())).await.is_err() {
            // Nobody reads on: it would wait for room in the pipe.
            return child.kill().await;
        }
    }
}

async fn from_file(logs: &Path, service: &str, out: &chunk::Sender) {
    let candidates = [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")];
    for candidate in candidates {
        if let Ok(Found::File { file, length }) = look(logs, candidate.into()).await {
            return chunk::send(file, length, out).await;
        }
    }
    say(out, format!("log not found for {service}")).await;
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

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

    #[test]
    fn a_client_that_reads_nothing_takes_no_thread() {
        let logs = tempfile::tempdir().unwrap();
        std::fs::write(logs.path().join("big"), vec![b'x'; 1 << 20]).unwrap();
        let one_thread = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        one_thread.unwrap().block_on(async {
            let (out, chunks) = mpsc::channel(2);
            let sending = from_file(logs.path(), "big", &out);
            let others = async {
                while chunks.len() < 2 {
                    tokio::task::yield_now().await;
                }
                let thread = tokio::time::timeout(Duration::from_secs(5), tokio::task::spawn_blocking(|| {})).await;
                drop(chunks);
                assert!(thread.is_ok(), "the only blocking thread waits for the client");
            };
            tokio::join!(sending, others);
        });
    }

    #[tokio::test]
    async fn the_journals_program_ends_with_its_client() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let mut endless = Command::new("sh");
        endless.args(["-c", "echo $$ >\"$0\"; exec yes"]).arg(&pid);
        let (out, mut chunks): (chunk::Sender, _) = mpsc::channel(1);
        let client = async {
            chunks.recv().await.unwrap().unwrap();
            drop(chunks);
        };
        let ended = async { tokio::time::timeout(Duration::from_secs(5), run(endless, &out)).await };
        let (ended, ()) = tokio::join!(ended, client);
        ended.unwrap().unwrap();
        let pid = std::fs::read_to_string(pid).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/comm", pid.trim()));
        assert!(stat.is_err(), "{stat:?} still runs as {pid}");
    }
}
