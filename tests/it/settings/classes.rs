//! Every setting of PostgreSQL belongs to one class: the gateway sets it, checks
//! it, or does not depend on it. A new version's settings fail here until somebody
//! has decided.

use roomgate::db::{CHECKED, PINNED, PLANNER};

/// Set by other means than a list: by [`roomgate::db::SessionSettings`], or by the
/// driver.
const SET: [&str; 8] = [
    "application_name",
    "client_encoding",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "search_path",
    "statement_timeout",
    "synchronous_commit",
    "transaction_timeout",
];

/// An append reads these in its own transaction.
const READ: [&str; 1] = ["synchronous_standby_names"];

/// Groups of settings, by the beginning of their category, for speed, logs, counts and
/// access. They change neither the rows of a statement, nor the durability of a commit,
/// nor the text of a notice.
const HARMLESS_CATEGORIES: [&str; 23] = [
    "Autovacuum",
    "Client Connection Defaults / Locale and Formatting",
    "Client Connection Defaults / Shared Library Preloading",
    "Connections and Authentication",
    "Customized Options",
    "Error Handling",
    "File Locations",
    "Lock Management",
    "Preset Options",
    "Process Title",
    "Query Tuning",
    "Replication / Master Server",
    "Replication / Primary Server",
    "Replication / Sending Servers",
    "Replication / Standby Servers",
    "Replication / Subscribers",
    "Reporting and Logging",
    "Resource Usage",
    "Statistics",
    "Write-Ahead Log / Archive Recovery",
    "Write-Ahead Log / Archiving",
    "Write-Ahead Log / Checkpoints",
    "Write-Ahead Log / Recovery Target",
];

/// Settings of other categories, each with the reason why its value doesn't matter.
const HARMLESS: [(&str, &str); 49] = [
    ("allow_in_place_tablespaces", "the gateway makes no tablespace"),
    ("allow_system_table_mods", "the gateway changes no system table"),
    ("backtrace_functions", "only logs"),
    ("backslash_quote", "texts are parameters"),
    ("check_function_bodies", "a migration of another release fails, or its function does"),
    ("commit_delay", "a commit takes longer"),
    ("commit_siblings", "a commit takes longer"),
    ("createrole_self_grant", "the gateway makes no role"),
    ("debug_discard_caches", "statements are slower"),
    ("default_tablespace", "the administrator says where tables lie"),
    ("default_toast_compression", "values read the same"),
    ("dynamic_library_path", "the gateway loads no library"),
    ("escape_string_warning", "texts are parameters"),
    ("force_parallel_mode", "rows are the same"),
    ("gin_pending_list_limit", "writes are slower"),
    ("ignore_system_indexes", "statements are slower"),
    ("jit_debugging_support", "only for a debugger"),
    ("jit_dump_bitcode", "only writes files"),
    ("jit_expressions", "rows are the same"),
    ("jit_profiling_support", "only for a profiler"),
    ("jit_tuple_deforming", "rows are the same"),
    ("lo_compat_privileges", "the gateway has no large object"),
    ("post_auth_delay", "a connection takes longer"),
    ("pre_auth_delay", "a connection takes longer"),
    ("quote_all_identifiers", "the gateway reads no definition"),
    ("recovery_prefetch", "a recovery is slower"),
    ("remove_temp_files_after_crash", "temporary files hold nothing that is acked"),
    ("restrict_nonsystem_relation_kind", "the gateway reads no view and no foreign table"),
    ("synchronize_seqscans", "every list has an ORDER BY"),
    ("temp_tablespaces", "the administrator says where temporary files lie"),
    ("trace_notify", "only logs"),
    ("trace_recovery_messages", "only logs"),
    ("trace_sort", "only logs"),
    ("track_commit_timestamp", "nothing reads it"),
    ("transaction_deferrable", "of the transaction that runs; a new one takes its pinned default"),
    ("transaction_isolation", "of the transaction that runs; BEGIN names the level"),
    ("transaction_read_only", "of the transaction that runs; a new one takes its pinned default"),
    ("vacuum_cost_delay", "a vacuum takes longer"),
    ("wal_buffers", "writes are slower"),
    ("wal_compression", "WAL is smaller"),
    ("wal_consistency_checking", "a replica compares more"),
    ("wal_decode_buffer_size", "a recovery is slower"),
    ("wal_init_zero", "writes are slower"),
    ("wal_level", "without replicas there is nothing to send; with them PostgreSQL demands it"),
    ("wal_log_hints", "WAL is larger"),
    ("wal_recycle", "writes are slower"),
    ("wal_skip_threshold", "only for tables that the same transaction made"),
    ("wal_sync_method", "every method waits for the disk"),
    ("xmlbinary", "the gateway has no XML"),
];

/// The same of groups that are named by the beginning of the setting.
const HARMLESS_PREFIXES: [(&str, &str); 8] = [
    ("bonjour", "only a name in the network"),
    ("debug_", "only logs, or slower statements"),
    ("ssl", "the gateway verifies the server itself, or uses no TLS"),
    ("vacuum_", "a vacuum is rarer"),
    ("wal_writer", "an acked event does not wait for the WAL writer"),
    ("xmloption", "the gateway has no XML"),
    ("event_source", "only logs"),
    ("lc_", "the gateway reads no translated text"),
];

/// Whether a setting of this name and category belongs to a class.
pub fn is_decided(name: &str, category: &str) -> bool {
    let named = PINNED.iter().chain(&CHECKED).map(|setting| setting.name);
    named
        .chain(PLANNER.map(|(name, _)| name))
        .chain(SET)
        .chain(READ)
        .chain(HARMLESS.map(|(name, _)| name))
        .any(|known| known == name)
        || HARMLESS_PREFIXES.iter().any(|(prefix, _)| name.starts_with(prefix))
        || HARMLESS_CATEGORIES.iter().any(|known| category.starts_with(known))
}
