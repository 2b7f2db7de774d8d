//! Follows the logs of the cluster's processes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// One growing file. It may appear later, and may shrink when it is replaced.
#[derive(Debug)]
pub struct Tail {
    name: String,
    path: PathBuf,
    offset: u64,
    /// The start of a line whose end isn't written yet.
    rest: Vec<u8>,
}

/// Read at once; what is beyond it comes the next time.
const CHUNK_BYTES: u64 = 64 * 1024;
/// A longer line is broken, so that `rest` stays small.
const LINE_BYTES: usize = 8 * 1024;

impl Tail {
    /// Tells only what is written from now on.
    pub fn new(name: &str, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let offset = std::fs::metadata(&path).map_or(0, |found| found.len());
        Self { name: name.to_owned(), path, offset, rest: Vec::new() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lines written since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        // A file that can't be read now may be readable the next time.
        let new = self.read().unwrap_or_default();
        self.offset += new.len() as u64;
        let mut lines = Vec::new();
        for byte in new {
            if byte != b'\n' {
                self.rest.push(byte);
            }
            if byte == b'\n' || self.rest.len() >= LINE_BYTES {
                lines.push(String::from_utf8_lossy(&self.rest).into_owned());
                self.rest.clear();
            }
        }
        lines
    }

    fn read(&mut self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut new = Vec::new();
        file.take(CHUNK_BYTES).read_to_end(&mut new)?;
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::Scratch;

    #[test]
    fn whole_lines_are_told_once_and_also_after_the_file_was_replaced() {
        let scratch = Scratch::new("tail").unwrap();
        let path = scratch.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let mut tail = Tail::new("it", &path);
        std::fs::write(&path, "old\none\ntw").unwrap();
        assert_eq!(tail.lines(), ["one"]);
        std::fs::write(&path, "old\none\ntwo\n").unwrap();
        assert_eq!(tail.lines(), ["two"]);
        assert!(tail.lines().is_empty());
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(tail.lines(), ["new"]);
    }
}
