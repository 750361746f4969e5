//! Memory that is not needed now goes back to the kernel.
//!
//! The only `unsafe` code of the project: the C library's allocator and `madvise` have no safe face.
#![allow(unsafe_code)]

use std::{fs, ops::Range};

/// What the C library's allocator holds for nobody, and the mapping of the program's pages, which come back from the
/// page cache when they are used again.
pub fn give_back() {
    trim_heap();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let program = fs::read_link("/proc/self/exe").unwrap_or_default();
    for pages in unchanged_pages(&smaps, &program.to_string_lossy()) {
        // SAFETY: pages that are mapped from the program's file, that nobody can write to and that nobody has written
        // to so far: the kernel may drop them at any time, and reads them again when they are touched. The program's
        // own mappings stay where they are from before `main` until the end, so the range is still what smaps told.
        unsafe { libc::madvise(pages.start as *mut libc::c_void, pages.len(), libc::MADV_DONTNEED) };
    }
}

#[cfg(target_env = "gnu")]
fn trim_heap() {
    // SAFETY: takes the allocator's own locks and touches only memory that is free.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim_heap() {}

/// Where the program's file is mapped read-only and still is what the file holds. Constants with addresses in them are
/// read-only too, but the loader has written to them.
fn unchanged_pages(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        if let Some(of) = header(line) {
            mapping = (of.path == program && matches!(of.rights, "r-xp" | "r--p")).then_some(of.pages);
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
    fn only_clean_read_only_pages_of_the_program_are_given_back() {
        let found = unchanged_pages(SMAPS, "/usr/bin/the kubelet");
        assert_eq!(found, [0x55d0_c8a0_0000..0x55d0_c8b0_0000, 0x55d0_c8b0_0000..0x55d0_c8c0_0000]);
    }

    #[test]
    fn a_program_without_a_name_gives_nothing_back() {
        assert_eq!(unchanged_pages(SMAPS, "/nowhere"), []);
        assert_eq!(unchanged_pages("", ""), []);
    }

    #[test]
    fn the_program_goes_on_after_it_gave_its_pages_back() {
        let kept = vec![7_u8; 1 << 20];
        give_back();
        assert!(kept.iter().all(|byte| *byte == 7));
    }
}
