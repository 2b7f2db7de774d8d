//! The migrations that this program carries.

use std::borrow::Cow;

use rust_embed::RustEmbed;
use sha2::{Digest, Sha256};

#[derive(RustEmbed)]
#[folder = "migrations/directory"]
struct DirectoryFiles;

#[derive(RustEmbed)]
#[folder = "migrations/shard"]
struct ShardFiles;

/// One of the two kinds of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Schema {
    Directory,
    Shard,
}

/// A step, with the way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub version: i64,
    pub name: String,
    pub up: String,
    pub down: String,
}

impl Migration {
    /// Of the way up: what a database was made by.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.up.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Schema {
    /// The PostgreSQL schema its tables live in.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Shard => "public",
        }
    }

    /// The functions that do for the gateway's role what it may not do itself.
    pub fn functions(self) -> &'static str {
        match self {
            Self::Directory => "audit_trim(interval, bigint)",
            Self::Shard => "audit_of_room(text, timestamptz, uuid, bigint), audit_trim(interval, bigint)",
        }
    }

    /// The folder under `migrations/`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Shard => "shard",
        }
    }

    /// In order. Panics if a file has no name or no counterpart, which a test
    /// holds to be impossible in a built program.
    pub fn migrations(self) -> Vec<Migration> {
        let mut names: Vec<String> = match self {
            Self::Directory => DirectoryFiles::iter().map(Cow::into_owned).collect(),
            Self::Shard => ShardFiles::iter().map(Cow::into_owned).collect(),
        };
        names.sort();
        let ups = names.iter().filter_map(|file| file.strip_suffix(".up.sql"));
        ups.map(|stem| self.migration(stem)).collect()
    }

    /// The version this program needs.
    pub fn latest(self) -> i64 {
        self.migrations().last().map_or(0, |migration| migration.version)
    }

    fn migration(self, stem: &str) -> Migration {
        let (version, name) = stem.split_once('_').expect("migrations are called NNNN_name");
        let version = version.parse().expect("migrations begin with a number");
        let text = |direction: &str| {
            let path = format!("{stem}.{direction}.sql");
            let file = match self {
                Self::Directory => DirectoryFiles::get(&path),
                Self::Shard => ShardFiles::get(&path),
            };
            let file = file.expect("every migration has a way up and a way down");
            String::from_utf8(file.data.into_owned()).expect("migrations are UTF-8")
        };
        Migration { version, name: name.to_owned(), up: text("up"), down: text("down") }
    }
}
