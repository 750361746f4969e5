//! The images that tests and suites ask for, made here: no registry is reachable, so roots are built from
//! Debian's static busybox, a static pause, the Go-built agnhost, and programs of this machine with the shared
//! libraries that `ldd` names. Written as docker archives; [`push`] fills the run's own registry.

pub mod kubeadm;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{Cache, build, process, process::run};

pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2";
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";
pub const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.28.0-2";
const E2E: &str = "registry.k8s.io/e2e-test-images/";
/// Rises when the contents below change, so that caches are made anew.
const EDITION: &str = "1";

const PAUSE_C: &str = r"
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void down(int s) { (void)s; exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) {
  struct sigaction d = {.sa_handler = down}, r = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
  sigaction(SIGINT, &d, 0); sigaction(SIGTERM, &d, 0); sigaction(SIGCHLD, &r, 0);
  for (;;) pause();
}
";
/// The suite's image has a busybox whose shell passes on variables named like `data-1`; Debian's drops them.
const SHELL_C: &str = r#"
#include <string.h>
#include <unistd.h>
int main(int c, char **v) {
  if (c == 3 && !strcmp(v[1], "-c") && !strcmp(v[2], "env")) { char *e[] = {"env", 0}; execv("/bin/busybox", e); }
  execv("/bin/busybox", v);
  return 127;
}
"#;
const EFFECTIVE_UID_C: &str =
    "#include <stdio.h>\n#include <unistd.h>\nint main(){printf(\"Effective uid: %d\\n\",(int)geteuid());return 0;}";
const NGINX_CONF: &str = "user root;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log /dev/stderr;\nevents { worker_connections 128; }\nhttp { access_log /dev/stdout; server { listen 80; root /usr/share/nginx/html; } }\n";

enum Entry {
    Dir(u32),
    File(Vec<u8>, u32),
    Link(String),
}

/// The root file system of an image, by path without the leading slash.
struct Root(BTreeMap<String, Entry>);

impl Root {
    fn new() -> Self {
        let mut root = Self(BTreeMap::new());
        for dir in ["bin", "etc", "proc", "sys", "dev", "usr", "var", "home", "var/run", "var/log"] {
            root.0.insert(dir.into(), Entry::Dir(0o755));
        }
        root.0.insert("tmp".into(), Entry::Dir(0o1777));
        root.0.insert("root".into(), Entry::Dir(0o700));
        root.text(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\nnginx:x:101:101::/:/bin/sh\n",
        );
        root.text("etc/group", "root:x:0:\nnobody:x:65534:\nnginx:x:101:\n");
        root.text("etc/nsswitch.conf", "hosts: files dns\n");
        root
    }
    fn put(&mut self, path: &str, entry: Entry) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Dir(0o755));
        }
        self.0.insert(path.to_owned(), entry);
    }
    fn text(&mut self, path: &str, text: &str) {
        self.put(path, Entry::File(text.into(), 0o644));
    }
    fn program(&mut self, path: &str, bytes: Vec<u8>) {
        self.put(path, Entry::File(bytes, 0o755));
    }
    fn copy(&mut self, path: &str, source: &Path) -> Result<()> {
        self.program(path, fs::read(source).with_context(|| format!("{}", source.display()))?);
        Ok(())
    }
    fn link(&mut self, path: &str, target: &str) {
        self.put(path, Entry::Link(target.to_owned()));
    }
    fn busybox(&mut self) -> Result<()> {
        self.copy("bin/busybox", Path::new("/bin/busybox"))?;
        for applet in run(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|a| *a != "busybox") {
            self.link(&format!("bin/{applet}"), "/bin/busybox");
        }
        self.link("usr/bin/env", "/bin/busybox");
        Ok(())
    }
    /// A program of this machine with every library it loads.
    fn closure(&mut self, path: &str, source: &Path) -> Result<()> {
        self.copy(path, source)?;
        let listed = Command::new("ldd").arg(source).output()?;
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            if let Some(lib) = line.split_whitespace().find(|w| w.starts_with('/') && Path::new(w).exists()) {
                self.copy(lib.trim_start_matches('/'), &fs::canonicalize(lib)?)?;
            }
        }
        Ok(())
    }
    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(0);
            match entry {
                Entry::Dir(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    tar.append_data(&mut header, path, std::io::empty())?;
                }
                Entry::File(bytes, mode) => {
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Entry::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn save(cache: &Cache, name: &str, layer: &[u8], config: serde_json::Value) -> Result<()> {
    save_in(&cache.images(), name, layer, config)
}

/// Writes one docker archive of one layer.
fn save_in(folder: &Path, name: &str, layer: &[u8], mut config: serde_json::Value) -> Result<()> {
    config["Env"] = json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    let digest = hex_digest(layer);
    let image = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "created": "2020-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created": "2020-01-01T00:00:00Z"}],
    });
    let image = serde_json::to_vec(&image)?;
    let image_file = format!("{}.json", hex_digest(&image));
    let layer_file = format!("{digest}/layer.tar");
    let manifest = json!([{"Config": image_file, "RepoTags": [name], "Layers": [layer_file]}]);
    let path = archive_in(folder, name);
    let mut tar = tar::Builder::new(fs::File::create(path)?);
    for (file, bytes) in
        [(image_file, &image[..]), (layer_file, layer), ("manifest.json".into(), &serde_json::to_vec(&manifest)?)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, file, bytes)?;
    }
    tar.finish()?;
    Ok(())
}

