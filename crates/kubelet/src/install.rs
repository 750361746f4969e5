//! `kubelet install`: puts the running program in the place of a node's kubelet, from a container that has the node's
//! file system mounted (deploy/daemonset.yaml) or by hand; `--restore` brings back what was there before.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use host::beneath::Dir;
use rustix::fs::{AtFlags, FileType, Mode, fsync, linkat};
use tokio::signal::unix::{SignalKind, signal};
use unit::Unit;

#[cfg(test)]
mod package;
mod unit;

const USAGE: &str = "\
usage: kubelet install [FLAGS]

Puts this program in the place of a node's kubelet. What was there stays beside it, as kubelet.previous. Containers go
on while the agent is exchanged. A second run finds that all is done and changes nothing.

  --root DIR       where the node's file system is mounted (default /)
  --path FILE      the program in it (default /usr/bin/kubelet)
  --restart UNIT   restarts this unit of the node's systemd unless it runs the program in place already, and waits until
                   it does; if it does not, the program before is put back. A unit that starts another file is refused
  --restore        puts back what was there before the first installation
  --stay           goes on until it gets a signal, as the container of a DaemonSet must
";
/// More than twice upstream's.
const LARGEST: u64 = 256 << 20;
const PROGRAM: Mode = Mode::from_raw_mode(0o755);

#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    root: PathBuf,
    path: PathBuf,
    restart: Option<String>,
    restore: bool,
    stay: bool,
}

/// `args`: what follows `install`. Prints what it does.
pub fn run(args: &[String]) -> Result<()> {
    let Some(wanted) = parse(args)? else {
        print!("{USAGE}");
        return Ok(());
    };
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    executor.block_on(async {
        install(&wanted).await?;
        if wanted.stay {
            let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        }
        Ok(())
    })
}

async fn install(wanted: &Wanted) -> Result<()> {
    let place = Place::open(&wanted.root, &wanted.path)?;
    let unit = match &wanted.restart {
        Some(name) => Some(Unit::open(&wanted.root, name, &wanted.path).await?),
        None => None,
    };
    let done = if wanted.restore { place.restore()? } else { place.put(&std::fs::read("/proc/self/exe")?)? };
    println!("{done}");
    if let Some(unit) = unit {
        match unit.run_program().await {
            Ok(runs) => println!("{runs}"),
            Err(error) if !wanted.restore && place.undo()? => {
                let started = unit.restart().await;
                started.with_context(|| format!("{error:#}; the program before is in place again, but not started"))?;
                let failed = place.failed.display();
                return Err(error.context(format!(
                    "the program before is in place again and was restarted; {failed} is the one that did not run"
                )));
            }
            Err(error) => return Err(error),
        }
    }
    place.settle()
}

/// None where help is asked for.
fn parse(args: &[String]) -> Result<Option<Wanted>> {
    let mut wanted =
        Wanted { root: "/".into(), path: "/usr/bin/kubelet".into(), restart: None, restore: false, stay: false };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{arg} lacks its value\n\n{USAGE}"));
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--root" => wanted.root = value()?.into(),
            "--path" => wanted.path = value()?.into(),
            "--restart" => wanted.restart = Some(value()?),
            "--restore" => wanted.restore = true,
            "--stay" => wanted.stay = true,
            other => bail!("{other:?} is no flag of this command\n\n{USAGE}"),
        }
    }
    let plain = wanted.path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    ensure!(
        wanted.path.is_absolute() && plain && wanted.path.file_name().is_some(),
        "--path {} is not the absolute path of a file",
        wanted.path.display()
    );
    Ok(Some(wanted))
}

/// The directory of the node's kubelet, and the names in it.
struct Place {
    dir: Dir,
    name: PathBuf,
    /// What was there before the first installation.
    previous: PathBuf,
    new: PathBuf,
    /// What comes back if the new program does not run.
    replaced: PathBuf,
    /// A program that did not run here.
    failed: PathBuf,
}

impl Place {
    /// `path`: as the node sees it. Links are not followed: an absolute one would lead out of the node's root.
    fn open(root: &Path, path: &Path) -> Result<Self> {
        let parent = path.parent().and_then(|p| p.strip_prefix("/").ok()).unwrap_or(Path::new(""));
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let dir = Dir::open(root)?.open_dir(parent)?;
        let name = PathBuf::from(path.file_name().unwrap_or_default());
        let [previous, new, replaced, failed] =
            [".previous", ".new", ".replaced", ".failed"].map(|ending| beside(&name, ending));
        Ok(Self { dir, name, previous, new, replaced, failed })
    }

