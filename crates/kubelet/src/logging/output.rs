//! Where lines go: everything to stderr, or informational lines to stdout, there with a buffer if one is asked for.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};

use pod::quantity::Quantity;

use crate::config::types::Logging;

/// As upstream bounds it.
const LARGEST: i64 = 2 << 30;

#[derive(Debug)]
pub enum Output {
    Stderr,
    Split,
    Buffered(Arc<Buffer<io::Stdout>>),
}

impl Output {
    /// A buffer has a thread that flushes it; without one there is none.
    pub fn new(config: &Logging) -> Self {
        let routing = if config.format == "json" { &config.options.json } else { &config.options.text };
        if !routing.split_stream {
            return Self::Stderr;
        }
        let size = routing.info_buffer_size.parse::<Quantity>().map_or(0, |size| size.value().clamp(0, LARGEST));
        let Some(size) = usize::try_from(size).ok().filter(|size| *size > 0) else { return Self::Split };
        let buffer = Arc::new(Buffer::new(io::stdout(), size));
        let (flushed, every) = (buffer.clone(), config.flush_frequency.std());
        let flusher = thread::Builder::new().name("log-flush".to_owned()).spawn(move || {
            loop {
                flushed.wait_until_filled();
                thread::sleep(every);
                flushed.flush();
            }
        });
        match flusher {
            Ok(_) => Self::Buffered(buffer),
            Err(_) => Self::Split,
        }
    }

    pub fn write(&self, is_info: bool, line: &str) {
        // A log that cannot be written has nowhere to be complained about.
        let _ = match self {
            Self::Split if is_info => io::stdout().write_all(line.as_bytes()),
            Self::Buffered(buffer) if is_info => buffer.write(line),
            Self::Stderr | Self::Split | Self::Buffered(_) => io::stderr().write_all(line.as_bytes()),
        };
    }

    pub fn flush(&self) {
        if let Self::Buffered(buffer) = self {
            buffer.flush();
        }
    }
}

/// Whole lines, in order, in writes of at most this size where a line is not longer.
#[derive(Debug)]
pub struct Buffer<W> {
    size: usize,
    state: Mutex<State<W>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<W> {
    lines: Vec<u8>,
    to: W,
}

impl<W: Write> Buffer<W> {
    fn new(to: W, size: usize) -> Self {
        Self { size, state: Mutex::new(State { lines: Vec::new(), to }), filled: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self, line: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.lines.len() + line.len() > self.size {
            state.flush()?;
        }
        if line.len() > self.size {
            return state.to.write_all(line.as_bytes());
        }
        if state.lines.is_empty() {
            self.filled.notify_one();
        }
        state.lines.extend_from_slice(line.as_bytes());
        Ok(())
    }

    fn flush(&self) {
        let _ = self.state().flush();
    }

    fn wait_until_filled(&self) {
        let state = self.state();
        drop(self.filled.wait_while(state, |state| state.lines.is_empty()).unwrap_or_else(|e| e.into_inner()));
    }
}

impl<W: Write> State<W> {
    fn flush(&mut self) -> io::Result<()> {
        let written = self.to.write_all(&self.lines);
        self.lines.clear();
        written.and_then(|()| self.to.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(buffer: &Buffer<Vec<u8>>) -> String {
        String::from_utf8(buffer.state().to.clone()).unwrap()
    }

    #[test]
    fn lines_wait_in_the_buffer_until_it_is_full_or_flushed() {
        let buffer = Buffer::new(Vec::new(), 8);
        buffer.write("one\n").unwrap();
        buffer.write("two\n").unwrap();
        assert_eq!(written(&buffer), "");
        buffer.write("3\n").unwrap();
        assert_eq!(written(&buffer), "one\ntwo\n");
        buffer.flush();
        assert_eq!(written(&buffer), "one\ntwo\n3\n");
        buffer.write("4\n").unwrap();
        buffer.write("longer than it\n").unwrap();
        assert_eq!(written(&buffer), "one\ntwo\n3\n4\nlonger than it\n");
        buffer.write("5\n").unwrap();
        buffer.wait_until_filled(); // at once: something is there
    }

    #[test]
    fn a_buffer_is_only_for_a_stream_that_is_split() {
        let mut config = Logging { format: "text".to_owned(), ..Logging::default() };
        config.options.text.info_buffer_size = "1Ki".to_owned();
        assert!(matches!(Output::new(&config), Output::Stderr));
        config.options.text.split_stream = true;
        assert!(matches!(Output::new(&config), Output::Buffered(_)));
        config.options.text.info_buffer_size = "0".to_owned();
        assert!(matches!(Output::new(&config), Output::Split));
    }
}
