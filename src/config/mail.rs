//! The way to people's mailboxes.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Without `command` and `file` no mail is sent, and passwords can't be reset.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mail {
    /// A program and its arguments, run once for each mail.
    pub command: Vec<String>,
    /// Without a command: mails are appended here, a line each. For development.
    pub file: Option<PathBuf>,
    /// A command that runs longer is killed.
    #[serde(rename = "timeout_ms", with = "super::millis")]
    pub timeout: Duration,
    /// How long the token in a mail is valid.
    #[serde(rename = "token_ms", with = "super::millis")]
    pub token: Duration,
}

impl Default for Mail {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            file: None,
            timeout: Duration::from_secs(30),
            token: Duration::from_secs(3600),
        }
    }
}

impl Mail {
    /// A sentence about a value that can't be used.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let is_named = self.command.first().is_none_or(|program| !program.is_empty());
        if !is_named {
            return Some("mail.command must begin with a program");
        }
        (self.timeout.is_zero() || self.token.is_zero())
            .then_some("mail.timeout_ms and mail.token_ms must be above 0")
    }
}