    /// At any moment the name leads to the old program or to the new one.
    fn put(&self, program: &[u8]) -> Result<String> {
        let shown = self.dir.path().join(&self.name);
        if self.is(&self.name, program)? {
            return Ok(format!("{} is this program already", shown.display()));
        }
        // Else the container of a DaemonSet, which is started again, would take the agent down again and again.
        ensure!(
            !self.is(&self.failed, program)?,
            "this program did not run here before; remove {} to try it once more",
            self.dir.path().join(&self.failed).display()
        );
        let before = self.size_of(&self.name)?;
        // What is kept is not an older ferrolet.
        let keeps = before.is_some() && !is_ours(&self.dir.read(&self.name, LARGEST)?);
        if keeps {
            self.keep(&self.previous)?;
        }
        // One that is there is of a run that was cut off: what is in place since has not proved itself.
        if before.is_some() && self.size_of(&self.replaced)?.is_none() {
            self.keep(&self.replaced)?;
        }
        // Of a run that was cut off.
        self.forget(&self.new)?;
        self.dir.create(&self.new, program, PROGRAM)?.sync_all()?;
        self.dir.rename(&self.new, &self.name)?;
        fsync(&self.dir)?;
        let kept = if keeps { format!("; the one before is {}", self.previous.display()) } else { String::new() };
        Ok(format!("{} is now this program{kept}", shown.display()))
    }

    /// A second name for the program that is in place.
    fn keep(&self, name: &Path) -> Result<()> {
        self.forget(name)?;
        linkat(&self.dir, &self.name, &self.dir, name, AtFlags::empty())
            .with_context(|| format!("can't keep the program before as {}", name.display()))
    }

    fn forget(&self, name: &Path) -> Result<()> {
        if self.size_of(name)?.is_some() {
            self.dir.unlink(name)?;
        }
        Ok(())
    }

    /// False where nothing was there before.
    fn undo(&self) -> Result<bool> {
        if self.size_of(&self.replaced)?.is_none() {
            return Ok(false);
        }
        self.keep(&self.failed)?;
        self.dir.rename(&self.replaced, &self.name)?;
        let inode = |name: &Path| self.dir.lstat(name).map(|found| found.st_ino).ok();
        if inode(&self.previous) == inode(&self.name) {
            self.dir.unlink(&self.previous)?;
        }
        fsync(&self.dir)?;
        Ok(true)
    }

    /// What is in place stays.
    fn settle(&self) -> Result<()> {
        self.forget(&self.replaced)?;
        self.forget(&self.failed)
    }

    fn restore(&self) -> Result<String> {
        let shown = self.dir.path().join(&self.name);
        if self.size_of(&self.previous)?.is_none() {
            return Ok(format!("{} has nothing before it to be restored", shown.display()));
        }
        self.dir.rename(&self.previous, &self.name)?;
        // An installation that was cut off leaves two names of one file, which are not renamed.
        self.forget(&self.previous)?;
        fsync(&self.dir)?;
        Ok(format!("{} is again what it was", shown.display()))
    }

    fn is(&self, name: &Path, program: &[u8]) -> Result<bool> {
        Ok(self.size_of(name)? == Some(program.len() as u64) && self.dir.read(name, LARGEST)? == program)
    }

