//! Logs go to standard error, a line an event. What is logged never holds a
//! token, password, DSN or body; texts of clients are logged escaped (`?name`).

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::Failure;
use crate::config::{Log, LogFormat};

/// What is logged, from now on.
#[derive(Clone)]
pub(super) struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// One that can't be parsed is refused by [`check`].
    pub fn set(&self, filter: &str) {
        let set = parse(filter).map(|filter| self.0.reload(filter));
        if !matches!(set, Ok(Ok(()))) {
            tracing::error!(filter, "the log's filter could not be set");
        }
    }
}

/// For the rest of the process.
pub(super) fn start(log: &Log) -> Result<Filter, Failure> {
    let filter = parse(&log.filter).map_err(|message| Failure { status: 2, message })?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        // Outer spans first: a request, then the session that it opened.
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Pretty => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().map_err(Failure::new)?;
    std::panic::set_hook(Box::new(panicked));
    Ok(Filter(handle))
}

/// Whether [`start`] and [`Filter::set`] take it.
pub(super) fn check(log: &Log) -> Result<(), String> {
    parse(&log.filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("log.filter: {error}"))
}

/// A line like any other, and without the message: it may quote a client.
fn panicked(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    tracing::error!(place, "panicked");
}
