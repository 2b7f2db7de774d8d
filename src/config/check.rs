//! What types can't say: ranges, and what must fit together.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use super::database::host_and_port;
use super::{Config, Endpoint, Jobs, Tls};

/// Adds a line for everything that can't work.
pub(super) fn check(config: &Config, problems: &mut Vec<String>) {
    let mut must = |holds: bool, problem: &str| {
        if !holds {
            problems.push(problem.to_owned());
        }
    };
    must(!config.shards.is_empty(), "shards: at least one is needed");
    must(!config.auth.keys.is_empty(), "auth.keys: at least one is needed");
    must(config.shards.iter().any(|shard| shard.weight > 0), "shards: one must have a weight above 0");
    must(!config.auth.issuer.is_empty(), "auth.issuer must not be empty");
    must(!config.auth.audience.is_empty(), "auth.audience must not be empty");
    must(config.node.expected_nodes > 0, "node.expected_nodes must be 1 or more");
    let same_port = config.listen.public.port() != 0 && config.listen.public == config.listen.admin;
    must(!same_port, "listen.public and listen.admin must differ");
    must(
        config.listen.behind_tls || config.listen.public.ip().to_canonical().is_loopback(),
        "listen.public is open to other machines, and the node speaks plain HTTP there: passwords and tokens \
         would travel in clear text. Put a proxy that speaks TLS in front and set listen.behind_tls = true, or \
         listen on 127.0.0.1",
    );
    for origin in &config.listen.allowed_origins {
        let exact = origin == "self" || is_origin(origin);
        must(
            exact,
            &format!("listen.allowed_origins: {origin:?} is no origin; write scheme://host[:port] or self"),
        );
    }
    let redis = &config.redis.url;
    let is_tls = redis.starts_with("rediss://");
    must(
        is_tls || redis.starts_with("redis://"),
        "redis.url must be redis://host:port, or rediss:// for TLS",
    );
    must(is_tls || config.redis.ca_file.is_none(), "redis.ca_file is only of use with rediss://");
    let is_safe = is_tls && config.redis.password.is_some();
    must(
        is_safe || config.redis.insecure || is_on_this_machine(redis),
        "redis.url names another machine: use rediss:// and set redis.username and redis.password (or \
         redis.password_file). On a network that you trust, set redis.insecure = true instead",
    );
    must(!redis.contains('@'), "redis.url must hold no secret: use redis.username and redis.password");
    must(!config.migrations.grant_to.is_empty(), "migrations.grant_to must not be empty");

    let pool = &config.pool;
    must(pool.max_connections >= 2, "pool.max_connections must be 2 or more");
    must(pool.min_idle <= pool.max_connections, "pool.min_idle must not exceed pool.max_connections");
    let writes = &config.writes;
    must((1..=64).contains(&writes.lanes), "writes.lanes must be from 1 to 64");
    must((1..=1000).contains(&writes.batch_max), "writes.batch_max must be from 1 to 1000");
    must(writes.lane_queue >= writes.batch_max, "writes.lane_queue must be writes.batch_max or more");
    let sessions = &config.sessions;
    must(sessions.outbox_bytes >= 64 * 1024, "sessions.outbox_bytes must be 65536 or more");
    must(sessions.ring_events > 0, "sessions.ring_events must be 1 or more");
    let snapshot_events = config.history.snapshot_events;
    must((10..=8000).contains(&snapshot_events), "history.snapshot_events must be from 10 to 8000");
    let limits = &config.limits;
    must(limits.message_bytes >= 1024, "limits.message_bytes must be 1024 or more");
    must(
        limits.frame_bytes >= limits.message_bytes,
        "limits.frame_bytes must be limits.message_bytes or more",
    );
    must((4..=128).contains(&limits.json_depth), "limits.json_depth must be from 4 to 128");

    problems.extend(config.mail.problem().map(str::to_owned));
    problems.extend(config.traces.problem().map(str::to_owned));
    check_times(config, problems);
    check_names(config, problems);
}

