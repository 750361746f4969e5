//! Memory that is not needed now goes back to the kernel.
//!
//! The only `unsafe` code of the project: the C library's allocator and `madvise` have no safe face.
#![allow(unsafe_code)]

use std::{fs, ops::Range};
#[cfg(target_env = "gnu")]
use std::{os::unix::process::CommandExt, process::Command};

/// The kernel maps up to 64 KiB around a page that is touched, as far as one mapping goes. Parts of this size are
/// mappings of their own, so that less is mapped that is not used.
const PART: usize = 16 << 10;

/// Pages of the program's file and of its libraries that come back from the page cache when they are used again.
pub struct Program {
    unchanged: Vec<Range<usize>>,
}

impl Program {
    /// Of the running program; to be called before anything is loaded that may be unloaded again.
    pub fn running() -> Self {
        let unchanged = unchanged_pages(&fs::read_to_string("/proc/self/smaps").unwrap_or_default());
        for pages in unchanged.iter().flat_map(every_other) {
            // SAFETY: what is left out of a dump of the process changes no memory. (A dump holds no pages of files; the
            // kernel just keeps apart what differs in this.)
            unsafe { libc::madvise(pages.start as *mut libc::c_void, pages.len(), libc::MADV_DONTDUMP) };
        }
        Self { unchanged }
    }

    /// Gives back these pages, and what the C library's allocator holds for nobody.
    pub fn give_back(&self) {
        trim_heap();
        for pages in &self.unchanged {
            // SAFETY: pages that are mapped from a file, that nobody can write to and that nobody has written to: the
            // kernel may drop them at any time, and reads them again when they are touched. The program and its
            // libraries stay where they are from before `main` until the end.
            unsafe { libc::madvise(pages.start as *mut libc::c_void, pages.len(), libc::MADV_DONTNEED) };
        }
    }
}

/// What the C library reads when a program starts, and at no other time.
#[cfg(target_env = "gnu")]
const TUNABLES: &str = "GLIBC_TUNABLES";
#[cfg(target_env = "gnu")]
const NO_THREAD_CACHES: &str = "glibc.malloc.tcache_count=0";

/// Starts the program anew, in the same process, with an allocator that keeps nothing freed for the thread that freed
/// it: what lies in such caches holds whole pages. To be called before there are threads. Settings of the operator's
/// are left alone, and where the program can't be started anew it goes on as it is.
#[cfg(target_env = "gnu")]
pub fn without_thread_caches() {
    match std::env::var_os(TUNABLES) {
        // Made a moment ago. SAFETY: there is one thread. Programs that this one starts are not to inherit it.
        Some(set) if set == NO_THREAD_CACHES => unsafe { std::env::remove_var(TUNABLES) },
        Some(_) => {}
        None => {
            let mut args = std::env::args_os();
            let (Some(name), Ok(program)) = (args.next(), std::env::current_exe()) else { return };
            let _ = Command::new(program).arg0(name).args(args).env(TUNABLES, NO_THREAD_CACHES).exec();
        }
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn without_thread_caches() {}

/// To be called before there are threads. The allocator else makes a heap for each of them, and what one thread frees
/// does not help another.
#[cfg(target_env = "gnu")]
pub fn share_one_heap() {
    // SAFETY: sets a number that the allocator reads when a thread asks for memory for the first time.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(target_env = "gnu"))]
pub fn share_one_heap() {}

/// Not the first part, by whose beginning a dump tells which file it was.
fn every_other(pages: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = pages.end;
    (pages.start + PART..end).step_by(2 * PART).map(move |start| start..(start + PART).min(end))
}

#[cfg(target_env = "gnu")]
fn trim_heap() {
    // SAFETY: takes the allocator's own locks and touches only memory that is free.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_heap() {}

/// Where files are mapped read-only and are still what the files hold. Constants with addresses in them are read-only
/// too, but the loader has written to them.
fn unchanged_pages(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        if let Some(of) = header(line) {
            mapping = (of.path.starts_with('/') && matches!(of.rights, "r-xp" | "r--p")).then_some(of.pages);
        } else if line.strip_prefix("Anonymous:").is_some_and(|kib| kib.trim() == "0 kB") {
            found.extend(mapping.take());
        }
    }
    found
}

struct Header<'a> {
    pages: Range<usize>,
    rights: &'a str,
    path: &'a str,
}

/// `55d0c8a00000-55d0c8b00000 r-xp 00100000 fe:00 1234    /usr/bin/kubelet`
fn header(line: &str) -> Option<Header<'_>> {
    let (pages, rest) = line.split_once(' ')?;
    let (start, end) = pages.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let mut fields = rest.splitn(5, ' ');
    let rights = fields.next()?;
    let path = fields.nth(3).unwrap_or_default().trim_start();
    Some(Header { pages: address(start)?..address(end)?, rights, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c8a00000-55d0c8b00000 r--p 00000000 fe:00 1234                       /usr/bin/the kubelet
Rss:                1024 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55d0c8b00000-55d0c8c00000 r-xp 00100000 fe:00 1234                       /usr/bin/the kubelet
Anonymous:             0 kB
55d0c8c00000-55d0c8d00000 r--p 00200000 fe:00 1234                       /usr/bin/the kubelet
Anonymous:           512 kB
55d0c8d00000-55d0c8e00000 rw-p 00300000 fe:00 1234                       /usr/bin/the kubelet
Anonymous:             0 kB
7f0000000000-7f0000100000 r-xp 00000000 fe:00 99                         /usr/lib/libc.so.6
Anonymous:             0 kB
7f0000100000-7f0000200000 rw-p 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn only_clean_read_only_pages_of_files_are_given_back() {
        let program = [0x55d0_c8a0_0000..0x55d0_c8b0_0000, 0x55d0_c8b0_0000..0x55d0_c8c0_0000];
        let library = 0x7f00_0000_0000..0x7f00_0010_0000;
        assert_eq!(unchanged_pages(SMAPS), [&program[..], &[library]].concat());
        assert_eq!(unchanged_pages(""), []);
    }

    #[test]
    fn a_mapping_is_cut_into_parts_but_for_its_beginning() {
        let parts: Vec<_> = every_other(&(0x10_0000..0x10_0000 + 4 * PART + 0x1000)).collect();
        assert_eq!(parts, [0x10_4000..0x10_8000, 0x10_c000..0x11_0000]);
        assert_eq!(every_other(&(0x10_0000..0x10_1000)).count(), 0);
    }

    #[test]
    fn the_program_goes_on_after_it_gave_its_pages_back() {
        let kept = vec![7_u8; 1 << 20];
        Program::running().give_back();
        assert!(kept.iter().all(|byte| *byte == 7));
    }
}
