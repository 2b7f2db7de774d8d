//! Who is the primary: judged from what every endpoint says of itself, the
//! highest timeline ever seen, and the claim. Pure.
//!
//! A primary is accepted only out of recovery, on a timeline at least as high
//! as any seen before, and as claimed when a claim is known. An older one, or
//! a second one on the same timeline, is fenced off: nothing is written to it
//! and nothing is read from it.

use super::staleness::{Lsn, Timeline};

/// Identifies a PostgreSQL cluster, the same for a primary and its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SystemId(pub i64);

/// What an endpoint said of itself at the last poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    pub in_recovery: bool,
    /// The true one: of the WAL being written or, on a replica, received.
    pub timeline: Timeline,
    pub system_id: SystemId,
    /// Flushed on a primary, replayed on a replica.
    pub lsn: Lsn,
}

/// The term under which a shard may be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub timeline: Timeline,
    pub system_id: SystemId,
    /// Which endpoint was claimed, when the directory says so. It decides
    /// between two primaries of one timeline.
    pub endpoint: Option<String>,
}

/// What an endpoint may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It didn't answer.
    Down,
    Replica,
    Primary,
    /// Out of recovery on a higher timeline than the claim's: it may be written
    /// to once it is claimed.
    Unclaimed,
    Fenced(Fence),
}

/// Why an endpoint that answers is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// A primary of a timeline that has been left behind.
    OldTimeline,
    /// A second primary of the same timeline that nobody claimed.
    SameTimeline,
    /// Another cluster's data.
    OtherCluster,
}

impl Fence {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OldTimeline => "old_timeline",
            Self::SameTimeline => "same_timeline",
            Self::OtherCluster => "other_cluster",
        }
    }
}

/// Judges all endpoints of a shard; `sightings` and the answer are in the order
/// of the endpoints. `highest` is the highest timeline ever seen here, on
/// primaries and replicas alike: a replica that follows a newer primary proves
/// that there is one, even while it can't be reached. At most one endpoint is
/// writable, now (`Primary`) or once claimed (`Unclaimed`).
pub fn judge(
    names: &[&str],
    sightings: &[Option<Sighting>],
    highest: Timeline,
    claim: Option<&Claim>,
) -> Vec<Standing> {
    let floor = claim.map_or(highest, |claim| highest.max(claim.timeline));
    let newest = sightings
        .iter()
        .flatten()
        .filter(|seen| same_cluster(seen, claim))
        .map(|seen| seen.timeline)
        .fold(floor, Timeline::max);
    let rivals = sightings
        .iter()
        .flatten()
        .filter(|seen| !seen.in_recovery && same_cluster(seen, claim) && seen.timeline == newest)
        .count();
    let judge_one = |(name, seen): (&&str, &Option<Sighting>)| match seen {
        None => Standing::Down,
        Some(seen) if !same_cluster(seen, claim) => Standing::Fenced(Fence::OtherCluster),
        Some(seen) if seen.in_recovery => Standing::Replica,
        Some(seen) if seen.timeline < newest => Standing::Fenced(Fence::OldTimeline),
        Some(seen) => judge_newest(name, seen, rivals, claim),
    };
    names.iter().zip(sightings).map(judge_one).collect()
}

fn same_cluster(seen: &Sighting, claim: Option<&Claim>) -> bool {
    claim.is_none_or(|claim| claim.system_id == seen.system_id)
}

