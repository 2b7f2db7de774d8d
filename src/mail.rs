//! Mail to people, by the operator's own mailer: a command that is given one JSON
//! object on its standard input. For development: a file with a line for each mail.
//!
//! A secret is never an argument of the command, since other users of the machine can
//! read arguments. The command inherits no variables of the environment, since these
//! may hold passwords of databases.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::clock::UnixMillis;
use crate::config;
use crate::protocol::ObjectWriter;

/// Mails at a time, and mails that wait.
const AT_ONCE: usize = 4;
const WAITING: usize = 256;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A mail with a token that sets a new password.
#[derive(Debug)]
pub struct PasswordReset<'a> {
    pub to: &'a str,
    pub name: &'a str,
    pub token: &'a str,
    pub expires_at: UnixMillis,
}

#[derive(Debug, Error)]
pub enum MailError {
    #[error("the mail command failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("the mail command ended with {0}")]
    Status(std::process::ExitStatus),
    #[error("the mail command took longer than mail.timeout_ms")]
    Timeout,
    #[error("the node stops")]
    Stops,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    config: Arc<config::Mail>,
    places: Arc<Semaphore>,
    senders: Arc<Semaphore>,
}

impl Mailer {
    /// None if no mail is configured.
    pub fn new(config: &config::Mail) -> Option<Self> {
        let is_configured = config.file.is_some() || !config.command.is_empty();
        is_configured.then(|| Self {
            config: Arc::new(config.clone()),
            places: Arc::new(Semaphore::new(WAITING)),
            senders: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// A place among the mails that wait, if one is free.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    pub fn token_lifetime(&self) -> std::time::Duration {
        self.config.token
    }

    /// # Errors
    /// The command could not be run, failed, or took too long.
    pub async fn send(&self, mail: &PasswordReset<'_>) -> Result<(), MailError> {
        let _sender = self.senders.acquire().await.map_err(|_| MailError::Stops)?;
        let mut text = ObjectWriter::object(256)
            .string("kind", "password_reset")
            .string("to", mail.to)
            .string("name", mail.name)
            .string("token", mail.token)
            .number("expires_at", mail.expires_at.0)
            .end();
        text.push('\n');
        match &self.config.file {
            Some(file) if self.config.command.is_empty() => append(file, text.as_bytes()).await,
            _ => timeout(self.config.timeout, self.run(text.as_bytes()))
                .await
                .unwrap_or(Err(MailError::Timeout)),
        }
    }

    async fn run(&self, text: &[u8]) -> Result<(), MailError> {
        let (program, arguments) = self.config.command.split_first().ok_or(MailError::Stops)?;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text).await?;
        }
        let status = child.wait().await?;
        if status.success() { Ok(()) } else { Err(MailError::Status(status)) }
    }
}

/// The file holds secrets: its owner alone may read it.
async fn append(file: &Path, text: &[u8]) -> Result<(), MailError> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let mut file = tokio::fs::OpenOptions::from(options).open(file).await?;
    file.write_all(text).await?;
    Ok(file.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_command(command: &[&str], timeout: std::time::Duration) -> Mailer {
        let command = command.iter().map(|&part| part.to_owned()).collect();
        Mailer::new(&config::Mail { command, timeout, ..config::Mail::default() }).unwrap()
    }

    const MAIL: PasswordReset<'_> =
        PasswordReset { to: "a@x.test", name: "\"Ann\"\n", token: "abc", expires_at: UnixMillis(5) };

    #[tokio::test]
    async fn a_command_gets_one_line_of_json_and_no_variables() {
        let second = std::time::Duration::from_secs(10);
        let line =
            r#"{"kind":"password_reset","to":"a@x.test","name":"\"Ann\"\n","token":"abc","expires_at":5}"#;
        let script = format!("test \"$(cat)\" = '{line}' && test -z \"$CARGO_MANIFEST_DIR\"");
        by_command(&["sh", "-c", &script], second).send(&MAIL).await.unwrap();
        let failed = by_command(&["sh", "-c", "exit 3"], second).send(&MAIL).await;
        assert!(failed.is_err());
        assert!(by_command(&["/no/such/mailer"], second).send(&MAIL).await.is_err());
        assert!(Mailer::new(&config::Mail::default()).is_none());
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed() {
        let short = std::time::Duration::from_millis(200);
        let hung = by_command(&["sleep", "600"], short).send(&MAIL).await;
        assert!(matches!(hung, Err(MailError::Timeout)), "{hung:?}");
    }

    #[tokio::test]
    async fn mails_that_wait_are_bounded() {
        let mailer = by_command(&["true"], std::time::Duration::from_secs(1));
        let places: Vec<_> = std::iter::from_fn(|| mailer.place()).collect();
        assert_eq!(places.len(), WAITING);
    }
}
