//! `/logs/`: the files below `/var/log`, resolved beneath it, and the logs of services. No redirect is ever sent.

mod journal;
mod query;

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::File,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
};

use futures::StreamExt as _;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use tokio::sync::mpsc;

use crate::{
    chunk,
    dispatch::{Call, Context},
    reply::{self, Reply},
};

use query::LogQuery;

const MOST_LINKS: u32 = 8;
/// Of one directory in a listing.
const MOST_NAMES: usize = 10_000;

enum Found {
    Directory(Vec<String>),
    File { file: File, length: u64 },
}

pub async fn handle(context: &Context, call: Call) -> Reply {
    if !context.config.enable_system_log_handler {
        return reply::text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n");
    }
    let mut path = PathBuf::from(call.params.get("path"));
    match queried(context, &call).await {
        Ok(None) => {}
        Ok(Some(query)) => match query.file() {
            Some(file) => path = file.to_owned(),
            None => return services(context, query),
        },
        Err(refusal) => return refusal,
    }
    match look(&context.config.system_logs_dir, path).await {
        Ok(Found::Directory(names)) => {
            reply::typed(StatusCode::OK, "text/html; charset=utf-8", listing(call.head.uri.path(), &names))
        }
        // At most the length seen at the start: the file may grow meanwhile.
        Ok(Found::File { file, length }) => stream(context, |out| async move { chunk::send(file, length, &out).await }),
        Err(error) => refused(error),
    }
}

/// A node log query; parameters mean nothing where such queries are not enabled.
async fn queried(context: &Context, call: &Call) -> Result<Option<LogQuery>, Reply> {
    if !context.config.enable_system_log_query {
        return Ok(None);
    }
    let query = LogQuery::parse(&call.query()).map_err(|faults| reply::text(StatusCode::BAD_REQUEST, faults))?;
    let Some(query) = query else { return Ok(None) };
    let refused = |faults| reply::text(StatusCode::NOT_ACCEPTABLE, faults);
    if !call.params.get("path").is_empty() {
        return Err(refused("path not allowed in query mode\n".into()));
    }
    query.check().map_err(refused)?;
    if let Some(file) = query.file()
        && look(&context.config.system_logs_dir, file.to_owned()).await.is_err()
    {
        return Err(refused(format!("query: no file {}\n", file.display())));
    }
    Ok(Some(query))
}

fn services(context: &Context, query: LogQuery) -> Reply {
    let (logs, stop) = (context.config.system_logs_dir.clone(), context.stop.clone());
    stream(context, |out| async move {
        stop.run_until_cancelled(journal::write(query, logs, out)).await;
    })
}

fn refused(error: Errno) -> Reply {
    match error {
        Errno::ACCESS | Errno::PERM => reply::text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
        Errno::CANCELED => reply::text(StatusCode::INTERNAL_SERVER_ERROR, "reading the log failed\n"),
        _ => reply::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// As [`open`], which blocks.
async fn look(root: &Path, path: PathBuf) -> rustix::io::Result<Found> {
    let root = root.to_owned();
    tokio::task::spawn_blocking(move || open(&root, &path)).await.unwrap_or(Err(Errno::CANCELED))
}

/// Symbolic links count only while they stay below `root`; devices and pipes are not opened.
fn open(root: &Path, path: &Path) -> rustix::io::Result<Found> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let base = rustix::fs::openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let beneath = |path: &Path| rustix::fs::openat2(&base, path, flags | OFlags::NONBLOCK, Mode::empty(), resolve);
    let opened: OwnedFd = match beneath(path) {
        // Absolute links count as leading out, also those (as in /var/log/containers) that lead back in.
        Err(Errno::XDEV) => beneath(&without_links(&base, root, path)?)?,
        opened => opened?,
    };
    let facts = rustix::fs::fstat(&opened)?;
    match FileType::from_raw_mode(facts.st_mode) {
        FileType::Directory => entries(opened),
        FileType::RegularFile => Ok(Found::File { file: File::from(opened), length: facts.st_size.unsigned_abs() }),
        _ => Err(Errno::NOENT),
    }
}

/// The same place by a path without links. Whoever opens it must still forbid to leave the root.
fn without_links(base: &OwnedFd, root: &Path, path: &Path) -> rustix::io::Result<PathBuf> {
    let (mut resolved, mut rest, mut links) = (PathBuf::new(), path.to_owned(), 0);
    loop {
        let mut parts = rest.components();
        let Some(part) = parts.next() else { break };
        let after = parts.as_path().to_owned();
        match part {
            Component::ParentDir if resolved.pop() => rest = after,
            Component::CurDir => rest = after,
            Component::Normal(name) => match rustix::fs::readlinkat(base, resolved.join(name), Vec::new()) {
                Ok(_) if links == MOST_LINKS => return Err(Errno::LOOP),
                Ok(target) => {
                    links += 1;
                    let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                    if target.is_absolute() {
                        resolved.clear();
                        rest = target.strip_prefix(root).map_err(|_| Errno::XDEV)?.join(after);
                    } else {
                        rest = target.join(after);
                    }
                }
                Err(Errno::INVAL) => {
                    resolved.push(name);
                    rest = after;
                }
                Err(error) => return Err(error),
            },
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(Errno::XDEV),
        }
    }
    Ok(if resolved.as_os_str().is_empty() { PathBuf::from(".") } else { resolved })
}

fn entries(directory: OwnedFd) -> rustix::io::Result<Found> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if names.len() == MOST_NAMES {
            break;
        }
        if name != "." && name != ".." {
            names.push(if entry.file_type() == FileType::Directory { format!("{name}/") } else { name.into_owned() });
        }
    }
    names.sort();
    Ok(Found::Directory(names))
}