/// A primary on the newest timeline there is.
fn judge_newest(name: &str, seen: &Sighting, rivals: usize, claim: Option<&Claim>) -> Standing {
    let claimed = claim.filter(|claim| claim.timeline == seen.timeline);
    match claimed.map(|claim| claim.endpoint.as_deref()) {
        Some(Some(endpoint)) if endpoint == name => Standing::Primary,
        Some(Some(_)) => Standing::Fenced(Fence::SameTimeline),
        Some(None) if rivals == 1 => Standing::Primary,
        None if rivals == 1 && claim.is_none() => Standing::Primary,
        None if rivals == 1 => Standing::Unclaimed,
        Some(None) | None => Standing::Fenced(Fence::SameTimeline),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn seen(in_recovery: bool, timeline: u32) -> Option<Sighting> {
        Some(Sighting { in_recovery, timeline: Timeline(timeline), system_id: SystemId(7), lsn: Lsn(1) })
    }

    fn claim(timeline: u32, endpoint: Option<&str>) -> Claim {
        Claim { timeline: Timeline(timeline), system_id: SystemId(7), endpoint: endpoint.map(str::to_owned) }
    }

    #[test]
    fn an_old_primary_that_comes_back_is_fenced_even_if_it_is_alone() {
        let only_old = [seen(false, 1), None, None];
        assert_eq!(judge(&NAMES, &only_old, Timeline(2), None)[0], Standing::Fenced(Fence::OldTimeline));
        assert_eq!(
            judge(&NAMES, &only_old, Timeline(1), Some(&claim(2, None)))[0],
            Standing::Fenced(Fence::OldTimeline),
            "the claim remembers for a node that has just started"
        );
    }

    #[test]
    fn a_replica_of_a_newer_primary_fences_the_old_one() {
        let standing = judge(&NAMES, &[seen(false, 1), None, seen(true, 2)], Timeline(1), None);
        assert_eq!(standing, [Standing::Fenced(Fence::OldTimeline), Standing::Down, Standing::Replica]);
    }

    #[test]
    fn a_promoted_replica_waits_for_its_claim() {
        let promoted = [None, seen(false, 2), seen(true, 1)];
        let standing = judge(&NAMES, &promoted, Timeline(1), Some(&claim(1, Some("a"))));
        assert_eq!(standing, [Standing::Down, Standing::Unclaimed, Standing::Replica]);
        let standing = judge(&NAMES, &promoted, Timeline(1), Some(&claim(2, Some("b"))));
        assert_eq!(standing, [Standing::Down, Standing::Primary, Standing::Replica]);
    }

    #[test]
    fn of_two_primaries_on_one_timeline_the_claim_decides_or_nobody() {
        let two = [seen(false, 2), seen(false, 2), None];
        let fenced = Standing::Fenced(Fence::SameTimeline);
        for claim in [None, Some(claim(1, None)), Some(claim(2, None))] {
            assert_eq!(judge(&NAMES, &two, Timeline(1), claim.as_ref())[..2], [fenced, fenced]);
        }
        assert_eq!(
            judge(&NAMES, &two, Timeline(2), Some(&claim(2, Some("b"))))[..2],
            [fenced, Standing::Primary]
        );
    }

    #[test]
    fn another_clusters_server_is_never_used() {
        let mut foreign = claim(1, None);
        foreign.system_id = SystemId(8);
        let standing = judge(&NAMES, &[seen(false, 1), seen(true, 1), None], Timeline(1), Some(&foreign));
        let other = Standing::Fenced(Fence::OtherCluster);
        assert_eq!(standing, [other, other, Standing::Down]);
    }

    fn sighting() -> impl Strategy<Value = Option<Sighting>> {
        prop::option::of((any::<bool>(), 1u32..4, 7i64..9).prop_map(|(in_recovery, timeline, system)| {
            Sighting { in_recovery, timeline: Timeline(timeline), system_id: SystemId(system), lsn: Lsn(1) }
        }))
    }

    proptest! {
        #[test]
        fn at_most_one_primary_never_in_recovery_never_older_than_seen_or_claimed(
            sightings in prop::collection::vec(sighting(), 3),
            highest in 0u32..4,
            claimed in prop::option::of((1u32..4, prop::option::of(0usize..3))),
        ) {
            let claimed = claimed.map(|(t, e)| claim(t, e.map(|e| NAMES[e])));
            let standing = judge(&NAMES, &sightings, Timeline(highest), claimed.as_ref());
            let writable = |s: &Standing| matches!(s, Standing::Primary | Standing::Unclaimed);
            prop_assert!(standing.iter().filter(|s| writable(s)).count() <= 1);
            for (i, standing) in standing.iter().enumerate() {
                if writable(standing) {
                    let seen = sightings[i].unwrap();
                    prop_assert!(!seen.in_recovery && seen.timeline >= Timeline(highest));
                    if let Some(claim) = &claimed {
                        prop_assert!(seen.timeline >= claim.timeline && seen.system_id == claim.system_id);
                        let as_claimed = *standing == Standing::Primary;
                        prop_assert_eq!(as_claimed, seen.timeline == claim.timeline);
                    }
                }
            }
        }
    }
}
