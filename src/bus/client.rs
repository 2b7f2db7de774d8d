//! The two connections: one speaks, one listens. Trials on both find out whether
//! Redis takes the gateway's commands.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{Config, ReconnectPolicy, TlsConnector};
use fred::types::{Builder, RespVersion};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::command::{self, Command, Side};
use super::line::{Guard, Line, Seen};
use super::refusal::{Refusal, Standing};
use super::{Away, Bus};
use crate::config;
use crate::metrics::bus as metrics;
use crate::tasks::Stop;
use crate::tls::Trust;

/// How long a node that starts may look for Redis before it says that there is
/// none.
const FIRST_GRACE: Duration = Duration::from_secs(1);
/// Every command is answered in this time, or has failed.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_millis(1000);
/// How often every command is tried, so that a frozen Redis, a black hole or a lost
/// permission is noticed although nobody uses the bus.
const TRIAL_INTERVAL: Duration = Duration::from_secs(1);
/// The longest pause between trials while Redis refuses some.
pub(super) const REFUSED_INTERVAL: Duration = Duration::from_secs(2);
/// The same while Redis is away: a client tells of its new connection a moment
/// before it can be used.
const AWAY_INTERVAL: Duration = Duration::from_millis(100);
/// What somebody waits for is answered in this time, or has failed for them.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// What may wait inside the client between Redis and us. Beyond it the client
/// drops, and says so, which counts as lost.
const BROADCAST_CAPACITY: usize = 4096;

/// A client that connects, and reconnects for ever, once started.
pub(super) fn build(redis: &config::Redis) -> Result<Client, Away> {
    let mut config = Config::from_url(&redis.url).map_err(|error| Away(error.to_string()))?;
    config.fail_fast = false;
    // Commands on a connection that is subscribed.
    config.version = RespVersion::RESP3;
    if redis.username.is_some() {
        config.username.clone_from(&redis.username);
    }
    if let Some(password) = password(redis)? {
        config.password = Some(password);
    }
    if redis.url.starts_with("rediss://") {
        let trusted = Trust::new(redis.ca_file.clone()).settings();
        let trusted = trusted.map_err(|error| Away(error.to_string()))?;
        config.tls = Some(TlsConnector::from(trusted).into());
    }
    Builder::from_config(config)
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
            performance.broadcast_channel_capacity = BROADCAST_CAPACITY;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(2);
            connection.internal_command_timeout = Duration::from_secs(2);
            connection.max_command_attempts = 1;
        })
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 1000, 2))
        .build()
        .map_err(|error| Away(error.to_string()))
}

pub(super) fn bounded<T>(
    command: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Away>> {
    // Kilobytes each, which every room would hold for as long as it lives.
    let command = Box::pin(command);
    async move {
        match timeout(ANSWER_TIMEOUT, command).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Away(error.to_string())),
            Err(_) => Err(Away("no answer in time".to_owned())),
        }
    }
}

/// Tries every command once, for a check of the configuration. Returns a line for
/// each cause of a refusal.
///
/// # Errors
/// If Redis does not answer.
pub async fn probe(redis: &config::Redis) -> Result<Vec<String>, Away> {
    let client = build(redis)?;
    let mut errors = client.error_rx();
    drop(client.connect());
    let connected = async {
        loop {
            tokio::select! {
                connected = client.wait_for_connect() => return connected.map(|()| None),
                error = errors.recv() => match error {
                    Ok((error, _)) => {
                        if let Some(refusal) = Refusal::of(Command::Connect, &error) {
                            return Ok(Some(refusal));
                        }
                    }
                    Err(_) => return client.wait_for_connect().await.map(|()| None),
                },
            }
        }
    };
    let tried = async {
        if let Some(refusal) = connected.await? {
            return Ok(Some(vec![refusal]));
        }
        let speaking = command::refused(&client, Side::Speaking).await;
        let listening = command::refused(&client, Side::Listening).await;
        let both = speaking.zip(listening).map(|(speaking, listening)| [speaking, listening].concat());
        Ok::<_, Error>(both)
    };
    let answer = timeout(PROBE_TIMEOUT, Box::pin(tried)).await;
    // Ends the client's tasks; that it failed to say goodbye is no matter.
    drop(timeout(COMMAND_TIMEOUT, client.quit()).await);
    match answer {
        Ok(Ok(Some(refused))) if refused.is_empty() => Ok(Vec::new()),
        Ok(Ok(Some(refused))) => Ok(Standing::Refuses(refused).problems(user(redis))),
        Ok(Err(error)) => Err(Away(error.to_string())),
        Ok(Ok(None)) | Err(_) => Err(Away(format!("no answer from {} within {PROBE_TIMEOUT:?}", redis.url))),
    }
}