/// Links are absolute, so that the listing works with and without a slash at the end of the request.
fn listing(at: &str, names: &[String]) -> String {
    let at = at.trim_end_matches('/');
    let mut html = String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        let href: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let href = href.replace('+', "%20").replace("%2F", "/");
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(html, "<a href=\"{at}/{href}\">{shown}</a>");
    }
    if names.len() == MOST_NAMES {
        let _ = writeln!(html, "no more than {MOST_NAMES} names are listed; what is not here is found by its name");
    }
    html.push_str("</pre>\n");
    html
}

/// A reply that is written while it is sent: one of the streams, until its end or until the client goes.
fn stream<W>(context: &Context, write: impl FnOnce(chunk::Sender) -> W) -> Reply
where
    W: Future<Output = ()> + Send + 'static,
{
    let Ok(slot) = context.streams.clone().try_acquire_owned() else { return reply::too_many_requests() };
    let (out, body) = mpsc::channel(1);
    let writing = write(out);
    context.tasks.spawn(async move {
        let _slot = slot;
        writing.await;
    });
    let body = futures::stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
    reply::log(StreamBody::new(body.map(|chunk| chunk.map(Frame::data))).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_above_the_root_is_reached() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.log"), "x").unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../a.log", root.path().join("d/in")).unwrap();
        let open = |path: &str| open(root.path(), Path::new(path));
        assert!(matches!(open("a.log"), Ok(Found::File { length: 1, .. })));
        assert!(matches!(open("d/in"), Ok(Found::File { .. })));
        assert!(open("out").is_err());
        assert!(open("../../etc/passwd").is_err());
        assert!(open("d/../../x").is_err());
        let Ok(Found::Directory(names)) = open("") else { panic!("the root is a directory") };
        assert_eq!(names, ["a.log", "d/", "out"]);
    }

    #[test]
    fn absolute_links_that_stay_below_the_root_are_followed() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("pods/p/c")).unwrap();
        std::fs::create_dir(at("containers")).unwrap();
        std::fs::write(at("pods/p/c/0.log"), "xy").unwrap();
        symlink(at("pods/p/c/0.log"), at("containers/c.log")).unwrap();
        symlink(at("pods/p"), at("short")).unwrap();
        symlink(at("short/c/../c/0.log"), at("twice.log")).unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        symlink(at("pods/../../x"), at("up")).unwrap();
        symlink("/etc", at("etc")).unwrap();
        let open = |path: &str| open(root.path(), Path::new(path));
        for path in ["containers/c.log", "short/c/0.log", "twice.log"] {
            assert!(matches!(open(path), Ok(Found::File { length: 2, .. })), "{path}");
        }
        assert!(matches!(open("short"), Ok(Found::Directory(names)) if names == ["c/"]));
        for path in ["loop", "up", "etc/passwd"] {
            assert!(open(path).is_err(), "{path}");
        }
    }

    #[test]
    fn names_are_escaped_in_a_listing() {
        let html = listing("/logs/", &["<x>/".into(), "a b".into()]);
        assert!(html.contains("<a href=\"/logs/%3Cx%3E/\">&lt;x&gt;/</a>"), "{html}");
        assert!(html.contains("href=\"/logs/a%20b\""), "{html}");
    }

    #[test]
    fn a_listing_that_is_cut_says_so() {
        let names = vec!["x".to_owned(); MOST_NAMES];
        assert!(listing("/logs/", &names).contains("no more than 10000 names"));
        assert!(!listing("/logs/", &names[1..]).contains("no more than"));
    }
}
