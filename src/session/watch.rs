//! What happens to a session by time alone: pings, and closes for silence, for
//! a stuck socket, for a missing hello, for an expired token.
//!
//! One timer a session, set to the nearest deadline: an idle session wakes
//! twice in a heartbeat.

use std::time::Duration;

use tokio::time::Instant;

use super::vitals::Vitals;
use crate::clock::UnixMillis;
use crate::config;
use crate::protocol::CloseCode;

/// How often a client that is only spoken to gets a sign of life.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// A client is told of its token's end this long before.
const EXPIRY_NOTICE: Duration = Duration::from_secs(60);

pub struct Watch {
    heartbeat: Duration,
    /// None: the client answers no pings.
    pong_timeout: Option<Duration>,
    slow_consumer_timeout: Duration,
    hello_by: Instant,
    ping_at: Instant,
    /// The first ping that nothing was heard after.
    pinged: Option<Instant>,
    /// The expiry that the client has been told of.
    told: Option<UnixMillis>,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing { until: Instant },
    Ping,
    TokenExpiring(UnixMillis),
    Close(CloseCode),
}

impl Watch {
    pub fn new(config: &config::Sessions, now: Instant) -> Self {
        Self {
            heartbeat: config.heartbeat,
            pong_timeout: Some(config.pong_timeout),
            slow_consumer_timeout: config.slow_consumer_timeout,
            hello_by: now + config.hello_timeout,
            ping_at: now + config.heartbeat,
            pinged: None,
            told: None,
        }
    }

    /// Of a client that is only spoken to.
    pub fn one_way(config: &config::Sessions, now: Instant) -> Self {
        let heartbeat = COMMENT_EVERY;
        Self { heartbeat, pong_timeout: None, ping_at: now + heartbeat, ..Self::new(config, now) }
    }

    /// Ask again after doing what is due, and whenever the vitals change.
    pub fn due(&mut self, now: Instant, wall: UnixMillis, vitals: &Vitals) -> Due {
        let mut until = self.ping_at;
        for deadline in [self.token(now, wall, vitals), self.socket(now, vitals)] {
            match deadline {
                Due::Nothing { until: other } => until = until.min(other),
                due => return due,
            }
        }
        if now >= self.ping_at {
            self.ping_at = now + self.heartbeat;
            // The oldest one counts, however many follow it.
            self.pinged.get_or_insert(now);
            return Due::Ping;
        }
        Due::Nothing { until }
    }

    fn token(&mut self, now: Instant, wall: UnixMillis, vitals: &Vitals) -> Due {
        let Some(expires_at) = vitals.expires_at() else {
            return at(now, self.hello_by, Due::Close(CloseCode::Unauthenticated));
        };
        let left = Duration::from_millis(u64::try_from(expires_at.0 - wall.0).unwrap_or(0));
        if left.is_zero() {
            return Due::Close(CloseCode::TokenExpired);
        }
        if self.told == Some(expires_at) {
            return Due::Nothing { until: now + left };
        }
        let notice = at(now, now + left.saturating_sub(EXPIRY_NOTICE), Due::TokenExpiring(expires_at));
        if notice == Due::TokenExpiring(expires_at) {
            self.told = Some(expires_at);
        }
        notice
    }

    fn socket(&mut self, now: Instant, vitals: &Vitals) -> Due {
        if let Some(since) = vitals.stalled_since() {
            // A pong can't be asked of a client that takes nothing.
            self.pinged = None;
            return at(now, since + self.slow_consumer_timeout, Due::Close(CloseCode::SlowConsumer));
        }
        let Some(pong_timeout) = self.pong_timeout else { return Due::Nothing { until: self.ping_at } };
        match self.pinged {
            Some(pinged) if vitals.is_busy() || vitals.last_heard() >= pinged => {
                self.pinged = None;
                Due::Nothing { until: self.ping_at }
            }
            Some(pinged) => at(now, pinged + pong_timeout, Due::Close(CloseCode::HeartbeatTimeout)),
            None => Due::Nothing { until: self.ping_at },
        }
    }
}

fn at(now: Instant, deadline: Instant, due: Due) -> Due {
    if now >= deadline { due } else { Due::Nothing { until: deadline } }
}

#[cfg(test)]
mod tests {
    use super::super::socket::Progress;
    use super::*;

    const NOON: UnixMillis = UnixMillis(1_700_000_000_000);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    struct World {
        start: Instant,
        vitals: Vitals,
        watch: Watch,
    }

    /// With the default times: heartbeat 25 s, pong 10 s, hello 5 s, slow 30 s.
    fn world() -> World {
        let start = Instant::now();
        let watch = Watch::new(&config::Sessions::default(), start);
        World { start, vitals: Vitals::new(start), watch }
    }

