//! The two connections: one speaks, one listens. And whether they are alive.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, ReconnectPolicy, TlsConnector};
use fred::types::{Builder, RespVersion};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::line::{Guard, Line};
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
/// How often both connections are asked, so that a frozen Redis or a black hole
/// is noticed although nobody speaks.
const PING_INTERVAL: Duration = Duration::from_secs(1);
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

/// Whether Redis answers, once, for a check of the configuration.
pub async fn probe(redis: &config::Redis) -> Result<(), Away> {
    let client = build(redis)?;
    drop(client.connect());
    let asked = async {
        client.wait_for_connect().await?;
        client.ping::<()>(None).await
    };
    let answer = timeout(PROBE_TIMEOUT, asked).await;
    // Ends the client's tasks; that it failed to say goodbye is no matter.
    drop(timeout(COMMAND_TIMEOUT, client.quit()).await);
    match answer {
        Ok(answer) => answer.map_err(|error| Away(error.to_string())),
        Err(_) => Err(Away(format!("no answer from {} within {PROBE_TIMEOUT:?}", redis.url))),
    }
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

/// Keeps both connections alive, and `up` true to the facts.
pub(super) async fn watch(bus: Bus, mut guards: [Guard; 2], lines: [Line; 2], mut stop: Stop) {
    let [mut speaking, mut listening] = lines.map(|line| line.connections());
    let mut told = None;
    let started = Instant::now();
    loop {
        let pause = if told == Some(true) { PING_INTERVAL } else { AWAY_INTERVAL };
        tokio::select! {
            () = sleep(pause) => {}
            _ = speaking.next() => {}
            _ = listening.next() => {}
            () = stop.wait() => break,
        }
        let up = join_all(guards.iter_mut().map(Guard::check)).await.into_iter().all(|up| up);
        bus.shared.up.store(up, Ordering::Relaxed);
        metrics::up(up);
        // A node that starts has not found it yet: that is no news for a moment.
        let is_news = told != Some(up) && (up || told.is_some() || started.elapsed() > FIRST_GRACE);
        if is_news {
            told = Some(up);
            if up {
                tracing::info!("Redis answers");
            } else {
                tracing::warn!("Redis doesn't answer; rooms go on by reading the log");
            }
        }
    }
    metrics::up(false);
    for guard in guards {
        guard.end().await;
    }
}
