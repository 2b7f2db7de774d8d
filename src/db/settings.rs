//! The settings of a session, and of its server, that the gateway's guarantees
//! depend on.
//!
//! A database administrator may change any of them for a role, a database or a
//! server, for reasons of their own. Guarantee: a connection is handed out only
//! if each of them has the value named here. The gateway sets those that a
//! session may set ([`PINNED`], [`PLANNER`]) in the start-up packet, which stands
//! above the role's, the database's and the server's own values; so they cost no
//! round trip in a transaction. The others ([`CHECKED`]) are compared when a
//! connection opens and at every look of the monitor. Behind a PgBouncer nothing
//! can be set: all are compared, and a transaction sets those that decide what an
//! ack means ([`IN_A_TRANSACTION`]).

use std::time::Duration;

use super::error::{Class, DbError};
use super::{Row, Sql};

/// A setting with the one value that keeps a guarantee.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub name: &'static str,
    /// As `pg_settings` shows it.
    pub value: &'static str,
    /// The guarantee that holds only with this value.
    pub keeps: &'static str,
}

const fn setting(name: &'static str, value: &'static str, keeps: &'static str) -> Setting {
    Setting { name, value, keeps }
}

const EXACT: &str = "values keep their form on the way between servers";
const WHOLE: &str = "a statement finds every row that it asks for";

/// A session sets these for itself.
pub const PINNED: [Setting; 17] = [
    setting(
        "default_transaction_isolation",
        "read committed",
        "a statement sees the change whose lock it waited for",
    ),
    setting("default_transaction_read_only", "off", "a primary takes writes"),
    setting("default_transaction_deferrable", "off", "a transaction starts at once"),
    setting("client_min_messages", "warning", "PostgreSQL reports a cancelled wait for a standby"),
    setting("row_security", "off", "a row policy raises an error and hides no row"),
    setting("gin_fuzzy_search_limit", "0", WHOLE),
    setting("transform_null_equals", "off", WHOLE),
    setting("default_table_access_method", "heap", "a migration makes tables of the tested kind"),
    setting("exit_on_error", "off", "a failed statement keeps its connection"),
    setting("idle_session_timeout", "0", "an idle connection stays open"),
    setting("standard_conforming_strings", "on", EXACT),
    setting("array_nulls", "on", EXACT),
    setting("bytea_output", "hex", EXACT),
    setting("extra_float_digits", "1", EXACT),
    setting("DateStyle", "ISO, MDY", EXACT),
    setting("IntervalStyle", "postgres", EXACT),
    setting("TimeZone", "UTC", EXACT),
];

/// Every statement of the gateway looks things up by key, so its plan is a
/// nested loop over an index, and is made once. Left to itself, PostgreSQL plans
/// those with short arrays anew each time, which costs several times what it
/// takes to run them; and a plan made while a table was small, which is when a
/// new shard's connections are opened, reads the whole table until the next
/// ANALYZE, however large it has grown.
pub const PLANNER: [(&str, &str); 10] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("enable_nestloop", "on"),
    ("enable_indexscan", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_bitmapscan", "on"),
    // It looks at costs, which the switches above raise where nothing else is left.
    ("jit", "off"),
];

/// Only a superuser or the server's configuration sets these.
pub const CHECKED: [Setting; 7] = [
    setting("fsync", "on", "an acked event survives a crash of the operating system"),
    setting("full_page_writes", "on", "an acked event survives a crash of the operating system"),
    setting("data_sync_retry", "off", "an acked event survives a failed write to disk"),
    setting("ignore_invalid_pages", "off", "a recovery restores every page"),
    setting("zero_damaged_pages", "off", "a damaged page raises an error and loses no row"),
    setting("ignore_checksum_failure", "off", "a damaged page raises an error"),
    setting("session_replication_role", "origin", "triggers and foreign keys work"),
];

const DURABLE: &str = "an acked event survives a crash of PostgreSQL";
/// The values of `synchronous_commit` under which COMMIT waits for the disk, and
/// for a standby if there is one to wait for.
const DURABLE_VALUES: [&str; 2] = ["on", "remote_apply"];

/// For a session: keeps `remote_apply`, which promises more than `on`, and ends no
/// transaction by the clock (PostgreSQL 17). A start-up packet can do neither.
pub(super) const IN_A_SESSION: &str =
    "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                         WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false);
     SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'";

/// The isolation level is named where it is relied on.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// For one transaction behind a PgBouncer. It may run on a connection that PgBouncer
/// opened before or after the comparison. One message, one round trip.
pub(super) const IN_A_TRANSACTION: &str = "BEGIN ISOLATION LEVEL READ COMMITTED;
     SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                         WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
            set_config('client_min_messages', 'warning', true),
            set_config('row_security', 'off', true)";

/// The settings of a connection for one purpose. Behind a PgBouncer the role needs
/// them as its own.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Shown in `pg_stat_activity`, e.g. `roomgate/n1/append`.
    pub application_name: String,
    /// From TCP to "ready for query".
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
    /// The schema of the tables: `public` on a shard, `directory` for the directory.
    pub search_path: &'static str,
}

impl SessionSettings {
    /// The settings that a session sets, as `pg_settings` shows them.
    fn chosen(&self) -> Vec<(&'static str, String)> {
        let millis = |time: Duration| time.as_millis().to_string();
        let mut chosen = vec![
            ("statement_timeout", millis(self.statement_timeout)),
            ("lock_timeout", millis(self.lock_timeout)),
            ("idle_in_transaction_session_timeout", millis(self.statement_timeout * 2)),
            ("search_path", self.search_path.to_owned()),
        ];
        chosen.extend(PINNED.map(|pinned| (pinned.name, pinned.value.to_owned())));
        chosen.extend(PLANNER.map(|(name, value)| (name, value.to_owned())));
        chosen
    }

