//! The kernel settings that pods rely on: set at the start or, under protectKernelDefaults, only asked for.

use std::{fs, io, path::Path};

/// Below /proc/sys.
const WANTED: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// What is not permitted is only logged: pods run without it too.
pub(super) fn set() {
    let root = Path::new("/proc/sys");
    for (name, value) in WANTED {
        if read(root, name).is_ok_and(|now| now == value) {
            continue;
        }
        if let Err(error) = fs::write(root.join(name), value) {
            tracing::debug!(%error, setting = name, value, "kernel setting not changed");
        }
    }
}

/// Changes nothing. Err: what differs, all of it.
pub(super) fn check() -> anyhow::Result<()> {
    match differing(Path::new("/proc/sys")) {
        differing if differing.is_empty() => Ok(()),
        differing => anyhow::bail!("protectKernelDefaults: {}", differing.join("; ")),
    }
}

fn differing(root: &Path) -> Vec<String> {
    let fault = |(name, value): &(&str, &str)| {
        let setting = name.replace('/', ".");
        match read(root, name) {
            Ok(now) if now == *value => None,
            Ok(now) => Some(format!("invalid kernel flag: {setting}, expected value: {value}, actual value: {now}")),
            Err(error) => Some(format!("kernel flag {setting} can't be read: {error}")),
        }
    };
    WANTED.iter().filter_map(fault).collect()
}

fn read(root: &Path, name: &str) -> io::Result<String> {
    fs::read_to_string(root.join(name)).map(|now| now.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_differs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in WANTED {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{value}\n")).unwrap();
        }
        assert_eq!(differing(dir.path()), Vec::<String>::new());
        fs::write(dir.path().join("vm/overcommit_memory"), "0\n").unwrap();
        fs::remove_file(dir.path().join("kernel/panic")).unwrap();
        let [overcommit, panic] = &differing(dir.path())[..] else { panic!("two differ") };
        assert_eq!(overcommit, "invalid kernel flag: vm.overcommit_memory, expected value: 1, actual value: 0");
        assert!(panic.starts_with("kernel flag kernel.panic can't be read"));
    }
}
