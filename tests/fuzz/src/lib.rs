//! Feeds a parser of untrusted bytes the inputs kept in `corpus/NAME` and mutations of them: none may make it panic.
//!
//! The targets are tests beside the parsers (`grep -rn fuzz::each`). The same inputs come in each run, so that a failure
//! comes again; FUZZ_ROUNDS asks for more of them than the few hundred that a test run takes. An input that broke
//! something is printed, to be kept in the corpus.

use std::{fs, path::PathBuf};

/// Mutations of each kept input.
const ROUNDS: u64 = 200;
/// Mutations make inputs longer, again and again.
const LONGEST: usize = 64 * 1024;

/// Runs `target` on every input of `corpus/NAME` and on mutations of them.
///
/// # Panics
/// When `target` does, and when there is no such corpus.
pub fn each(name: &str, target: impl Fn(&[u8])) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("a readable corpus").path())
        .collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("a readable corpus")).collect();
    each_of(name, &seeds, target);
}

/// The same with inputs that the caller has.
///
/// # Panics
/// When `target` does, and when there are no inputs.
pub fn each_of(name: &str, seeds: &[Vec<u8>], target: impl Fn(&[u8])) {
    assert!(!seeds.is_empty(), "no inputs for {name}");
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    for (index, seed) in seeds.iter().enumerate() {
        run(name, seed, &target);
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ (index as u64 + 1));
        let mut input = seed.clone();
        for round in 0..rounds {
            // Sometimes from the start: what is mutated long enough is no longer like anything.
            if round % 8 == 0 {
                input.clone_from(seed);
            }
            mutate(&mut input, seeds, &mut chance);
            run(name, &input, &target);
        }
    }
}

fn run(name: &str, input: &[u8], target: &impl Fn(&[u8])) {
    let told = Told { name, input };
    target(input);
    std::mem::forget(told);
}

/// Says what the input was when the target panics.
struct Told<'a> {
    name: &'a str,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        eprintln!(
            "this input for {} is to be kept in tests/fuzz/corpus: b\"{}\"",
            self.name,
            self.input.escape_ascii()
        );
    }
}

/// Xorshift: the same numbers each run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}

/// Bytes that parsers look for, numbers at the edges of their types, and text that is not what it seems.
const PIECES: [&[u8]; 24] = [
    b"\0",
    b"\n",
    b"\r\n",
    b" ",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"%",
    b"&",
    b"=",
    b"/../",
    b"-1",
    b"18446744073709551616",
    b"9223372036854775807",
    b"1e999",
    b"\xff\xff\xff\xff",
    b"\xc3\x28",
    "\u{202e}é".as_bytes(),
    b"\x80\x03\x00\x01",
];

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], chance: &mut Chance) {
    let at = chance.below(input.len());
    match chance.below(7) {
        0 if !input.is_empty() => input[at] ^= 1 << chance.below(8),
        1 if !input.is_empty() => input[at] = chance.next() as u8,
        2 => {
            let end = (at + 1 + chance.below(16)).min(input.len());
            input.drain(at.min(end)..end);
        }
        3 => input.truncate(at),
        4 => {
            let piece = PIECES[chance.below(PIECES.len())];
            input.splice(at..at, piece.iter().copied());
        }
        5 => {
            let end = (at + 1 + chance.below(32)).min(input.len());
            let again = input[at.min(end)..end].to_vec();
            input.splice(at..at, again);
        }
        _ => {
            let other = &seeds[chance.below(seeds.len())];
            let from = chance.below(other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
    input.truncate(LONGEST);
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn inputs() -> Vec<Vec<u8>> {
        let seen = RefCell::new(Vec::new());
        each_of("test", &[b"hello world".to_vec(), Vec::new()], |input| seen.borrow_mut().push(input.to_vec()));
        seen.into_inner()
    }

    #[test]
    fn inputs_are_many_and_the_same_each_time() {
        let first = inputs();
        assert_eq!(first, inputs());
        let different: std::collections::BTreeSet<_> = first.iter().collect();
        assert!(different.len() > 150, "{}", different.len());
    }

    #[test]
    #[should_panic(expected = "no inputs")]
    fn a_corpus_without_inputs_is_a_mistake() {
        each_of("test", &[], |_| {});
    }
}
