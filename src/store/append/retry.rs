//! What follows a failed attempt: the table of `docs/architecture.md`, pure.

use std::time::Duration;

use super::transaction::{Cause, Locked};
use crate::db::{Class, DbError};
use crate::protocol::{Code, Refusal};
use crate::store::misconfigured;

/// The unique index that keeps an op from having two effects.
const OP_INDEX: &str = "room_event_op";
/// Attempts of one batch that may fail for reasons that pass by themselves.
pub(super) const MAX_RETRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Run it again after a pause; it counts as a retry.
    Retry,
    /// The server is gone, or isn't the one to write to: look for the primary
    /// and wait for it as long as the submits may wait.
    Reconnect,
    /// The server is there, but can't serve or must not be written: wait as
    /// long as the submits may wait.
    Wait,
    /// Leave locked rooms out.
    SkipLocked,
    /// Run the two halves one after the other; alone, the item is at fault.
    Halve,
    /// Run the two halves one after the other; alone, try again.
    HalveOrRetry,
}

/// `retries`: how many of this batch's attempts were retries already.
pub(super) fn next(cause: &Cause, locked: Locked, retries: u32) -> Next {
    match cause {
        Cause::Db(error) => after_error(error, locked, retries),
        Cause::NotClaimed | Cause::NoStandby => Next::Wait,
        Cause::TimedOut | Cause::Superseded | Cause::NoPrimary => Next::Reconnect,
    }
}

fn after_error(error: &DbError, locked: Locked, retries: u32) -> Next {
    match error.class() {
        Class::Serialization | Class::Deadlock | Class::NotReplicated | Class::Stale => Next::Retry,
        // Once more as it is; then perhaps it is too much for one statement.
        Class::Cancelled if retries == 0 => Next::Retry,
        Class::Cancelled | Class::OutOfMemory => Next::HalveOrRetry,
        Class::LockTimeout if locked == Locked::Wait => Next::SkipLocked,
        Class::LockTimeout => Next::Retry,
        Class::Connection | Class::ReadOnly => Next::Reconnect,
        Class::TooManyConnections | Class::PoolTimeout | Class::Storage => Next::Wait,
        Class::UniqueViolation if error.constraint() == Some(OP_INDEX) => Next::Retry,
        Class::UniqueViolation | Class::BadInput | Class::Misconfigured | Class::Other => Next::Halve,
    }
}

/// Full jitter, doubling from 10 ms.
pub(super) fn pause(attempt: u32) -> Duration {
    let longest = LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(attempt.min(8)));
    rand::random_range(Duration::ZERO..=longest)
}

/// What a submit without effect is told when it can't wait any longer.
pub(super) fn refusal(cause: Option<&Cause>) -> Refusal {
    let (code, message) = match cause {
        Some(Cause::NotClaimed) => {
            (Code::ReadOnly, "the room's shard has a primary that is not cleared for writing")
        }
        Some(Cause::NoStandby) => (Code::ReadOnly, "the room's shard has no synchronous standby"),
        Some(Cause::Db(error)) if error.class() == Class::LockTimeout => {
            (Code::ShardUnavailable, "the room is locked by somebody else; nothing was written")
        }
        Some(Cause::Db(error)) if matches!(error.class(), Class::TooManyConnections | Class::PoolTimeout) => {
            (Code::Overloaded, "the room's shard takes no more connections; nothing was written")
        }
        Some(Cause::Db(error)) if error.class() == Class::Misconfigured => {
            return misconfigured("the room's shard", error);
        }
        _ => (Code::ShardUnavailable, "the room's shard can't be written now; nothing was written"),
    };
    Refusal::new(code, message).retry_after_ms(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(class: Class) -> Cause {
        Cause::Db(DbError::new(class, "test", "for the table"))
    }

    #[test]
    fn every_class_has_its_action() {
        let first = [
            (Class::Serialization, Next::Retry),
            (Class::Deadlock, Next::Retry),
            (Class::LockTimeout, Next::SkipLocked),
            (Class::Cancelled, Next::Retry),
            (Class::Connection, Next::Reconnect),
            (Class::TooManyConnections, Next::Wait),
            (Class::PoolTimeout, Next::Wait),
            (Class::ReadOnly, Next::Reconnect),
            (Class::NotReplicated, Next::Retry),
            (Class::Stale, Next::Retry),
            (Class::Misconfigured, Next::Halve),
            (Class::Storage, Next::Wait),
            (Class::OutOfMemory, Next::HalveOrRetry),
            (Class::UniqueViolation, Next::Halve),
            (Class::BadInput, Next::Halve),
            (Class::Other, Next::Halve),
        ];
        for (class, action) in first {
            assert_eq!(next(&error(class), Locked::Wait, 0), action, "{class:?}");
        }
        assert_eq!(next(&error(Class::Cancelled), Locked::Wait, 1), Next::HalveOrRetry);
        assert_eq!(next(&error(Class::LockTimeout), Locked::Skip, 0), Next::Retry);
    }

    #[test]
    fn pauses_are_jittered_and_bounded() {
        for attempt in 0..100 {
            assert!(pause(attempt) <= LONGEST_PAUSE);
        }
        assert!(pause(0) <= FIRST_PAUSE);
    }
}
