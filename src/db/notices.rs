//! The notices of one connection that change the meaning of a commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by a connection and the task that reads its messages.
#[derive(Clone, Default)]
pub(super) struct Notices(Arc<Noticed>);

#[derive(Default)]
struct Noticed {
    awaits_commit: AtomicBool,
    replication_cancelled: AtomicBool,
}

impl Notices {
    /// Every warning has SQLSTATE 01000, so this one is recognized by PostgreSQL's
    /// function that waits for a standby; its text depends on the server's
    /// language. A warning without the name of its function counts only while a
    /// COMMIT is awaited.
    pub fn note(&self, sqlstate: &str, routine: Option<&str>) {
        let is_cancelled_wait = match routine {
            Some(routine) => routine == "SyncRepWaitForLSN",
            None => self.0.awaits_commit.load(Ordering::SeqCst),
        };
        if sqlstate == "01000" && is_cancelled_wait {
            self.0.replication_cancelled.store(true, Ordering::SeqCst);
        }
    }

    pub fn awaits_commit(&self, awaits: bool) {
        self.0.awaits_commit.store(awaits, Ordering::SeqCst);
    }

    /// A commit on this connection is perhaps on no standby.
    pub fn replication_cancelled(&self) -> bool {
        self.0.replication_cancelled.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cancelled_wait_for_a_standby_counts() {
        let table = [
            ("01000", Some("SyncRepWaitForLSN"), false, true),
            ("01000", Some("exec_stmt_raise"), true, false),
            ("01000", Some("CheckMyDatabase"), false, false),
            ("01000", None, true, true),
            ("01000", None, false, false),
            ("00000", None, true, false),
            ("01004", None, true, false),
        ];
        for (sqlstate, routine, awaits_commit, cancelled) in table {
            let notices = Notices::default();
            notices.awaits_commit(awaits_commit);
            notices.note(sqlstate, routine);
            assert_eq!(notices.replication_cancelled(), cancelled, "{sqlstate} {routine:?} {awaits_commit}");
        }
    }
}
