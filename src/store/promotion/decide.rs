//! Which standby is promoted, from what every endpoint said of itself. Pure.
//!
//! Where a commit is confirmed by k of n standbys, any n − k + 1 of them have
//! among them one that has it; so of so many that answer, the one with most of
//! the log on its disk has every acked event. With fewer nobody can know.

use std::fmt::{self, Write as _};

use thiserror::Error;

use crate::routing::staleness::{Lsn, Timeline};
use crate::routing::{Claim, SystemId};

/// One endpoint of the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub endpoint: String,
    /// Its host and port, by any name that a standby may give of whom it streams from.
    pub addresses: Vec<(String, u16)>,
    pub answer: Result<Answer, Silence>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    pub why: String,
    /// A server said so itself: one that starts, stops, or is full.
    pub is_there: bool,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// What a server said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub in_recovery: bool,
    pub timeline: Timeline,
    pub system_id: SystemId,
    /// How far its log goes, on its disk.
    pub flushed: Lsn,
    /// Whether that is all it has. A standby that was started anew knows only
    /// once it has replayed what lay on its disk.
    pub knows_its_end: bool,
    /// Host and port of the server that it streams from now.
    pub streams_from: Option<(String, u16)>,
    pub synchronous_standby_names: String,
}

/// What the operator wants.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// This one, not the best.
    pub to: Option<String>,
    /// How many standbys confirm a commit: the k of `ANY k (…)`.
    pub confirmed_by: usize,
    pub accept_loss: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub endpoint: String,
    pub at: (Timeline, Lsn),
    /// Standbys that answered, of so many that had to.
    pub answered: usize,
    pub needed: usize,
    /// Acked events may be missing on it.
    pub may_lose: bool,
}

/// Why nothing is promoted, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error(
        "{endpoint} answers, out of recovery, on timeline {timeline}: a second primary would be written to \
         beside it. Stop it first (pg_ctl stop -m fast), see that it is stopped (pg_isready finds nobody there), \
         and that nothing starts it again"
    )]
    Alive { endpoint: String, timeline: Timeline },
    #[error(
        "{endpoint}, which is claimed as the primary, is there but doesn't say what it is ({why}): it may be \
         written to, or soon. Stop it first, or wait until it tells"
    )]
    Unclear { endpoint: String, why: String },
    #[error(
        "{endpoint} streams from {host}:{port}, so that server is alive though it doesn't answer here: it may \
         still be written to. Stop it first; if its machine is gone, the stream ends by itself after \
         wal_receiver_timeout"
    )]
    Streaming { endpoint: String, host: String, port: u16 },
    #[error("no endpoint of the shard answers as a standby of its cluster; bring one back first")]
    NoStandby,
    #[error(
        "{endpoint} stands on timeline {timeline}, but the shard is claimed on {claimed}: promoted, it would be \
         fenced off. Bring back the claimed primary, or a standby that follows it"
    )]
    LeftBehind { endpoint: String, timeline: Timeline, claimed: Timeline },
    #[error("{0} does not answer as a standby of the shard's cluster, so it can't be promoted")]
    NotAStandby(String),
    #[error(
        "{endpoint} has the log up to {at}, {best} up to {best_at}: acked events may be lost with it. \
         Promote {best}, or --accept-loss"
    )]
    Behind { endpoint: String, at: Lsn, best: String, best_at: Lsn },
    #[error(
        "{answered} of the shard's {standbys} standbys tell how far they are, {needed} must where {confirmed_by} \
         confirm(s) a commit: one of the others may have acked events that these have not. Missing:{}\
         \nBring them back, or say --confirmed-by K if more confirm a commit, or --accept-loss",
        list(.missing)
    )]
    TooFew {
        answered: usize,
        needed: usize,
        standbys: usize,
        confirmed_by: usize,
        missing: Vec<(String, String)>,
    },
    #[error("--confirmed-by {confirmed_by}: the shard has {standbys} standby(s) beside its primary")]
    NoSuchQuorum { confirmed_by: usize, standbys: usize },
}

fn list(missing: &[(String, String)]) -> String {
    missing.iter().fold(String::new(), |mut text, (endpoint, why)| {
        let _infallible = write!(text, "\n  {endpoint}: {why}");
        text
    })
}

/// A standby that may be promoted.
struct Candidate<'a> {
    endpoint: &'a str,
    at: (Timeline, Lsn),
}

