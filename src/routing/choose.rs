//! Which endpoint answers a read. Pure: from what is known about a shard's
//! endpoints and what the reader needs, to a target with a reason.

use std::fmt;
use std::time::Duration;

/// What a reader asks of the endpoint that answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Primary,
    /// At most so stale. Reads that must contain a position ask for this as
    /// well, as a filter; the answer itself is then checked, see `store`.
    AtMost(Duration),
    /// However stale: for reads whose answer proves itself, when nobody fresher
    /// can be reached.
    Any,
}

impl Need {
    fn bound(self) -> Option<Duration> {
        match self {
            Self::AtMost(bound) => Some(bound),
            Self::Primary | Self::Any => None,
        }
    }
}

/// Why the primary answers a read, or nobody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No replica can be reached or used.
    Down,
    /// The replicas are on another timeline, or their log disagrees with the
    /// asked position.
    Epoch,
    /// The replicas are older than the bound.
    Stale,
    /// The replicas don't have the asked position yet.
    Behind,
    /// The replicas that would do are busy.
    Saturated,
    /// The reader wanted the primary.
    Asked,
}

impl Reason {
    pub const ALL: [Self; 6] =
        [Self::Down, Self::Epoch, Self::Stale, Self::Behind, Self::Saturated, Self::Asked];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Epoch => "epoch",
            Self::Stale => "stale",
            Self::Behind => "behind",
            Self::Saturated => "saturated",
            Self::Asked => "asked",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A replica as the chooser sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// It answers the monitor and its breaker is closed.
    pub usable: bool,
    /// It follows the accepted primary's timeline.
    pub same_timeline: bool,
    /// `None`: further behind than anyone can tell.
    pub staleness: Option<Duration>,
    /// It was within the default bound at the last poll. One that wasn't must
    /// be well within a bound to come back, so that it doesn't flap.
    pub settled: bool,
    pub in_flight: usize,
    pub capacity: usize,
    pub weight: u32,
    pub same_zone: bool,
    /// This read has been there already, and it would not do.
    pub refused: Option<Refused>,
}

impl Candidate {
    fn is_busy(&self) -> bool {
        self.in_flight >= self.capacity
    }
}

/// Why a read did not use what an endpoint said, or that it said nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub reason: Reason,
    /// Asking it again in a moment is no use.
    pub for_good: bool,
}

/// What is known about a shard, in the order of its replicas.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub replicas: &'a [Candidate],
    pub has_primary: bool,
    /// How far beyond the bound a replica may be and still be worth waiting
    /// for; zero once the read has waited.
    pub reach: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The index of a replica. If all that will do are busy, one of them: its
    /// queue is joined.
    Replica(usize),
    /// Nobody yet, but this one may do in a moment.
    Wait(usize),
    /// The reason is `None` in a shard that has no replicas: nothing was
    /// missed.
    Primary(Option<Reason>),
    /// Nobody: an honest 503.
    Nobody(Reason),
}

/// `random` is two independent random numbers.
pub fn choose(view: View<'_>, need: Need, random: [u32; 2]) -> Choice {
    if need == Need::Primary {
        return primary_or_nobody(view, Some(Reason::Asked));
    }
    let bound = need.bound();
    let verdicts: Vec<Result<(), Reason>> = view.replicas.iter().map(|c| verdict(c, bound)).collect();
    let less_busy = |is_busy: bool| {
        let will_do = |&i: &usize| verdicts[i].is_ok() && view.replicas[i].is_busy() == is_busy;
        let all: Vec<usize> = (0..verdicts.len()).filter(will_do).collect();
        let near: Vec<usize> = all.iter().copied().filter(|&i| view.replicas[i].same_zone).collect();
        less_busy_of_two(view.replicas, if near.is_empty() { &all } else { &near }, random)
    };
    if let Some(chosen) = less_busy(false).or_else(|| less_busy(true)) {
        return Choice::Replica(chosen);
    }
    if let Some(closest) = worth_waiting_for(view, &verdicts, bound) {
        return Choice::Wait(closest);
    }
    // The reason that was closest to being none.
    primary_or_nobody(view, verdicts.iter().filter_map(|v| v.err()).max())
}

/// Whether a replica still does for a read that has waited for it.
pub fn still_does(candidate: &Candidate, need: Need) -> bool {
    verdict(candidate, need.bound()).is_ok()
}

fn primary_or_nobody(view: View<'_>, reason: Option<Reason>) -> Choice {
    if view.has_primary { Choice::Primary(reason) } else { Choice::Nobody(reason.unwrap_or(Reason::Down)) }
}

/// Whether a replica will do, busy or not, or why not.
fn verdict(candidate: &Candidate, bound: Option<Duration>) -> Result<(), Reason> {
    if let Some(refused) = candidate.refused {
        return Err(refused.reason);
    }
    if !candidate.usable || candidate.weight == 0 {
        return Err(Reason::Down);
    }
    if !candidate.same_timeline {
        return Err(Reason::Epoch);
    }
    if let Some(bound) = bound {
        let limit = if candidate.settled { bound } else { bound / 4 * 3 };
        if candidate.staleness.is_none_or(|staleness| staleness > limit) {
            return Err(Reason::Stale);
        }
    }
    Ok(())
}