/// As an ACL names the gateway's user.
pub(super) fn user(redis: &config::Redis) -> &str {
    redis.username.as_deref().unwrap_or("default")
}

fn password(redis: &config::Redis) -> Result<Option<String>, Away> {
    if let Some(password) = &redis.password {
        return Ok(Some(password.reveal().to_owned()));
    }
    let Some(file) = &redis.password_file else { return Ok(None) };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Away(format!("can't read the password file {}: {error}", file.display())))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Keeps both connections alive, and `standing` true to the facts.
pub(super) async fn watch(bus: Bus, mut guards: [Guard; 2], lines: [Line; 2], mut stop: Stop) {
    let [mut speaking, mut listening] = lines.map(|line| line.connections());
    let mut told = None;
    let mut backoff = Backoff::new(TRIAL_INTERVAL, REFUSED_INTERVAL);
    let started = Instant::now();
    loop {
        let is_refused = matches!(told, Some(Standing::Refuses(_)));
        let pause = match told {
            Some(Standing::Works) => TRIAL_INTERVAL,
            Some(Standing::Refuses(_)) => backoff.pause(),
            Some(Standing::Away) | None => AWAY_INTERVAL,
        };
        // A Redis that answers a refusal by closing the connection would be asked
        // as often as it can be connected to.
        tokio::select! {
            () = sleep(pause) => {}
            _ = speaking.next(), if !is_refused => {}
            _ = listening.next(), if !is_refused => {}
            () = stop.wait() => break,
        }
        let standing = standing(join_all(guards.iter_mut().map(|guard| Box::pin(guard.check()))).await);
        bus.shared.standing.store(Arc::new(standing.clone()));
        show(&standing);
        if !matches!(standing, Standing::Refuses(_)) {
            backoff.reset();
        }
        // A node that starts has not found it yet: that is no news for a moment.
        let is_first = told.is_none() && standing == Standing::Away && started.elapsed() <= FIRST_GRACE;
        if !is_first && told.as_ref() != Some(&standing) {
            tell(&bus, &standing);
            told = Some(standing);
        }
    }
    metrics::up(false);
    for guard in guards {
        guard.end().await;
    }
}

fn standing(seen: Vec<Seen>) -> Standing {
    let mut refused = Vec::new();
    for seen in seen {
        match seen {
            Seen::Silent => return Standing::Away,
            Seen::Refused(refusals) => refused.extend(refusals),
        }
    }
    if refused.is_empty() { Standing::Works } else { Standing::Refuses(refused) }
}

fn tell(bus: &Bus, standing: &Standing) {
    match standing {
        Standing::Works => tracing::info!("Redis answers"),
        Standing::Away => tracing::warn!("Redis doesn't answer; rooms go on by reading the log"),
        Standing::Refuses(_) => {
            for problem in standing.problems(&bus.shared.user) {
                tracing::warn!(problem, "Redis refuses commands");
            }
        }
    }
}

/// As metrics.
pub(super) fn show(standing: &Standing) {
    metrics::up(*standing == Standing::Works);
    for command in Command::ALL {
        metrics::refused(command.word(), command.on().name(), standing.refuses_command(*command));
    }
}