pub fn decide(asked: &[Asked], claim: &Claim, wish: &Wish) -> Result<Decision, Refusal> {
    refuse_beside_another(asked, claim)?;
    let candidates = candidates(asked, claim);
    // Of equals the first.
    let best = candidates.iter().rev().max_by_key(|candidate| candidate.at);
    let best = best.ok_or(Refusal::NoStandby)?;
    let chosen = match &wish.to {
        Some(name) => candidates.iter().find(|candidate| candidate.endpoint == name),
        None => Some(best),
    };
    let chosen = chosen.ok_or_else(|| Refusal::NotAStandby(wish.to.clone().unwrap_or_default()))?;
    refuse_left_behind(chosen, best.at.0, claim)?;
    let is_behind = chosen.at < best.at;
    if is_behind && !wish.accept_loss {
        let (endpoint, best_name) = (chosen.endpoint.to_owned(), best.endpoint.to_owned());
        return Err(Refusal::Behind { endpoint, at: chosen.at.1, best: best_name, best_at: best.at.1 });
    }
    let quorum = count(asked, claim, wish.confirmed_by)?;
    let is_short = quorum.answered < quorum.needed;
    if is_short && !wish.accept_loss {
        let Quorum { answered, needed, standbys, missing } = quorum;
        return Err(Refusal::TooFew { answered, needed, standbys, confirmed_by: wish.confirmed_by, missing });
    }
    Ok(Decision {
        endpoint: chosen.endpoint.to_owned(),
        at: chosen.at,
        answered: quorum.answered,
        needed: quorum.needed,
        may_lose: is_behind || is_short,
    })
}

/// Another server is written to, or may be.
fn refuse_beside_another(asked: &[Asked], claim: &Claim) -> Result<(), Refusal> {
    for (asked, answer) in of_cluster(asked, claim) {
        if !answer.in_recovery && answer.timeline >= claim.timeline {
            return Err(Refusal::Alive { endpoint: asked.endpoint.clone(), timeline: answer.timeline });
        }
    }
    let may_be_claimed =
        |asked: &&Asked| claim.endpoint.as_ref().is_none_or(|claimed| *claimed == asked.endpoint);
    for asked in asked.iter().filter(may_be_claimed) {
        if let Err(Silence { why, is_there: true }) = &asked.answer {
            return Err(Refusal::Unclear { endpoint: asked.endpoint.clone(), why: why.clone() });
        }
    }
    // A standby may stream from another one, which then answers.
    let is_standby = |address: &(String, u16)| {
        let known = |asked: &&Asked| asked.addresses.contains(address);
        asked.iter().filter(known).any(|asked| asked.answer.as_ref().is_ok_and(|answer| answer.in_recovery))
    };
    for (asked, answer) in of_cluster(asked, claim) {
        if let Some((host, port)) = answer.streams_from.as_ref().filter(|sender| !is_standby(sender)) {
            let (endpoint, host, port) = (asked.endpoint.clone(), host.clone(), *port);
            return Err(Refusal::Streaming { endpoint, host, port });
        }
    }
    Ok(())
}

/// The timeline it would be promoted to is the next after its own, and must be
/// above the claimed one.
fn refuse_left_behind(chosen: &Candidate<'_>, highest: Timeline, claim: &Claim) -> Result<(), Refusal> {
    let claimed = claim.timeline.max(highest);
    if chosen.at.0 >= claimed {
        return Ok(());
    }
    Err(Refusal::LeftBehind { endpoint: chosen.endpoint.to_owned(), timeline: chosen.at.0, claimed })
}

fn candidates<'a>(asked: &'a [Asked], claim: &Claim) -> Vec<Candidate<'a>> {
    let standbys = of_cluster(asked, claim).filter(|(_, answer)| answer.in_recovery);
    standbys
        .map(|(asked, answer)| Candidate { endpoint: &asked.endpoint, at: (answer.timeline, answer.flushed) })
        .collect()
}

struct Quorum {
    standbys: usize,
    answered: usize,
    needed: usize,
    missing: Vec<(String, String)>,
}

/// The standbys are all endpoints but the claimed one, which was the primary:
/// what that says now proves nothing of the others.
fn count(asked: &[Asked], claim: &Claim, confirmed_by: usize) -> Result<Quorum, Refusal> {
    let claimed = claim.endpoint.as_deref();
    let of_standbys = || asked.iter().filter(|asked| Some(asked.endpoint.as_str()) != claimed);
    let standbys = of_standbys().count();
    if !(1..=standbys).contains(&confirmed_by) {
        return Err(Refusal::NoSuchQuorum { confirmed_by, standbys });
    }
    let silent = |asked: &Asked| Some((asked.endpoint.clone(), silence(asked, claim)?));
    let missing: Vec<(String, String)> = of_standbys().filter_map(silent).collect();
    Ok(Quorum { standbys, answered: standbys - missing.len(), needed: standbys - confirmed_by + 1, missing })
}

