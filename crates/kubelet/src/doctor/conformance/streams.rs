//! Exec, attach and port-forward as clients use them: bytes that go in and come out by the runtime's streaming server.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::fd::AsFd,
    path::PathBuf,
    thread,
};

use cri::Streams;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use server::stream_client;

use super::{
    calls,
    report::{Checked, Fault, Report, unexpected},
    running::Running,
};

const WORDS: &[u8] = b"said by the check\n";
const ANSWER: &[u8] = b"answered in the pod";
/// What the command ends with, as the final status has it.
const EXIT_CODE: &str = "7";

pub(super) async fn check(running: &Running<'_>, report: &mut Report) {
    report.add(calls::EXEC, exec(running).await);
    report.add(calls::ATTACH, attach(running).await);
    match listen_in_pod(running).await {
        Ok(Some(listener)) => _ = report.add(calls::PORT_FORWARD, port_forward(running, listener).await),
        Ok(None) => report.not_tried(calls::PORT_FORWARD, "the pod's network namespace is not on this kernel"),
        Err(fault) => _ = report.add(calls::PORT_FORWARD, Err::<&str, _>(fault)),
    }
}

async fn exec(running: &Running<'_>) -> Checked {
    let command = ["sh", "-c", &format!("cat; echo err >&2; exit {EXIT_CODE}")].map(str::to_owned);
    let streams = Streams { stdin: true, stdout: true, stderr: true, ..Streams::default() };
    let url = running.pod.cri().exec_url(running.id, &command, streams).await?;
    let said = stream_client::exec(&url, WORDS).await.map_err(Fault::Unexpected)?;
    let code = said.status["details"]["causes"][0]["message"].as_str();
    if (said.stdout.as_slice(), said.stderr.as_slice(), code) == (WORDS, b"err\n", Some(EXIT_CODE)) {
        return Ok("input, output, errors and exit code".to_owned());
    }
    unexpected(format!("{said:?}"))
}

/// The container writes a line each second.
async fn attach(running: &Running<'_>) -> Checked {
    let streams = Streams { stdout: true, ..Streams::default() };
    let url = running.pod.cri().attach_url(running.id, streams).await?;
    let written = stream_client::attach(&url).await.map_err(Fault::Unexpected)?;
    if written == b"again\n" {
        return Ok("output as it is written".to_owned());
    }
    unexpected(format!("{:?} instead of the container's output", String::from_utf8_lossy(&written)))
}

async fn port_forward(running: &Running<'_>, listener: TcpListener) -> Checked {
    let told = |error: io::Error| Fault::Unexpected(format!("cannot listen in the pod: {error}"));
    let port = listener.local_addr().map_err(told)?.port();
    // Ends with the process, should nobody call.
    thread::spawn(move || answer_once(&listener));
    let url = running.pod.cri().port_forward_url(running.sandbox, &[i32::from(port)]).await?;
    let answer = stream_client::forward(&url, port, WORDS).await.map_err(Fault::Unexpected)?;
    if answer == ANSWER {
        return Ok("both ways, to the pod's own localhost".to_owned());
    }
    unexpected(format!("{:?} instead of an answer", String::from_utf8_lossy(&answer)))
}

fn answer_once(listener: &TcpListener) -> io::Result<()> {
    let (mut connection, _) = listener.accept()?;
    let mut words = vec![0; WORDS.len()];
    connection.read_exact(&mut words)?;
    if words == WORDS { connection.write_all(ANSWER) } else { Ok(()) }
}

/// No image is sure to have a program that listens: this one does, in the pod's network namespace.
async fn listen_in_pod(running: &Running<'_>) -> Checked<Option<TcpListener>> {
    let link = running.pod.shell(running.id, "readlink /proc/self/ns/net").await?;
    let Some(namespace) = namespace_file(&link) else { return Ok(None) };
    // A thread of its own, which ends in that namespace.
    let listening = thread::spawn(move || {
        move_into_link_name_space(File::open(namespace)?.as_fd(), Some(LinkNameSpaceType::Network))?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
    });
    match listening.join() {
        Ok(Ok(listener)) => Ok(Some(listener)),
        Ok(Err(error)) => unexpected(format!("cannot listen in the pod: {error}")),
        Err(_) => unexpected("cannot listen in the pod"),
    }
}

/// Of some process that is in it.
fn namespace_file(link: &str) -> Option<PathBuf> {
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|process| process.path().join("ns/net"));
    processes.into_iter().find(|file| fs::read_link(file).is_ok_and(|found| found.to_string_lossy() == link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_namespace_is_found_by_its_link() {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let file = namespace_file(&own.to_string_lossy()).unwrap();
        assert_eq!(fs::read_link(file).unwrap(), own);
        assert_eq!(namespace_file("net:[1]"), None);
    }
}
