//! The command line: one file a verb, each short. What they do is elsewhere.
//!
//! Exit status: 0 done, 1 it failed, 2 it was not asked rightly (arguments,
//! configuration). Data goes to standard output, everything else to standard
//! error.

mod check_config;
mod dev;
mod health;
mod logging;
mod migrate;
mod serve;
mod shards;
mod token;

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, Loaded, Sources};

/// A horizontally scaled realtime gateway for rooms.
#[derive(Debug, Parser)]
#[command(name = "roomgate", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::ServeArgs),
    Dev(dev::DevArgs),
    #[command(subcommand)]
    Migrate(migrate::MigrateVerb),
    CheckConfig(check_config::CheckConfigArgs),
    #[command(subcommand)]
    Token(token::TokenVerb),
    Health(health::HealthArgs),
    #[command(subcommand)]
    Shards(shards::ShardsVerb),
}

/// Where the configuration comes from, for every verb that needs one.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration file; variables ROOMGATE__SECTION__KEY override it
    #[arg(long, value_name = "FILE", env = "ROOMGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Override one key, e.g. pool.max_connections=40 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl ConfigArgs {
    fn load(&self) -> Result<Loaded, Failure> {
        let loaded = Sources::of_process(self.config.clone(), self.set.clone())?.load();
        loaded.map_err(|error| {
            let mut failure = Failure::from(error);
            // What is missing is then mostly the file itself.
            if self.config.is_none() {
                failure.message += "\nno file was named: --config FILE, or ROOMGATE_CONFIG";
            }
            failure
        })
    }
}

/// Why a verb ends with another status than 0. Its text is for a person.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// It was asked rightly and failed.
    fn new(error: impl Display) -> Self {
        Self { status: 1, message: error.to_string() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { status: 2, message: error.to_string() }
    }
}

/// Reads the arguments and does what they say.
pub fn run() -> ExitCode {
    match Cli::parse().verb {
        Verb::Serve(args) => block_on(serve::run(args)),
        Verb::Dev(args) => match runtime() {
            Ok(runtime) => runtime.block_on(dev::run(args)),
            Err(failure) => ended(Err(failure)),
        },
        Verb::Migrate(verb) => block_on(migrate::run(verb)),
        Verb::CheckConfig(args) => block_on(check_config::run(args)),
        Verb::Token(verb) => ended(token::run(verb)),
        Verb::Health(args) => block_on(health::run(args)),
        Verb::Shards(verb) => block_on(shards::run(verb)),
    }
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    ended(runtime().and_then(|runtime| runtime.block_on(work)))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)
}

fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.message.lines() {
                eprintln!("roomgate: {line}");
            }
            ExitCode::from(failure.status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_no_file_is_told_how() {
        let args = |config| ConfigArgs { config, set: vec![("no.such".to_owned(), "1".to_owned())] };
        let told = |config| args(config).load().map(drop).unwrap_err().message;
        assert!(told(None).contains("--config FILE"), "{}", told(None));
        let file = told(Some("config/roomgate.toml".into()));
        assert!(!file.contains("--config FILE"), "{file}");
    }
}