/// Why an endpoint doesn't count as one that tells how far it is.
fn silence(asked: &Asked, claim: &Claim) -> Option<String> {
    match &asked.answer {
        Err(silence) => Some(silence.to_string()),
        Ok(answer) if claim.system_id != answer.system_id => {
            Some("it is a server of another cluster".to_owned())
        }
        Ok(answer) if !answer.in_recovery => {
            Some(format!("it is a primary that was left behind, on timeline {}", answer.timeline))
        }
        Ok(answer) if !answer.knows_its_end => {
            Some("it has not yet replayed what it had on its disk when it was started".to_owned())
        }
        Ok(_) => None,
    }
}

fn of_cluster<'a>(asked: &'a [Asked], claim: &Claim) -> impl Iterator<Item = (&'a Asked, &'a Answer)> {
    let system = claim.system_id;
    let answered = asked.iter().filter_map(|asked| Some((asked, asked.answer.as_ref().ok()?)));
    answered.filter(move |(_, answer)| system == answer.system_id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 5] = ["a-1", "a-2", "a-3", "a-4", "a-5"];

    /// On a-1, timeline 5.
    fn claim() -> Claim {
        Claim { timeline: Timeline(5), system_id: SystemId(7), endpoint: Some("a-1".to_owned()) }
    }

    fn asked(number: usize, answer: Result<Answer, Silence>) -> Asked {
        let addresses = vec![("db".to_owned(), number as u16)];
        Asked { endpoint: NAMES[number].to_owned(), addresses, answer }
    }

    fn away(number: usize) -> Asked {
        asked(number, Err(Silence { why: "connection refused".to_owned(), is_there: false }))
    }

    fn starting(number: usize) -> Asked {
        asked(number, Err(Silence { why: "the database system is starting up".to_owned(), is_there: true }))
    }

    fn standby(timeline: u32, flushed: u64) -> Answer {
        Answer {
            in_recovery: true,
            timeline: Timeline(timeline),
            system_id: SystemId(7),
            flushed: Lsn(flushed),
            knows_its_end: true,
            streams_from: None,
            synchronous_standby_names: String::new(),
        }
    }

    fn primary(timeline: u32) -> Answer {
        Answer { in_recovery: false, ..standby(timeline, 1) }
    }

    /// A dead primary, and standbys that are so far.
    fn after_a_crash(flushed: &[u64]) -> Vec<Asked> {
        let standbys = flushed.iter().enumerate().map(|(i, at)| asked(i + 1, Ok(standby(5, *at))));
        std::iter::once(away(0)).chain(standbys).collect()
    }

    fn wish() -> Wish {
        Wish { confirmed_by: 1, ..Wish::default() }
    }

    fn to(name: &str) -> Wish {
        Wish { to: Some(name.to_owned()), ..wish() }
    }

    fn lossy(wish: Wish) -> Wish {
        Wish { accept_loss: true, ..wish }
    }

    #[test]
    fn the_furthest_is_promoted_and_another_only_if_loss_is_accepted() {
        let all = after_a_crash(&[10, 20]);
        let decision = decide(&all, &claim(), &wish()).unwrap();
        assert_eq!((decision.endpoint.as_str(), decision.may_lose), ("a-3", false));
        let refused = decide(&all, &claim(), &to("a-2")).unwrap_err();
        let told = refused.to_string();
        assert!(told.contains("a-2 has the log up to 0/A, a-3 up to 0/14"), "{told}");
        let decision = decide(&all, &claim(), &lossy(to("a-2"))).unwrap();
        assert_eq!((decision.endpoint.as_str(), decision.may_lose), ("a-2", true));
    }

    #[test]
    fn who_knows_only_part_of_its_own_log_does_not_count() {
        let mut all = after_a_crash(&[10, 20]);
        all[1].answer.as_mut().unwrap().knows_its_end = false;
        let refused = decide(&all, &claim(), &wish()).unwrap_err();
        assert!(matches!(refused, Refusal::TooFew { answered: 1, needed: 2, .. }), "{refused}");
        let two_confirm = Wish { confirmed_by: 2, ..wish() };
        assert!(!decide(&all, &claim(), &two_confirm).unwrap().may_lose);
    }

    #[test]
    fn a_server_that_the_others_still_hear_is_alive() {
        let mut all = after_a_crash(&[10, 20]);
        let stream = |all: &mut Vec<Asked>, from: u16| {
            all[2].answer.as_mut().unwrap().streams_from = Some(("db".to_owned(), from));
        };
        stream(&mut all, 0);
        let refused = decide(&all, &claim(), &lossy(wish())).unwrap_err();
        assert!(matches!(refused, Refusal::Streaming { .. }), "{refused}");
        stream(&mut all, 1);
        assert!(decide(&all, &claim(), &wish()).is_ok(), "a standby behind a standby");
    }

    #[test]
    fn a_claimed_server_that_is_there_is_in_the_way_whatever_it_says() {
        let mut all = after_a_crash(&[10, 20]);
        all[0] = starting(0);
        let refused = decide(&all, &claim(), &lossy(wish())).unwrap_err();
        assert!(matches!(refused, Refusal::Unclear { .. }), "{refused}");
        all[0] = away(0);
        all[1] = starting(1);
        let refused = decide(&all, &claim(), &wish()).unwrap_err();
        assert!(
            matches!(refused, Refusal::TooFew { .. }),
            "a standby that starts is only missing: {refused}"
        );
    }

    #[test]
    fn a_standby_that_never_followed_the_claimed_primary_is_never_promoted() {
        let all = [away(0), asked(1, Ok(standby(4, 90))), away(2)];
        let refused = decide(&all, &claim(), &lossy(wish())).unwrap_err();
        assert!(matches!(refused, Refusal::LeftBehind { .. }), "{refused}");
    }

    #[test]
    fn a_primary_that_was_left_behind_is_in_nobodys_way() {
        let mut all = after_a_crash(&[10, 20]);
        all[0].answer = Ok(primary(4));
        assert_eq!(decide(&all, &claim(), &wish()).unwrap().endpoint, "a-3");
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let known = (prop::bool::weighted(0.7), 4u32..7, 0u64..6, prop::bool::weighted(0.9));
        known.prop_map(|(in_recovery, timeline, flushed, knows_its_end)| Answer {
            in_recovery,
            knows_its_end,
            ..standby(timeline, flushed)
        })
    }

    proptest! {
        /// Acked is what k standbys have. Whoever of them answers: if one is
        /// promoted without accepting loss, it has all of that.
        #[test]
        fn whoever_is_promoted_has_what_k_standbys_confirmed(
            logs in prop::collection::vec((4u32..6, 0u64..6), 1..5),
            heard in prop::collection::vec(prop::bool::weighted(0.8), 4),
            k in 1usize..5,
            to in prop::option::of(0usize..5),
        ) {
            prop_assume!(k <= logs.len());
            let mut confirmed = logs.clone();
            confirmed.sort_unstable();
            let acked = confirmed[logs.len() - k];
            let standbys = logs.iter().enumerate().map(|(i, (timeline, flushed))| {
                if heard[i] { asked(i + 1, Ok(standby(*timeline, *flushed))) } else { away(i + 1) }
            });
            let all: Vec<Asked> = std::iter::once(away(0)).chain(standbys).collect();
            let wish = Wish { to: to.map(|to| NAMES[to].to_owned()), confirmed_by: k, accept_loss: false };
            if let Ok(decision) = decide(&all, &claim(), &wish) {
                prop_assert!(decision.at >= (Timeline(acked.0), Lsn(acked.1)), "{decision:?} of {logs:?}");
                prop_assert!(!decision.may_lose);
            }
        }

        /// Whatever is accepted: never beside another primary, never one that
        /// would be fenced off, never a server that is no standby.
        #[test]
        fn no_wish_makes_a_second_primary(
            answers in prop::collection::vec(prop::option::weighted(0.8, answer()), 2..5),
            to in prop::option::of(0usize..5),
            k in 0usize..3,
            accept_loss in any::<bool>(),
        ) {
            let all: Vec<Asked> = answers.iter().enumerate()
                .map(|(i, answer)| answer.clone().map_or_else(|| away(i), |answer| asked(i, Ok(answer)))).collect();
            let alive = answers.iter().flatten().any(|a| !a.in_recovery && a.timeline >= Timeline(5));
            let wish = Wish { to: to.map(|to| NAMES[to].to_owned()), confirmed_by: k, accept_loss };
            if let Ok(decision) = decide(&all, &claim(), &wish) {
                prop_assert!(!alive);
                let chosen = all.iter().find(|asked| asked.endpoint == decision.endpoint).unwrap();
                let chosen = chosen.answer.as_ref().unwrap();
                prop_assert!(chosen.in_recovery && chosen.timeline >= Timeline(5));
                prop_assert!(accept_loss || !decision.may_lose);
            }
        }
    }
}