/// Power of two choices: two at random by weight, of which the one with less
/// to do for its weight.
fn less_busy_of_two(replicas: &[Candidate], fit: &[usize], random: [u32; 2]) -> Option<usize> {
    let first = by_weight(replicas, fit, random[0], None)?;
    let Some(second) = by_weight(replicas, fit, random[1], Some(first)) else {
        return Some(first);
    };
    let load =
        |mine: usize, other: usize| (replicas[mine].in_flight as u64 + 1) * u64::from(replicas[other].weight);
    Some(if load(second, first) < load(first, second) { second } else { first })
}

fn by_weight(replicas: &[Candidate], fit: &[usize], random: u32, without: Option<usize>) -> Option<usize> {
    let others = || fit.iter().copied().filter(|&i| Some(i) != without);
    let total: u64 = others().map(|i| u64::from(replicas[i].weight)).sum();
    // A fraction of the total, without a division's bias towards the first.
    let mut point = (u64::from(random) * total) >> 32;
    for i in others() {
        let weight = u64::from(replicas[i].weight);
        if point < weight {
            return Some(i);
        }
        point -= weight;
    }
    None
}

/// The freshest replica that the next poll may find fresh enough, or that may
/// have got the asked position by then.
fn worth_waiting_for(
    view: View<'_>,
    verdicts: &[Result<(), Reason>],
    bound: Option<Duration>,
) -> Option<usize> {
    if view.reach.is_zero() {
        return None;
    }
    let age = |i: usize| view.replicas[i].staleness.unwrap_or(Duration::MAX);
    let hopeless = |i: usize| view.replicas[i].refused.is_some_and(|refused| refused.for_good);
    (0..verdicts.len())
        .filter(|&i| match verdicts[i] {
            _ if hopeless(i) => false,
            Err(Reason::Stale | Reason::Behind) => {
                bound.is_none_or(|bound| age(i) <= bound.saturating_add(view.reach))
            }
            _ => false,
        })
        .min_by_key(|&i| age(i))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUND: Need = Need::AtMost(Duration::from_secs(1));

    fn fresh() -> Candidate {
        Candidate {
            usable: true,
            same_timeline: true,
            staleness: Some(Duration::from_millis(100)),
            settled: true,
            in_flight: 0,
            capacity: 10,
            weight: 100,
            same_zone: false,
            refused: None,
        }
    }

    fn decide(replicas: &[Candidate], need: Need) -> Choice {
        choose(View { replicas, has_primary: true, reach: Duration::ZERO }, need, [0, 0])
    }

    #[test]
    fn each_reason_to_leave_the_replicas_is_told() {
        let stale = Candidate { staleness: Some(Duration::from_secs(2)), ..fresh() };
        let unknown = Candidate { staleness: None, ..fresh() };
        let down = Candidate { usable: false, ..fresh() };
        let other = Candidate { same_timeline: false, ..fresh() };
        let busy = Candidate { in_flight: 10, ..fresh() };
        let behind =
            Candidate { refused: Some(Refused { reason: Reason::Behind, for_good: false }), ..fresh() };
        let because = |reason| Choice::Primary(Some(reason));
        assert_eq!(decide(&[stale, down], BOUND), because(Reason::Stale));
        assert_eq!(decide(&[unknown], BOUND), because(Reason::Stale));
        assert_eq!(decide(&[down], BOUND), because(Reason::Down));
        assert_eq!(decide(&[other, down], BOUND), because(Reason::Epoch));
        let overloaded =
            Candidate { refused: Some(Refused { reason: Reason::Saturated, for_good: true }), ..fresh() };
        assert_eq!(decide(&[overloaded, stale], BOUND), because(Reason::Saturated));
        assert_eq!(decide(&[busy, stale], BOUND), Choice::Replica(0), "it queues");
        assert_eq!(decide(&[behind, down], BOUND), because(Reason::Behind));
        assert_eq!(decide(&[fresh()], Need::Primary), because(Reason::Asked));
        assert_eq!(decide(&[], BOUND), Choice::Primary(None), "nothing was missed");
        let headless = View { replicas: &[stale], has_primary: false, reach: Duration::ZERO };
        assert_eq!(choose(headless, BOUND, [0, 0]), Choice::Nobody(Reason::Stale));
    }

    #[test]
    fn a_replica_of_the_same_zone_comes_first_unless_it_will_not_do() {
        let near = Candidate { same_zone: true, in_flight: 9, ..fresh() };
        assert_eq!(decide(&[fresh(), near, fresh()], BOUND), Choice::Replica(1));
        let busy = Candidate { in_flight: 10, ..near };
        assert_eq!(decide(&[busy, fresh()], BOUND), Choice::Replica(1));
    }

    #[test]
    fn a_replica_near_the_bound_stays_in_but_must_be_well_within_to_come_back() {
        let near_bound = Candidate { staleness: Some(Duration::from_millis(900)), ..fresh() };
        assert_eq!(decide(&[near_bound], BOUND), Choice::Replica(0));
        let outside = Candidate { settled: false, ..near_bound };
        assert_eq!(decide(&[outside], BOUND), Choice::Primary(Some(Reason::Stale)));
        let back = Candidate { staleness: Some(Duration::from_millis(700)), ..outside };
        assert_eq!(decide(&[back], BOUND), Choice::Replica(0));
    }

    #[test]
    fn only_what_may_come_within_reach_is_waited_for() {
        let late = |ms| Candidate { staleness: Some(Duration::from_millis(ms)), ..fresh() };
        let decide = |replicas: &[Candidate]| {
            choose(View { replicas, has_primary: true, reach: Duration::from_millis(300) }, BOUND, [0, 0])
        };
        assert_eq!(decide(&[late(1400), late(1200)]), Choice::Wait(1));
        assert_eq!(decide(&[late(2000)]), Choice::Primary(Some(Reason::Stale)));
        let behind =
            Candidate { refused: Some(Refused { reason: Reason::Behind, for_good: false }), ..fresh() };
        assert_eq!(decide(&[behind]), Choice::Wait(0));
        let conflict =
            Candidate { refused: Some(Refused { reason: Reason::Behind, for_good: true }), ..fresh() };
        assert_eq!(decide(&[conflict]), Choice::Primary(Some(Reason::Behind)));
    }

    #[test]
    fn reads_are_spread_by_weight_and_avoid_the_busier_of_two() {
        let light = Candidate { weight: 25, ..fresh() };
        let mut hits = [0u32; 2];
        for i in 0..1000u32 {
            let random = [i.wrapping_mul(2_654_435_761), i.wrapping_mul(40_503) << 16];
            if let Some(chosen) = by_weight(&[fresh(), light], &[0, 1], random[0], None) {
                hits[chosen] += 1;
            }
        }
        assert!((750..850).contains(&hits[0]), "{hits:?}");
        let busy = Candidate { in_flight: 5, ..fresh() };
        for random in [[0, 0], [u32::MAX, 0], [0, u32::MAX], [u32::MAX, u32::MAX]] {
            let replicas = [busy, fresh()];
            let view = View { replicas: &replicas, has_primary: true, reach: Duration::ZERO };
            assert_eq!(choose(view, BOUND, random), Choice::Replica(1));
        }
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        let reasons = prop::sample::select(vec![Reason::Behind, Reason::Epoch, Reason::Down]);
        let refused = (reasons, any::<bool>()).prop_map(|(reason, for_good)| Refused { reason, for_good });
        let refused = prop::option::of(refused);
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        (flags, prop::option::of(0u64..3_000), 0usize..6, 0usize..6, 0u32..4, refused).prop_map(
            |(
                (usable, same_timeline, settled, same_zone),
                staleness,
                in_flight,
                capacity,
                weight,
                refused,
            )| {
                let staleness = staleness.map(Duration::from_millis);
                Candidate {
                    usable,
                    same_timeline,
                    staleness,
                    settled,
                    in_flight,
                    capacity,
                    weight,
                    same_zone,
                    refused,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_chosen_replica_is_provably_fit_and_nobody_fit_is_passed_over(
            replicas in prop::collection::vec(candidate(), 0..5),
            has_primary in any::<bool>(),
            bound_ms in 0u64..3_000,
            reach_ms in prop::sample::select(vec![0u64, 300]),
            random in any::<[u32; 2]>(),
        ) {
            let bound = Duration::from_millis(bound_ms);
            let view = View { replicas: &replicas, has_primary, reach: Duration::from_millis(reach_ms) };
            let fit = |c: &Candidate| c.usable && c.same_timeline && c.weight > 0 && c.refused.is_none()
                && c.staleness.is_some_and(|s| s <= if c.settled { bound } else { bound / 4 * 3 });
            let idle = |c: &Candidate| fit(c) && c.in_flight < c.capacity;
            match choose(view, Need::AtMost(bound), random) {
                Choice::Replica(i) => {
                    prop_assert!(fit(&replicas[i]) && still_does(&replicas[i], Need::AtMost(bound)));
                    prop_assert!(idle(&replicas[i]) || !replicas.iter().any(idle), "nobody waits for nothing");
                    let as_near = |c: &Candidate| c.same_zone && idle(c) == idle(&replicas[i]) && fit(c);
                    prop_assert!(replicas[i].same_zone || !replicas.iter().any(as_near));
                }
                Choice::Wait(i) => prop_assert!(reach_ms > 0 && !fit(&replicas[i])),
                Choice::Primary(reason) => {
                    prop_assert!(has_primary && !replicas.iter().any(fit));
                    prop_assert_eq!(reason.is_none(), replicas.is_empty());
                    prop_assert_ne!(reason, Some(Reason::Asked));
                }
                Choice::Nobody(_) => prop_assert!(!has_primary && !replicas.iter().any(fit)),
            }
        }
    }
}
