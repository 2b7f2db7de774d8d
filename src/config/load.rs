//! From file, environment and flags to a checked [`Config`].
//!
//! A variable `ROOMGATE__SECTION__KEY` or a flag `--set section.key=value`
//! replaces one value; lists of sections are addressed by index or by name:
//! `ROOMGATE__SHARDS__0__ENDPOINTS__A_1__PASSWORD`. Their text is taken as is,
//! so that a password needs no quoting, and read as a number, boolean or
//! comma-separated list where the key is one.

use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind};
use figment::providers::{Format, Toml};
use figment::value::{Dict, Num, Tag, Value};
use figment::{Profile, Provider};
use serde::Deserialize;

use super::error::explain;
use super::tree::{self, Origins};
use super::{Config, ConfigError, Secret};

const PREFIX: &str = "ROOMGATE__";

/// Where a configuration comes from; later ones win.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file; `*_file` paths in it are relative to the working directory.
    pub file: Option<PathBuf>,
    /// Variables; those without the prefix `ROOMGATE__` are ignored.
    pub environment: Vec<(String, String)>,
    /// Dotted keys with their values.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// With this process's environment.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Result<Self, ConfigError> {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            let value = value.into_string().map_err(|_| ConfigError::one(format!("{name} is not UTF-8")))?;
            environment.push((name.to_owned(), value));
        }
        Ok(Self { file, environment, flags })
    }

    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut root = self.file.as_deref().map_or_else(|| Ok(Dict::new()), read_toml)?;
        let in_file = root.clone();
        let mut origins = Origins::new(self.file.as_ref().map(|file| file.display().to_string()));
        let mut problems = self.apply(&mut root, &mut origins);
        let config = typed(root, &origins, &mut problems);
        let config = config.and_then(|mut config| {
            read_secrets(&mut config, &mut problems);
            super::check::check(&config, &mut problems);
            problems.is_empty().then_some(config)
        });
        config.map(|config| Loaded { config, in_file, origins }).ok_or(ConfigError(problems))
    }

    /// Sets what environment and flags say; answers what could not be set.
    fn apply(&self, root: &mut Dict, origins: &mut Origins) -> Vec<String> {
        let mut variables: Vec<(Vec<String>, &str, &str)> = Vec::new();
        for (name, value) in &self.environment {
            if let Some(key) = name.strip_prefix(PREFIX) {
                variables.push((key.split("__").map(str::to_owned).collect(), value, name));
            }
        }
        // Element 0 before element 1, 2 before 10, and indexes before names, so
        // that an element exists before it is addressed by its name.
        variables.sort_by_key(|(address, ..)| address.iter().map(|s| order_of(s)).collect::<Vec<_>>());
        let mut problems = Vec::new();
        for (address, value, name) in variables {
            if let Err(problem) = tree::set(root, origins, &address, value, name) {
                problems.push(format!("{name}: {problem}"));
            }
        }
        for (key, value) in &self.flags {
            let address: Vec<String> = key.split('.').map(str::to_owned).collect();
            if let Err(problem) = tree::set(root, origins, &address, value, &format!("--set {key}")) {
                problems.push(format!("--set {key}: {problem}"));
            }
        }
        problems
    }
}

fn order_of(segment: &str) -> (usize, String) {
    (segment.parse().unwrap_or(usize::MAX), segment.to_owned())
}

/// A configuration and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    in_file: Dict,
    origins: Origins,
}

impl Loaded {
    /// The file, variable or flag that set the value at `path`, or `default`.
    pub fn origin(&self, path: &[String]) -> &str {
        if let Some(by) = self.origins.set_by(path) {
            return by;
        }
        let mut in_file = self.in_file.clone();
        match (tree::find(&mut in_file, path), self.origins.file()) {
            (Some(_), Some(file)) => file,
            _ => "default",
        }
    }
}

impl Config {
    /// From the text of a file alone; for tests and tools.
    pub fn parse(toml: &str) -> Result<Self, ConfigError> {
        let root = parse_toml(toml, "the text")?;
        let mut problems = Vec::new();
        let config = typed(root, &Origins::default(), &mut problems).map(|mut config| {
            read_secrets(&mut config, &mut problems);
            super::check::check(&config, &mut problems);
            config
        });
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError(problems)),
        }
    }
}

fn read_toml(file: &Path) -> Result<Dict, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| ConfigError::one(format!("can't read {}: {error}", file.display())))?;
    parse_toml(&text, &file.display().to_string())
}

fn parse_toml(text: &str, place: &str) -> Result<Dict, ConfigError> {
    match Toml::string(text).data() {
        Ok(mut profiles) => Ok(profiles.remove(&Profile::Default).unwrap_or_default()),
        // The parser quotes the line, which may hold a password.
        Err(error) => {
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().collect();
            let quoted = |line: &&&str| line.contains('|');
            let said: Vec<&str> = lines.iter().filter(|line| !quoted(line)).map(|line| line.trim()).collect();
            Err(ConfigError::one(format!("{place}: {}", said.join(": "))))
        }
    }
}

/// Reads the tree as a [`Config`]. Texts of the environment and of flags become
/// what their key needs; unknown keys are noted and taken out, so that one run
/// reports them all.
fn typed(mut root: Dict, origins: &Origins, problems: &mut Vec<String>) -> Option<Config> {
    loop {
        let error = match Config::deserialize(&Value::Dict(Tag::Default, root.clone())) {
            Ok(config) => return Some(config),
            Err(error) => error,
        };
        if let Kind::InvalidType(Actual::Str(text), expected) = &error.kind
            && origins.set_by(&error.path).is_some()
            && let Some(value) = read_as(expected, text)
            && let Some(place) = tree::find(&mut root, &error.path)
        {
            *place = value;
            continue;
        }
        problems.push(explain(&error, origins));
        if !matches!(error.kind, Kind::UnknownField(..)) || !tree::remove(&mut root, &error.path) {
            return None;
        }
    }
}

fn read_as(expected: &str, text: &str) -> Option<Value> {
    match expected {
        "a boolean" => text.parse::<bool>().ok().map(Value::from),
        "u16" | "u32" | "u64" | "usize" => {
            text.trim().parse::<u64>().ok().map(|number| Value::Num(Tag::Default, Num::from(number)))
        }
        "f64" => text.trim().parse::<f64>().ok().map(Value::from),
        "a sequence" => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::from(items.map(Value::from).collect::<Vec<_>>()))
        }
        _ => None,
    }
}

/// Reads every `password_file` into its `password`.
fn read_secrets(config: &mut Config, problems: &mut Vec<String>) {
    let endpoints = config.shards.iter_mut().flat_map(|shard| &mut shard.endpoints);
    for endpoint in endpoints.chain(&mut config.directory.endpoints) {
        let name = format!("endpoint {}", endpoint.name);
        read_secret(&name, &mut endpoint.password, endpoint.password_file.as_deref(), problems);
    }
    let redis = &mut config.redis;
    read_secret("redis", &mut redis.password, redis.password_file.as_deref(), problems);
    let migrations = &mut config.migrations;
    read_secret("migrations", &mut migrations.password, migrations.password_file.as_deref(), problems);
}

fn read_secret(name: &str, secret: &mut Option<Secret>, file: Option<&Path>, problems: &mut Vec<String>) {
    let Some(file) = file else { return };
    if secret.is_some() {
        problems.push(format!("{name}: give either password or password_file"));
        return;
    }
    match std::fs::read_to_string(file) {
        // Editors end a file with a newline; a password doesn't.
        Ok(text) => *secret = Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
        Err(error) => problems.push(format!("{name}: can't read {}: {error}", file.display())),
    }
}