/// Whether a URL's host is a loopback address.
pub(super) fn is_on_this_machine(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Zero would mean "never" to one library and "at once" to the next.
fn check_times(config: &Config, problems: &mut Vec<String>) {
    let (listen, pool, reads) = (&config.listen, &config.pool, &config.reads);
    let (writes, sessions, auth) = (&config.writes, &config.sessions, &config.auth);
    let above_zero = [
        ("listen.drain_timeout_ms", listen.drain_timeout),
        ("pool.idle_timeout_ms", pool.idle_timeout),
        ("pool.acquire_timeout_ms", pool.acquire_timeout),
        ("pool.connect_timeout_ms", pool.connect_timeout),
        ("pool.statement_timeout_ms", pool.statement_timeout),
        ("reads.monitor_interval_ms", reads.monitor_interval),
        ("reads.monitor_timeout_ms", reads.monitor_timeout),
        ("writes.failover_wait_ms", writes.failover_wait),
        ("writes.lock_timeout_ms", writes.lock_timeout),
        ("migrations.lock_timeout_ms", config.migrations.lock_timeout),
        ("migrations.wait_ms", config.migrations.wait),
        ("sessions.heartbeat_ms", sessions.heartbeat),
        ("sessions.pong_timeout_ms", sessions.pong_timeout),
        ("sessions.hello_timeout_ms", sessions.hello_timeout),
        ("sessions.slow_consumer_timeout_ms", sessions.slow_consumer_timeout),
        ("sessions.head_check_ms", sessions.head_check),
        ("jobs.janitor_interval_ms", config.jobs.janitor_interval),
        ("history.snapshot_interval_ms", config.history.snapshot_interval),
        ("history.retention_interval_ms", config.history.retention_interval),
        ("auth.access_token_ms", auth.access_token),
        ("auth.refresh_token_ms", auth.refresh_token),
    ];
    for (key, time) in above_zero {
        if time == Duration::ZERO {
            problems.push(format!("{key} must be above 0"));
        }
    }
    if auth.token_max < auth.access_token {
        let problem = "auth.token_max_ms must be auth.access_token_ms or more: else no token is accepted";
        problems.push(problem.to_owned());
    }
    let audit_keep = config.jobs.audit_keep;
    if audit_keep != Duration::ZERO && audit_keep < Jobs::AUDIT_KEEP_MIN {
        let problem =
            "jobs.audit_keep_ms must be 2592000000 (30 days) or more, or 0 to keep the trail for ever";
        problems.push(problem.to_owned());
    }
    if sessions.room_linger < reads.max_stale {
        // Else a room could be forgotten and read again older than it was shown.
        problems.push("sessions.room_linger_ms must be reads.max_stale_ms or more".to_owned());
    }
    if reads.replica_wait > pool.acquire_timeout {
        problems.push("reads.replica_wait_ms must not exceed pool.acquire_timeout_ms".to_owned());
    }
}

fn check_names(config: &Config, problems: &mut Vec<String>) {
    twice("shards: two are called", config.shards.iter().map(|shard| shard.name.as_str()), problems);
    if config.shards.iter().any(|shard| shard.name.as_str() == "directory") {
        problems.push("shards: the name directory is taken by the directory".to_owned());
    }
    twice("auth.keys: two have the kid", config.auth.keys.iter().map(|key| key.kid.as_str()), problems);
    let of_shards = config.shards.iter().map(|shard| (shard.name.as_str(), &shard.endpoints));
    for (name, endpoints) in of_shards.chain([("directory", &config.directory.endpoints)]) {
        if endpoints.is_empty() {
            problems.push(format!("{name}: at least one endpoint is needed"));
        }
        twice(
            &format!("{name}: two endpoints are called"),
            endpoints.iter().map(|e| e.name.as_str()),
            problems,
        );
        let address = |e: &Endpoint| format!("{}:{}/{}", e.host, e.port, e.database);
        let addresses: Vec<String> = endpoints.iter().map(address).collect();
        twice(&format!("{name}: two endpoints are at"), addresses.iter().map(String::as_str), problems);
        for endpoint in endpoints {
            let pgbouncer = endpoint.pgbouncer.as_deref();
            if pgbouncer.is_some_and(|address| host_and_port(address).is_none()) {
                problems.push(format!("{name}: {}'s pgbouncer must be host:port", endpoint.name));
            }
            if endpoint.tls() == Tls::Off && endpoint.ca_file.is_some() {
                problems.push(format!("{name}: {} has a ca_file, but its tls is off", endpoint.name));
            }
            if endpoint.disk_bytes == Some(0) {
                problems.push(format!("{name}: {}'s disk_bytes must be more than 0", endpoint.name));
            }
            let texts = [&endpoint.name, &endpoint.host, &endpoint.database, &endpoint.user];
            if texts.iter().any(|text| text.is_empty()) || endpoint.port == 0 {
                problems.push(format!("{name}: an endpoint needs a name, host, port, database and user"));
            }
        }
    }
    if let Some(shared) = shared_database(config) {
        problems.push(format!("shards: two have the same database, {shared}"));
    }
}

/// Two shards on one database would fight over its slots.
fn shared_database(config: &Config) -> Option<String> {
    let mut seen = HashSet::new();
    let endpoints = config.shards.iter().flat_map(|shard| &shard.endpoints);
    let mut addresses = endpoints.map(|e| format!("{}:{}/{}", e.host, e.port, e.database));
    addresses.find(|address| !seen.insert(address.clone()))
}

fn twice<'a>(what: &str, names: impl Iterator<Item = &'a str>, problems: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            problems.push(format!("{what} {name}"));
        }
    }
}

/// Scheme, host and perhaps a port; no path, no wildcard.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    matches!(scheme, "http" | "https") && !rest.is_empty() && !rest.contains(['/', '*', ' ', '?', '#', '@'])
}