fn archive_in(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}.tar", name.replace(['/', ':'], "_")))
}

fn compile(cache: &Cache, source: &str) -> Result<Vec<u8>> {
    let dir = cache.images().join("c");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("a.c"), source)?;
    run(Command::new("gcc").args(["-Os", "-static", "-s", "-o", "a", "a.c"]).current_dir(&dir))?;
    let program = fs::read(dir.join("a"))?;
    fs::remove_dir_all(dir)?;
    Ok(program)
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|d| d.join(program)).find(|p| p.exists())
}

fn marker(cache: &Cache) -> PathBuf {
    cache.images().join("edition")
}

pub fn are_made(cache: &Cache) -> bool {
    fs::read_to_string(marker(cache)).is_ok_and(|e| e == EDITION)
}

pub fn make(cache: &Cache) -> Result<()> {
    fs::create_dir_all(cache.images())?;
    let mut pause = Root::new();
    pause.program("pause", compile(cache, PAUSE_C)?);
    save(cache, PAUSE, &pause.layer()?, json!({"Entrypoint": ["/pause"], "User": "65535:65535"}))?;

    let mut busybox = Root::new();
    busybox.busybox()?;
    busybox.program("bin/sh", compile(cache, SHELL_C)?);
    let layer = busybox.layer()?;
    save(cache, BUSYBOX, &layer, json!({"Cmd": ["sh"]}))?;
    save(cache, &format!("{E2E}nonroot:1.5"), &layer, json!({"Entrypoint": ["/bin/sh", "-c", "id"], "User": "1234"}))?;

    let layer = agnhost(cache)?.layer()?;
    let ports = json!({"80/tcp": {}, "8080/tcp": {}, "8081/tcp": {}, "9376/tcp": {}, "5000/tcp": {}});
    for version in ["2.66.1", "2.55"] {
        let config = json!({"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "ExposedPorts": ports});
        save(cache, &format!("{E2E}agnhost:{version}"), &layer, config)?;
    }
    save(cache, &format!("{E2E}glibc-dns-testing:2.1.1"), &glibc()?.layer()?, json!({"Cmd": ["sh"]}))?;

    let mut suid = Root::new();
    suid.busybox()?;
    suid.put("nnp", Entry::File(compile(cache, EFFECTIVE_UID_C)?, 0o4755));
    save(cache, &format!("{E2E}nonewprivs:1.4"), &suid.layer()?, json!({"Entrypoint": ["/nnp"], "User": "1000"}))?;

    let layer = nginx(cache)?.layer()?;
    for version in ["1.27.0-2", "1.28.0-2"] {
        let config =
            json!({"Entrypoint": ["/usr/sbin/nginx"], "Cmd": ["-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}});
        save(cache, &format!("{E2E}nginx:{version}"), &layer, config)?;
    }
    fs::write(marker(cache), EDITION)?;
    Ok(())
}

fn agnhost(cache: &Cache) -> Result<Root> {
    let mut root = Root::new();
    root.busybox()?;
    root.copy("agnhost", &cache.bin("agnhost"))?;
    for tool in ["curl", "dig", "nc.openbsd", "iptables", "openssl"] {
        let source = which(tool).with_context(|| format!("{tool} is not installed"))?;
        let name = tool.split('.').next().unwrap_or(tool);
        root.closure(&format!("usr/bin/{name}"), &fs::canonicalize(source)?)?;
    }
    // bash as the shell: Debian's busybox prefers its own applets (its nc knows no UDP).
    root.closure("bin/bash", Path::new("/bin/bash"))?;
    root.closure("bin/sh", Path::new("/bin/bash"))?;
    root.link("agnhost-2", "agnhost");
    let dir = cache.images();
    let (key, cert) = (dir.join("localhost.key"), dir.join("localhost.crt"));
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "3650",
        "-subj",
        "/CN=localhost",
        "-addext",
        names,
    ]);
    run(command.arg("-keyout").arg(&key).arg("-out").arg(&cert))?;
    for file in [&key, &cert] {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        root.put(&name, Entry::File(fs::read(file)?, 0o644));
        fs::remove_file(file)?;
    }
    let bundle = "etc/ssl/certs/ca-certificates.crt";
    root.put(bundle, Entry::File(fs::read(Path::new("/").join(bundle))?, 0o644));
    Ok(root)
}

fn glibc() -> Result<Root> {
    let mut root = Root::new();
    root.busybox()?;
    root.closure("usr/bin/hostname", Path::new("/usr/bin/hostname"))?;
    root.closure("usr/bin/getent", Path::new("/usr/bin/getent"))?;
    let libs = format!("/lib/{}-linux-gnu", std::env::consts::ARCH);
    for entry in fs::read_dir(&libs)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if (name.starts_with("libnss_") && name.ends_with(".so.2")) || name == "libresolv.so.2" {
            let path = entry.path();
            root.copy(&path.to_string_lossy()[1..], &fs::canonicalize(&path)?)?;
        }
    }
    root.closure("bin/sh", Path::new("/bin/bash"))?;
    Ok(root)
}

fn nginx(cache: &Cache) -> Result<Root> {
    let mut root = Root::new();
    root.busybox()?;
    root.closure("usr/sbin/nginx", &build::debian(cache, "usr/sbin/nginx"))?;
    for dir in ["var/lib/nginx", "var/log/nginx", "var/cache/nginx", "run"] {
        root.put(dir, Entry::Dir(0o777));
    }
    root.text("etc/nginx/nginx.conf", NGINX_CONF);
    root.text("usr/share/nginx/html/index.html", "<h1>Welcome to nginx!</h1>\n");
    Ok(root)
}

/// Every archive, by the name it is asked for.
pub fn archives(cache: &Cache) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cache.images())?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "tar") {
            let manifest = run(Command::new("tar").arg("xOf").arg(&path).arg("manifest.json"))?;
            let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
            let name = manifest[0]["RepoTags"][0].as_str().context("archive without a name")?;
            found.push((name.to_owned(), path));
        }
    }
    if found.is_empty() {
        bail!("no images in {}", cache.images().display());
    }
    Ok(found)
}

/// Copies every image into the registry at `address` (as `HOST:PORT`), reached from `netns`.
pub fn push(cache: &Cache, netns: &str, address: &str) -> Result<()> {
    for (name, path) in archives(cache)? {
        let short = name.split_once('/').map_or(name.as_str(), |(_, rest)| rest);
        let skopeo = which("skopeo").context("skopeo is not installed")?;
        let mut command = process::in_netns(Some(netns), &skopeo);
        command.args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"]);
        run(command.arg(format!("docker-archive:{}", path.display())).arg(format!("docker://{address}/{short}")))?;
    }
    fs::set_permissions(cache.images(), fs::Permissions::from_mode(0o755))?;
    Ok(())
}
