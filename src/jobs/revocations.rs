//! Revoked tokens: learned from the directory when the bus says so, and every
//! two seconds in any case; then the sessions that live on them are ended.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::auth::{Revocation, Verifier};
use crate::bus::Bus;
use crate::clock::UnixMillis;
use crate::directory::{Directory, DirectoryError, Revoked};
use crate::session::Sessions;
use crate::tasks::Stop;

const EVERY: Duration = Duration::from_secs(2);
/// A revocation may become visible so long after the time that it bears.
const LATE: Duration = Duration::from_secs(60);

pub struct RevocationWatch {
    pub directory: Directory,
    pub verifier: Verifier,
    pub sessions: Sessions,
    pub bus: Bus,
    /// No access token lives longer.
    pub kept: Duration,
}

impl RevocationWatch {
    pub async fn run(self, mut stop: Stop) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When all that there was had been seen; never, at first.
        let mut seen = None;
        let mut failing = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.bus.revoked() => {}
                () = stop.wait() => return,
            }
            let asked = Instant::now();
            let looked = tokio::select! {
                looked = self.look(seen) => looked,
                () = stop.wait() => return,
            };
            match looked {
                Ok(()) => (seen, failing) = (Some(asked), false),
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "can't ask which tokens were revoked");
                }
                Err(_) => {}
            }
        }
    }

    async fn look(&self, seen: Option<Instant>) -> Result<(), DirectoryError> {
        let within = seen.map_or(self.kept, |seen| (seen.elapsed() + LATE).min(self.kept));
        let told = self.directory.revoked_within(within).await?;
        let news = self.verifier.revoke(told.into_iter().map(revocation).collect());
        self.verifier.forget_expired_revocations(UnixMillis::now());
        if !news.is_empty() {
            let ended = self.sessions.end_where(|claims| news.iter().any(|each| each.ends(claims)));
            tracing::info!(revocations = news.len(), ended, "tokens were revoked");
        }
        Ok(())
    }
}

fn revocation(told: Revoked) -> Revocation {
    let Revoked { id, user, login, at, until } = told;
    Revocation { id, user, login, at, until }
}
