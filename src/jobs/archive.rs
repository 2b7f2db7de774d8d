//! A file of events, a line each, compressed. It has its name only when it is
//! whole and on the disk.

use std::io::{self, Write};
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use crate::position::Seq;

pub(super) struct Archive {
    file: File,
    encoder: GzEncoder<Vec<u8>>,
    folder: PathBuf,
    part: PathBuf,
    path: PathBuf,
}

impl Archive {
    /// `<folder>/<from>-<to>.ndjson.gz`, padded so that names sort as seqs do.
    pub async fn create(folder: PathBuf, from: Seq, to: Seq) -> io::Result<Self> {
        fs::create_dir_all(&folder).await?;
        let path = folder.join(format!("{:012}-{:012}.ndjson.gz", from.0, to.0));
        // Another node may be at the same.
        let part = path.with_extension(format!("part-{:016x}", rand::random::<u64>()));
        let file = File::create(&part).await?;
        let encoder = GzEncoder::new(Vec::new(), Compression::default());
        Ok(Self { file, encoder, folder, part, path })
    }

    pub fn line(&mut self, json: &str) -> io::Result<()> {
        self.encoder.write_all(json.as_bytes())?;
        self.encoder.write_all(b"\n")
    }

    /// Hands on what has been compressed, so that it doesn't grow in memory.
    pub async fn flush(&mut self) -> io::Result<()> {
        let compressed = std::mem::take(self.encoder.get_mut());
        self.file.write_all(&compressed).await
    }

    pub async fn finish(mut self) -> io::Result<PathBuf> {
        let rest = self.encoder.finish()?;
        self.file.write_all(&rest).await?;
        self.file.sync_all().await?;
        fs::rename(&self.part, &self.path).await?;
        File::open(&self.folder).await?.sync_all().await?;
        Ok(self.path)
    }

    pub async fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.part).await
    }
}