    /// None where there is nothing; an error for what is no file.
    fn size_of(&self, name: &Path) -> Result<Option<u64>> {
        match self.dir.lstat(name) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => {
                Ok(Some(u64::try_from(found.st_size)?))
            }
            Ok(_) => {
                bail!("{} is no regular file; give its real place by --path", self.dir.path().join(name).display())
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a program is ferrolet, of whatever version: it names itself.
fn is_ours(program: &[u8]) -> bool {
    let name = concat!("usage: kubelet ", "install [FLAGS]").as_bytes();
    program.windows(name.len()).any(|window| window == name)
}

fn beside(name: &Path, ending: &str) -> PathBuf {
    let mut name = name.as_os_str().to_owned();
    name.push(std::ffi::OsStr::from_bytes(ending.as_bytes()));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn node() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        (root, bin)
    }

    fn place(root: &tempfile::TempDir) -> Place {
        Place::open(root.path(), Path::new("/usr/bin/kubelet")).unwrap()
    }

    #[test]
    fn the_first_program_is_kept_through_all_later_ones_and_comes_back() {
        let (root, bin) = node();
        fs::write(bin.join("kubelet"), "upstream").unwrap();
        fs::write(bin.join("kubelet.new"), "of a run that was cut off").unwrap();
        let (ours, newer) = (format!("ferrolet {USAGE}"), format!("ferrolet 2 {USAGE}"));
        assert!(place(&root).put(ours.as_bytes()).unwrap().contains("is now this program; the one before"));
        assert!(place(&root).put(newer.as_bytes()).unwrap().ends_with("is now this program"));
        assert_eq!(fs::read_to_string(bin.join("kubelet")).unwrap(), newer);
        assert_eq!(fs::read(bin.join("kubelet.previous")).unwrap(), b"upstream");
        assert!(!bin.join("kubelet.new").exists());
        assert!(place(&root).restore().unwrap().contains("again what it was"));
        assert_eq!(fs::read(bin.join("kubelet")).unwrap(), b"upstream");
        assert!(place(&root).restore().unwrap().contains("nothing before it"));
    }

    #[test]
    fn what_another_package_put_there_since_is_what_comes_back() {
        let (root, bin) = node();
        fs::write(bin.join("kubelet"), "upstream 1").unwrap();
        place(&root).put(USAGE.as_bytes()).unwrap();
        fs::write(bin.join("kubelet"), "upstream 2").unwrap();
        place(&root).put(USAGE.as_bytes()).unwrap();
        place(&root).restore().unwrap();
        assert_eq!(fs::read(bin.join("kubelet")).unwrap(), b"upstream 2");
    }

    #[test]
    fn an_installation_that_was_cut_off_leaves_nothing_that_confuses() {
        let (root, bin) = node();
        fs::write(bin.join("kubelet"), "upstream").unwrap();
        fs::hard_link(bin.join("kubelet"), bin.join("kubelet.previous")).unwrap();
        place(&root).restore().unwrap();
        assert_eq!(fs::read(bin.join("kubelet")).unwrap(), b"upstream");
        assert!(!bin.join("kubelet.previous").exists());
    }

    #[test]
    fn a_program_that_does_not_run_makes_way_for_the_one_before_and_is_not_tried_again() {
        let (root, bin) = node();
        let is = |name: &str, text: &str| fs::read_to_string(bin.join(name)).is_ok_and(|found| found == text);
        let (ours, broken) = (format!("ferrolet {USAGE}"), format!("broken {USAGE}"));
        fs::write(bin.join("kubelet"), "upstream").unwrap();
        place(&root).put(broken.as_bytes()).unwrap();
        assert!(place(&root).undo().unwrap());
        assert!(is("kubelet", "upstream") && is("kubelet.failed", &broken) && !bin.join("kubelet.previous").exists());
        assert!(place(&root).put(broken.as_bytes()).unwrap_err().to_string().contains("remove"));
        assert!(is("kubelet", "upstream"));

        // Another one may be, and what comes back after it is no longer the first.
        place(&root).put(ours.as_bytes()).unwrap();
        place(&root).settle().unwrap();
        assert!(!bin.join("kubelet.failed").exists() && !bin.join("kubelet.replaced").exists());
        assert!(!place(&root).undo().unwrap());
        place(&root).put(broken.as_bytes()).unwrap();
        assert!(place(&root).undo().unwrap());
        assert!(is("kubelet", &ours) && is("kubelet.previous", "upstream"));
    }

    #[test]
    fn what_comes_back_after_a_run_that_was_cut_off_is_what_did_run() {
        let (root, bin) = node();
        fs::write(bin.join("kubelet"), "upstream").unwrap();
        place(&root).put(format!("unproved {USAGE}").as_bytes()).unwrap();
        place(&root).put(format!("next {USAGE}").as_bytes()).unwrap();
        assert!(place(&root).undo().unwrap());
        assert_eq!(fs::read(bin.join("kubelet")).unwrap(), b"upstream");
    }

    #[test]
    fn a_second_run_changes_nothing() {
        let (root, bin) = node();
        place(&root).put(b"ferrolet").unwrap();
        let made = fs::metadata(bin.join("kubelet")).unwrap().modified().unwrap();
        assert!(place(&root).put(b"ferrolet").unwrap().contains("already"));
        assert_eq!(fs::metadata(bin.join("kubelet")).unwrap().modified().unwrap(), made);
        assert!(!bin.join("kubelet.previous").exists());
    }

    #[test]
    fn a_link_in_the_place_of_the_program_is_refused() {
        let (root, bin) = node();
        std::os::unix::fs::symlink("/elsewhere/kubelet", bin.join("kubelet")).unwrap();
        assert!(place(&root).put(b"ferrolet").unwrap_err().to_string().contains("no regular file"));
    }

    #[test]
    fn flags_are_read_and_wrong_ones_named() {
        let all =
            parse(&args("--root /host --path /opt/bin/kubelet --restart kubelet.service --stay")).unwrap().unwrap();
        assert_eq!((all.root.as_path(), all.path.as_path()), (Path::new("/host"), Path::new("/opt/bin/kubelet")));
        assert_eq!((all.restart.as_deref(), all.restore, all.stay), (Some("kubelet.service"), false, true));
        for wrong in ["--path ../x", "--path /", "--path /usr/../kubelet", "--root", "--rot /"] {
            assert!(parse(&args(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(parse(&args("--help")).unwrap(), None);
    }
}