    impl World {
        /// All that falls due until `end`, with the second at which it does.
        async fn run_until(&mut self, end: u64) -> Vec<(u64, Due)> {
            let mut seen = Vec::new();
            loop {
                let now = Instant::now();
                let passed = now - self.start;
                let wall = UnixMillis(NOON.0 + passed.as_millis() as i64);
                match self.watch.due(now, wall, &self.vitals) {
                    Due::Nothing { until } if until - self.start > seconds(end) => break,
                    Due::Nothing { until } => tokio::time::sleep_until(until).await,
                    due => {
                        seen.push((passed.as_secs(), due));
                        if matches!(due, Due::Close(_)) {
                            return seen;
                        }
                    }
                }
            }
            tokio::time::sleep_until(self.start + seconds(end)).await;
            seen
        }

        fn token_for(&self, left: u64) {
            self.vitals.token_until(UnixMillis(NOON.0 + left as i64 * 1000));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_hello_is_closed_in_time() {
        let seen = world().run_until(100).await;
        assert_eq!(seen, [(5, Due::Close(CloseCode::Unauthenticated))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_closed_after_heartbeat_and_pong_timeout() {
        let mut world = world();
        world.token_for(10_000);
        let seen = world.run_until(100).await;
        assert_eq!(seen, [(25, Due::Ping), (35, Due::Close(CloseCode::HeartbeatTimeout))]);
    }

    #[tokio::test(start_paused = true)]
    async fn later_pings_give_a_silent_client_no_more_time() {
        let mut world = world();
        world.watch.pong_timeout = Some(seconds(60));
        world.token_for(10_000);
        let seen = world.run_until(200).await;
        assert_eq!(seen.last(), Some(&(85, Due::Close(CloseCode::HeartbeatTimeout))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_pings_stays() {
        let mut world = world();
        world.token_for(10_000);
        assert_eq!(world.run_until(26).await, [(25, Due::Ping)]);
        world.vitals.heard();
        assert_eq!(world.run_until(51).await, [(50, Due::Ping)]);
        world.vitals.heard();
        assert_eq!(world.run_until(60).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pong_within_a_millisecond_of_its_ping_counts() {
        let mut world = world();
        world.token_for(10_000);
        tokio::time::advance(seconds(25) + Duration::from_micros(500)).await;
        assert_eq!(world.watch.due(Instant::now(), NOON, &world.vitals), Due::Ping);
        tokio::time::advance(Duration::from_micros(100)).await;
        world.vitals.heard();
        assert_eq!(world.run_until(49).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_while_the_gateway_itself_keeps_the_reader_waiting_is_forgiven() {
        let mut world = world();
        world.token_for(10_000);
        world.run_until(26).await;
        world.vitals.set_busy(true);
        assert_eq!(world.run_until(49).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_only_spoken_to_gets_a_sign_of_life_every_15_s_and_owes_none() {
        let mut world = world();
        world.watch = Watch::one_way(&config::Sessions::default(), world.start);
        world.token_for(10_000);
        let seen = world.run_until(80).await;
        assert_eq!(seen, [15, 30, 45, 60, 75].map(|second| (second, Due::Ping)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_a_slow_consumer_and_not_a_dead_one() {
        let mut world = world();
        world.token_for(10_000);
        world.run_until(20).await;
        world.vitals.progress(Progress::Stalled);
        world.run_until(40).await;
        world.vitals.progress(Progress::Moved);
        world.vitals.progress(Progress::Stalled);
        let seen = world.run_until(100).await;
        assert_eq!(seen.last(), Some(&(70, Due::Close(CloseCode::SlowConsumer))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expiring_token_is_announced_a_minute_before_the_close() {
        let mut world = world();
        world.token_for(80);
        let mut seen = Vec::new();
        for end in [30, 55, 79, 100] {
            seen.extend(world.run_until(end).await);
            world.vitals.heard();
        }
        seen.retain(|(_, due)| *due != Due::Ping);
        let expires_at = UnixMillis(NOON.0 + 80_000);
        assert_eq!(seen, [(20, Due::TokenExpiring(expires_at)), (80, Due::Close(CloseCode::TokenExpired))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refreshed_token_moves_the_end() {
        let mut world = world();
        world.token_for(70);
        let told = world.run_until(15).await;
        assert_eq!(told, [(10, Due::TokenExpiring(UnixMillis(NOON.0 + 70_000)))]);
        world.token_for(10_000);
        world.vitals.heard();
        assert_eq!(world.run_until(26).await, [(25, Due::Ping)]);
        world.vitals.heard();
        assert_eq!(world.run_until(49).await, []);
    }
}
