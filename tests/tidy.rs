//! The rules of the source that no compiler holds: which module may import which,
//! which module may name which crate, names, lengths and headers.

#![allow(clippy::unwrap_used, reason = "a test, down to its vocabulary")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A module may import only from earlier lines, and from itself.
const ORDER: [&str; 24] = [
    "ids position clock digests",
    "protocol",
    "config",
    "metrics tls",
    "tasks planted memory",
    "traces",
    "placement",
    "log",
    "db",
    "routing",
    "store",
    "directory",
    "auth limits mail",
    "bus",
    "room",
    "session",
    "http",
    "jobs",
    "databases",
    "moves",
    "dev reload",
    "node",
    "cli fuzz",
    "lib main",
];

/// Imports that the order would allow and the architecture does not.
const NEVER: [(&str, &[&str]); 5] = [
    ("protocol", &["tasks", "metrics", "config"]),
    ("log", &["tasks", "metrics", "config"]),
    ("room", &["db"]),
    ("auth", &["db", "routing", "store", "directory"]),
    ("limits", &["db", "routing", "store", "directory"]),
];

/// What only these modules may name.
const OWNERS: [(&str, &[&str]); 27] = [
    ("rustls::", &["tls", "db"]),
    ("tokio_postgres_rustls::", &["db"]),
    ("rustls_native_certs::", &["tls"]),
    ("fred::", &["bus"]),
    ("consistent_hash::", &["placement"]),
    ("tokio_postgres::", &["db", "dev"]),
    ("bb8::", &["db"]),
    ("bb8_postgres::", &["db"]),
    ("use metrics::", &["metrics"]),
    ("metrics_exporter_prometheus::", &["metrics"]),
    ("tokio_tungstenite::", &["session", "dev"]),
    ("axum::", &["http", "session"]),
    ("argon2::", &["auth"]),
    ("bcrypt::", &["auth"]),
    ("jsonwebtoken::", &["auth"]),
    ("governor::", &["limits"]),
    ("figment::", &["config"]),
    ("clap::", &["cli"]),
    ("indicatif::", &["cli"]),
    ("tracing_subscriber::", &["cli"]),
    ("opentelemetry::", &["traces"]),
    ("opentelemetry_http::", &["traces"]),
    ("opentelemetry_otlp::", &["traces"]),
    ("opentelemetry_sdk::", &["traces"]),
    ("tokio::spawn", &["tasks"]),
    ("std::env::var", &["config", "planted"]),
    ("unbounded_channel", &[]),
];

/// Pure modules: functions from state to decision.
const PURE: [&str; 6] = ["ids", "position", "digests", "protocol", "placement", "log"];
const IMPURE: [&str; 5] = ["tokio::", "std::fs", "std::net", "std::env", "Instant::now"];

const BANNED_NAMES: [&str; 9] =
    ["utils", "util", "common", "manager", "helper", "helpers", "types", "misc", "shared"];
const FILE_MAX: usize = 450;

/// A file of `src/`.
struct File {
    /// Below `src/`.
    path: PathBuf,
    text: String,
    /// Without comments and tests.
    code: String,
    is_test: bool,
}

impl File {
    /// The top-level module it belongs to.
    fn module(&self) -> String {
        let first = self.path.components().next().unwrap().as_os_str().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files() -> Vec<File> {
    let src = root().join("src");
    let mut paths = Vec::new();
    collect(&src, &mut paths);
    assert!(paths.len() > 20, "the source was not found");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&src).unwrap().to_owned();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let in_tests = path.components().any(|part| part.as_os_str() == "tests");
        let is_test = stem == "tests" || stem.ends_with("_tests") || in_tests;
        File { code: code_of(&text), text, is_test, path }
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Drops comment lines, and tests, which stand at a file's end.
fn code_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    let code = &lines[..tests.unwrap_or(lines.len())];
    code.iter().filter(|line| !line.trim_start().starts_with("//")).fold(String::new(), |mut all, line| {
        writeln!(all, "{line}").unwrap();
        all
    })
}

/// The top-level modules that `code` names by `crate::`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if rest.starts_with('{') {
            found.extend(group(rest));
        } else {
            found.push(identifier(rest));
        }
    }
    found
}

/// The first names of `{a::B, c::{D, E}}`.
fn group(text: &str) -> Vec<String> {
    let (mut depth, mut names, mut expects) = (0, Vec::new(), false);
    for (at, character) in text.char_indices() {
        match character {
            '{' => {
                depth += 1;
                expects = depth == 1;
            }
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => expects = true,
            c if c.is_alphabetic() && depth == 1 && expects => {
                names.push(identifier(&text[at..]));
                expects = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|line| line.split(' ').any(|each| each == module))
}

fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn modules_import_only_from_those_above_them() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| !file.is_test) {
        let (module, path) = (file.module(), file.path.display());
        let Some(own) = rank(&module) else {
            problems.push(format!("{path}: the module {module} has no place in ORDER"));
            continue;
        };
        for other in imports(&file.code) {
            let forbidden = NEVER.iter().any(|(m, never)| *m == module && never.contains(&other.as_str()));
            match rank(&other) {
                Some(rank) if other == module || (rank < own && !forbidden) => {}
                Some(_) => problems.push(format!("{path}: {module} may not import {other}")),
                // A macro or a constant of the crate's root.
                None => {}
            }
        }
    }
    none(problems);
}

#[test]
fn crates_are_named_only_by_their_owners() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| !file.is_test) {
        let module = file.module();
        for (name, owners) in OWNERS {
            if names(&file.code, name) && !owners.contains(&module.as_str()) {
                problems.push(format!("{}: only {owners:?} may name {name}", file.path.display()));
            }
        }
        for name in IMPURE {
            if PURE.contains(&module.as_str()) && names(&file.code, name) {
                problems.push(format!("{}: {module} is pure and may not name {name}", file.path.display()));
            }
        }
    }
    none(problems);
}

/// Whether `name` occurs as a path of its own, not as the end of another.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn files_are_short_named_and_introduced() {
    let mut problems = Vec::new();
    for file in files() {
        let path = file.path.display();
        let lines = file.text.lines().count();
        if lines > FILE_MAX {
            problems.push(format!("{path}: {lines} lines, {FILE_MAX} at most; split it by what it does"));
        }
        for part in file.path.components() {
            let name = part.as_os_str().to_str().unwrap().trim_end_matches(".rs");
            if BANNED_NAMES.contains(&name) {
                problems.push(format!("{path}: {name} says nothing about what is in it"));
            }
        }
        if !file.is_test && !file.text.starts_with("//!") {
            problems.push(format!("{path}: begins without saying what it owns"));
        }
        for mark in ["TODO", "FIXME", "XXX"] {
            if file.text.contains(mark) {
                problems.push(format!("{path}: {mark}"));
            }
        }
    }
    none(problems);
}

#[test]
fn these_checks_see_what_they_look_for() {
    assert_eq!(imports("use crate::db::Sql;\nlet x = crate::ids::RoomId::random();"), ["db", "ids"]);
    assert_eq!(imports("use crate::{config, log::{self, Event}, room::Hub};"), ["config", "log", "room"]);
    assert!(names("use tokio_postgres::Row;", "tokio_postgres::"));
    assert!(!names("use crate::fred::x;", "fred::") && !names("alfred::x()", "fred::"));
    let code = code_of("fn a() {}\n// fred::x\n#[cfg(test)]\nmod tests {\n use fred::x;\n}\n");
    assert_eq!(code, "fn a() {}\n");
}
