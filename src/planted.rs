//! Mistakes that can be switched on, to see that the fault runner's checker
//! catches each of them. Only in builds with the feature `planted`; in all others
//! every question here is answered "no" when it is compiled.

#[cfg(feature = "planted")]
use std::sync::LazyLock;

/// What is to go wrong in this process. The names are those of `ROOMGATE_PLANTED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Submits are answered, and only then committed.
    AckBeforeCommit,
    /// Events are announced, and only then committed.
    AnnounceBeforeCommit,
    /// A COMMIT without an answer is taken for a failure.
    UnknownIsFailure,
    /// It isn't looked whether an op is in the log already.
    OpsForgotten,
    /// What the locks protect is read before they are held, as in one statement
    /// that locks and reads.
    ReadBeforeLock,
    /// The answers of a batch go to its submits in reverse.
    AnswersReversed,
    /// The state table keeps what the log deletes.
    TombstonesForgotten,
    /// A position is accepted whatever its epoch.
    LostPositionAccepted,
    /// An early event doesn't wait for the missing ones.
    HolesDelivered,
    /// An event that comes a second time is delivered a second time.
    DuplicatesDelivered,
    /// Events that come together are delivered in reverse.
    BatchReversed,
    /// A session that resumes misses the first event.
    ResumeOffByOne,
    /// Heads are not compared with the log.
    HeadCheckOff,
    /// A session whose outbox is full goes on without what found no room.
    LagSkips,
    /// A replica's answer is taken as new enough, whatever was asked.
    FreshnessUnchecked,
    /// No bug but a fault: the process ends between a COMMIT and its announcement,
    /// now and then.
    CrashBeforeAnnounce,
    /// No bug but a fault: COMMIT succeeds and its answer is lost, now and then.
    CommitAnswerLost,
}

impl Bug {
    pub const ALL: [Self; 17] = [
        Self::AckBeforeCommit,
        Self::AnnounceBeforeCommit,
        Self::UnknownIsFailure,
        Self::OpsForgotten,
        Self::ReadBeforeLock,
        Self::AnswersReversed,
        Self::TombstonesForgotten,
        Self::LostPositionAccepted,
        Self::HolesDelivered,
        Self::DuplicatesDelivered,
        Self::BatchReversed,
        Self::ResumeOffByOne,
        Self::HeadCheckOff,
        Self::LagSkips,
        Self::FreshnessUnchecked,
        Self::CrashBeforeAnnounce,
        Self::CommitAnswerLost,
    ];
}

/// Whether `bug` is planted in this process.
#[cfg(not(feature = "planted"))]
pub const fn has(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub fn has(bug: Bug) -> bool {
    PLANTED.contains(&bug)
}

/// Several are separated by commas.
#[cfg(feature = "planted")]
#[expect(clippy::disallowed_methods, reason = "not configuration: no user can set it")]
static PLANTED: LazyLock<Vec<Bug>> = LazyLock::new(|| {
    let names = std::env::var("ROOMGATE_PLANTED").unwrap_or_default();
    let find = |name| Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    names.split(',').filter(|name| !name.is_empty()).map(|name| find(name).expect("a known bug")).collect()
});

/// Ends the process where [`Bug::CrashBeforeAnnounce`] is planted, once in a while.
pub fn crash_before_announcing() {
    if has(Bug::CrashBeforeAnnounce) && rand::random_ratio(1, 60) {
        std::process::abort();
    }
}

/// Whether this COMMIT's answer is to be lost.
pub fn loses_answer() -> bool {
    has(Bug::CommitAnswerLost) && rand::random_ratio(1, 20)
}