    /// For the start-up packet.
    pub(super) fn options(&self) -> String {
        let escaped = |value: String| value.replace('\\', "\\\\").replace(' ', "\\ ");
        let options = self.chosen().into_iter().map(|(name, value)| format!("-c {name}={}", escaped(value)));
        options.collect::<Vec<_>>().join(" ")
    }

    /// The names to look up with [`FOUND`].
    pub(super) fn names(&self) -> Vec<&'static str> {
        let chosen = self.chosen().into_iter().map(|(name, _)| name);
        chosen.chain(CHECKED.map(|checked| checked.name)).chain(["synchronous_commit"]).collect()
    }

    /// Compares the rows of [`FOUND`].
    pub(super) fn compare(&self, rows: &[Row]) -> Vec<Difference> {
        let found: Vec<(&str, &str)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        self.differences(&found)
    }

    fn differences(&self, found: &[(&str, &str)]) -> Vec<Difference> {
        let keeps = |name: &str| {
            let of = PINNED.iter().chain(&CHECKED).find(|setting| setting.name == name);
            of.map(|setting| setting.keeps).or((name == "search_path").then_some(WHOLE))
        };
        let chosen = self.chosen().into_iter();
        let wanted = chosen.chain(CHECKED.map(|checked| (checked.name, checked.value.to_owned())));
        let mut differences: Vec<Difference> = wanted
            .filter_map(|(name, wanted)| {
                // A setting that this version of PostgreSQL doesn't have can't be wrong.
                let (_, found) = found.iter().find(|(found, _)| *found == name)?;
                (*found != wanted).then(|| Difference {
                    name,
                    found: (*found).to_owned(),
                    wanted,
                    keeps: keeps(name),
                })
            })
            .collect();
        let commit = found.iter().find(|(name, _)| *name == "synchronous_commit");
        if let Some((_, value)) = commit.filter(|(_, value)| !DURABLE_VALUES.contains(value)) {
            let (found, wanted) = ((*value).to_owned(), "on".to_owned());
            differences.push(Difference { name: "synchronous_commit", found, wanted, keeps: Some(DURABLE) });
        }
        differences
    }
}

pub(super) static FOUND: Sql =
    Sql { name: "server_settings", text: "SELECT name, setting FROM pg_settings WHERE name = ANY($1)" };

/// A setting that has another value than the gateway needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    name: &'static str,
    found: String,
    wanted: String,
    /// The guarantee that the difference breaks; `None`: statements only get slower.
    keeps: Option<&'static str>,
}

impl Difference {
    pub fn breaks_a_guarantee(&self) -> bool {
        self.keeps.is_some()
    }

    /// For the role of a pool behind a PgBouncer.
    pub fn alter_role(&self, user: &str, database: &str) -> String {
        let Self { name, wanted, .. } = self;
        format!("ALTER ROLE \"{user}\" IN DATABASE \"{database}\" SET {name} = '{wanted}'")
    }

    /// The error that names `server`. `remedy` tells the operator how to mend it.
    pub fn refusal(&self, server: &str, remedy: &str) -> DbError {
        let Self { name, found, wanted, keeps } = self;
        let keeps = keeps.unwrap_or("statements are fast");
        let message = format!(
            "server {server} has {name} = {found}. The gateway needs {name} = {wanted}: only then {keeps}. {remedy}"
        );
        DbError::new(Class::Misconfigured, "connect", message)
    }

    /// For a setting that no session can choose.
    pub fn remedy(&self) -> String {
        let Self { name, wanted, .. } = self;
        format!(
            "Find where it is set (SELECT source, sourcefile FROM pg_settings WHERE name = '{name}'; \
             SELECT * FROM pg_db_role_setting) and set it to {wanted} there"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SessionSettings {
        SessionSettings {
            application_name: "test".to_owned(),
            connect_timeout: Duration::from_secs(1),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_millis(250),
            search_path: "public",
        }
    }

    #[test]
    fn options_escape_spaces() {
        let options = settings().options();
        assert!(options.contains("-c default_transaction_isolation=read\\ committed "), "{options}");
        assert!(options.contains("-c DateStyle=ISO,\\ MDY"), "{options}");
    }

    #[test]
    fn each_wrong_value_is_a_difference_that_names_it() {
        for right in PINNED.iter().chain(&CHECKED) {
            assert_eq!(settings().differences(&[(right.name, right.value)]), [], "{}", right.name);
            let wrong = settings().differences(&[(right.name, "other")]);
            let [difference] = &wrong[..] else { panic!("{}: {wrong:?}", right.name) };
            assert!(difference.breaks_a_guarantee());
            let text = difference.refusal("a-1", &difference.remedy()).to_string();
            for part in ["a-1", right.name, "other", right.value, right.keeps] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
    }

    #[test]
    fn commit_must_wait_for_the_disk_and_a_standby() {
        let table =
            [("on", true), ("remote_apply", true), ("remote_write", false), ("local", false), ("off", false)];
        for (value, is_durable) in table {
            let differences = settings().differences(&[("synchronous_commit", value)]);
            assert_eq!(differences.is_empty(), is_durable, "{value}: {differences:?}");
        }
    }
}
