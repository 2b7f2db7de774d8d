//! What an operator may rely on.

use figment::error::Kind;
use figment::value::{Dict, Tag, Value};
use serde::Deserialize;

use std::collections::BTreeSet;

use super::*;

const FILE: &str = include_str!("../../config/roomgate.toml");

/// The commented file with variables and flags on top.
fn load(environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let file = Some(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config/roomgate.toml")));
    Sources { file, environment: owned(environment), flags: owned(flags) }.load()
}

fn problem(environment: &[(&str, &str)]) -> String {
    load(environment, &[]).unwrap_err().to_string()
}

#[test]
fn the_commented_file_is_valid_and_holds_the_defaults() {
    let config = Config::parse(FILE).unwrap();
    let shown = |value: &dyn std::fmt::Debug| format!("{value:#?}");
    assert_eq!(shown(&config.listen), shown(&Listen::default()));
    assert_eq!(shown(&config.pool), shown(&Pool::default()));
    assert_eq!(shown(&config.reads), shown(&Reads::default()));
    assert_eq!(shown(&config.writes), shown(&Writes::default()));
    assert_eq!(shown(&config.migrations), shown(&Migrations::default()));
    assert_eq!(shown(&config.sessions), shown(&Sessions::default()));
    assert_eq!(shown(&config.history), shown(&History::default()));
    assert_eq!(shown(&config.limits), shown(&Limits::default()));
    assert_eq!(shown(&config.jobs), shown(&Jobs::default()));
    assert_eq!(shown(&config.mail), shown(&Mail::default()));
    assert_eq!(shown(&config.log), shown(&Log::default()));
    assert_eq!(shown(&config.traces), shown(&Traces::default()));
    assert_eq!(config.auth.access_token, quarter_hour());
    assert_eq!(config.auth.refresh_token, thirty_days());
    assert_eq!(config.node.expected_nodes, 1);
    assert_eq!(config.shards[0].weight, 100);
    assert_eq!(config.shards[0].endpoints[0].weight, 100);
    assert_eq!(config.shards[0].endpoints[0].port, 5432);
}

/// The known keys of a section are what serde says when it meets another one.
fn keys_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let strange = Dict::from([("?".to_owned(), Value::from(1))]);
    match T::deserialize(&Value::Dict(Tag::Default, strange)).map(drop).unwrap_err().kind {
        Kind::UnknownField(_, known) => known,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_commented_file_names_every_key() {
    let sections: [(&str, &[&str]); 18] = [
        ("[node]", keys_of::<Node>()),
        ("[listen]", keys_of::<Listen>()),
        ("[[directory.endpoints]]", keys_of::<Endpoint>()),
        ("[[shards.endpoints]]", keys_of::<Endpoint>()),
        ("[pool]", keys_of::<Pool>()),
        ("[reads]", keys_of::<Reads>()),
        ("[writes]", keys_of::<Writes>()),
        ("[migrations]", keys_of::<Migrations>()),
        ("[redis]", keys_of::<Redis>()),
        ("[[auth.keys]]", keys_of::<SigningKey>()),
        ("[sessions]", keys_of::<Sessions>()),
        ("[history]", keys_of::<History>()),
        ("[limits]", keys_of::<Limits>()),
        ("[memory]", keys_of::<Memory>()),
        ("[jobs]", keys_of::<Jobs>()),
        ("[mail]", keys_of::<Mail>()),
        ("[log]", keys_of::<Log>()),
        ("[traces]", keys_of::<Traces>()),
    ];
    for (header, keys) in sections {
        let body = FILE.split_once(&format!("\n{header}\n")).unwrap().1;
        let body = body.split_once("\n[").map_or(body, |(section, _)| section);
        for key in keys {
            let (set, commented) = (format!("{key} = "), format!("# {key} = "));
            let named = body.lines().any(|line| line.starts_with(&set) || line.starts_with(&commented));
            assert!(named, "{header} does not name {key}");
        }
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let loaded = load(
        &[("ROOMGATE__POOL__MAX_CONNECTIONS", "30"), ("ROOMGATE__POOL__MIN_IDLE", "7"), ("OTHER", "x")],
        &[("pool.max_connections", "40")],
    )
    .unwrap();
    assert_eq!(loaded.config.pool.max_connections, 40);
    assert_eq!(loaded.config.pool.min_idle, 7);
    let origin = |path: [&str; 2]| loaded.origin(&path.map(str::to_owned)).to_owned();
    assert_eq!(origin(["pool", "max_connections"]), "--set pool.max_connections");
    assert_eq!(origin(["pool", "min_idle"]), "ROOMGATE__POOL__MIN_IDLE");
    assert!(origin(["pool", "idle_timeout_ms"]).ends_with("roomgate.toml"));
}

#[test]
fn a_text_becomes_what_its_key_needs() {
    let config = load(
        &[
            ("ROOMGATE__LISTEN__ALLOWED_ORIGINS", "self, https://draw.example:8443"),
            ("ROOMGATE__LISTEN__LEGACY_PROTOCOL", "true"),
            ("ROOMGATE__WRITES__DURABILITY", "sync"),
            ("ROOMGATE__NODE__NAME", "17"),
            ("ROOMGATE__LISTEN__PUBLIC", "127.0.0.1:0"),
        ],
        &[],
    )
    .unwrap()
    .config;
    assert_eq!(config.listen.allowed_origins, ["self", "https://draw.example:8443"]);
    assert!(config.listen.legacy_protocol);
    assert_eq!(config.writes.durability, Durability::Sync);
    assert_eq!(config.node.name.as_str(), "17");
    assert_eq!(config.listen.public.port(), 0);
}

#[test]
fn list_elements_are_set_by_index_and_by_name_and_appended() {
    let config = load(
        &[
            ("ROOMGATE__SHARDS__1__NAME", "b"),
            ("ROOMGATE__SHARDS__B__ENDPOINTS__0__NAME", "b-1"),
            ("ROOMGATE__SHARDS__B__ENDPOINTS__0__HOST", "10.0.0.2"),
            ("ROOMGATE__SHARDS__B__ENDPOINTS__B_1__DATABASE", "roomgate"),
            ("ROOMGATE__SHARDS__1__ENDPOINTS__0__USER", "roomgate"),
            ("ROOMGATE__SHARDS__A__ENDPOINTS__A_1__PORT", "6000"),
            ("ROOMGATE__AUTH__KEYS__K1__FILE", "elsewhere"),
        ],
        &[],
    )
    .unwrap()
    .config;
    assert_eq!(config.shards[1].name.as_str(), "b");
    assert_eq!(config.shards[1].endpoints[0].host, "10.0.0.2");
    assert_eq!(config.shards[1].endpoints[0].port, 5432);
    assert_eq!(config.shards[0].endpoints[0].port, 6000);
    assert_eq!(config.auth.keys[0].file, PathBuf::from("elsewhere"));
    assert!(problem(&[("ROOMGATE__SHARDS__C__WEIGHT", "1")]).contains("no element is called C"));
    assert!(problem(&[("ROOMGATE__SHARDS__9__WEIGHT", "1")]).contains("9 is beyond"));
}

#[test]
fn every_password_survives_in_every_form() {
    let scratch = std::env::temp_dir().join(format!("roomgate-config-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    let passwords = [
        "p#a$s!w@o:r/d%20 x",
        " lead and trail ",
        "12345",
        "true",
        "[1]",
        "{a=1}",
        "\"q\"",
        "'",
        "a\\b",
        "ü",
    ];
    for password in passwords {
        let key = "ROOMGATE__SHARDS__A__ENDPOINTS__A_1__PASSWORD";
        let by_variable = load(&[(key, password)], &[]).unwrap().config;
        let by_flag = load(&[], &[("shards.a.endpoints.a-1.password", password)]).unwrap().config;
        let file = scratch.join("password");
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let by_file = load(&[(&format!("{key}_FILE"), file.to_str().unwrap())], &[]).unwrap().config;
        let quoted = toml_text(password);
        let text =
            FILE.replacen("user = \"roomgate\"", &format!("user = \"roomgate\"\npassword = {quoted}"), 2);
        let in_toml = Config::parse(&text).unwrap();
        for config in [by_variable, by_flag, by_file, in_toml] {
            let found = config.shards[0].endpoints[0].password.clone().unwrap();
            assert_eq!(found.reveal(), password);
            assert!(!format!("{config:?}").contains(password) || password.len() < 6);
            assert!(!serde_json::to_string(&config).unwrap().contains("p#a$s"));
        }
    }
    std::fs::remove_dir_all(&scratch).unwrap();
}

fn toml_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[test]
fn unknown_keys_name_the_nearest_and_their_place_all_at_once() {
    let told = problem(&[
        ("ROOMGATE__POOL__MAX_CONECTIONS", "3"),
        ("ROOMGATE__SHARDS__A__ENDPOINTS__A_1__PASWORD", "hunter2"),
        ("ROOMGATE__REEDS__MAX_STALE_MS", "3"),
    ]);
    assert!(
        told.contains(
            "ROOMGATE__POOL__MAX_CONECTIONS: unknown key pool.max_conections; did you mean max_connections?"
        ),
        "{told}"
    );
    assert!(told.contains("did you mean password?"), "{told}");
    assert!(told.contains("did you mean reads?"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let told = Config::parse(&FILE.replace("lanes = 4", "lains = 4")).unwrap_err().to_string();
    assert!(told.contains("unknown key writes.lains; did you mean lanes?"), "{told}");
}

#[test]
fn errors_name_the_key_and_never_a_secret() {
    let told =
        Config::parse(&FILE.replacen("# password = \"\"", "password = 4711", 2)).unwrap_err().to_string();
    assert!(told.contains("password must be a string, not an integer"), "{told}");
    assert!(!told.contains("4711"), "{told}");
    let told = Config::parse(&FILE.replacen("# password = \"\"", "password = \"hunter2", 1))
        .unwrap_err()
        .to_string();
    assert!(told.contains("line"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let told = Config::parse(&FILE.replace("url = \"redis", "# url = \"redis")).unwrap_err().to_string();
    assert!(told.contains("redis.url is missing") && told.contains("ROOMGATE__REDIS__URL"), "{told}");
    let told = problem(&[("ROOMGATE__POOL__MAX_CONNECTIONS", "many")]);
    assert!(
        told.starts_with("ROOMGATE__POOL__MAX_CONNECTIONS: pool.max_connections must be an integer"),
        "{told}"
    );
}

#[test]
fn what_can_not_work_is_refused_at_boot() {
    let refused = [
        ("ROOMGATE__POOL__MIN_IDLE", "99", "pool.min_idle"),
        ("ROOMGATE__POOL__MAX_CONNECTIONS", "0", "pool.max_connections"),
        ("ROOMGATE__WRITES__LANES", "0", "writes.lanes"),
        ("ROOMGATE__SESSIONS__HEARTBEAT_MS", "0", "sessions.heartbeat_ms"),
        ("ROOMGATE__SESSIONS__ROOM_LINGER_MS", "500", "sessions.room_linger_ms"),
        ("ROOMGATE__LISTEN__ALLOWED_ORIGINS", "https://*.example", "is no origin"),
        ("ROOMGATE__LISTEN__ALLOWED_ORIGINS", "https://example/", "is no origin"),
        ("ROOMGATE__REDIS__URL", "redis://:secret@host", "no secret"),
        ("ROOMGATE__SHARDS__A__NAME", "directory", "taken"),
        ("ROOMGATE__AUTH__KEYS", "", "auth.keys: at least one"),
        ("ROOMGATE__SHARDS", "", "shards: at least one"),
        ("ROOMGATE__NODE__NAME", "a b", "node must be"),
    ];
    for (variable, value, expected) in refused {
        let told = problem(&[(variable, value)]);
        assert!(told.contains(expected), "{variable}={value}: {told}");
    }
    let twice =
        FILE.replace("[pool]", "[[auth.keys]]\nkid = \"k1\"\nalg = \"HS256\"\nfile = \"x\"\n\n[pool]");
    assert!(Config::parse(&twice).unwrap_err().to_string().contains("two have the kid k1"));
    let shard = "[[shards]]\nname = \"b\"\n[[shards.endpoints]]\nname = \"b-1\"\nhost = \"127.0.0.1\"\n\
                 database = \"roomgate\"\nuser = \"roomgate\"\n\n[pool]";
    let told = Config::parse(&FILE.replace("[pool]", shard)).unwrap_err().to_string();
    assert!(told.contains("two have the same database"), "{told}");
}

#[test]
fn only_a_server_on_this_machine_need_not_prove_its_name() {
    let tls = |settings: &[(&str, &str)]| {
        let name = |key: &str| format!("ROOMGATE__SHARDS__A__ENDPOINTS__A_1__{key}");
        let owned: Vec<(String, &str)> = settings.iter().map(|(key, value)| (name(key), *value)).collect();
        let environment: Vec<(&str, &str)> =
            owned.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        load(&environment, &[]).map(|loaded| loaded.config.shards[0].endpoints[0].tls())
    };
    for here in ["127.0.0.1", "localhost", "::1", "127.8.0.1", "/run/postgresql"] {
        assert_eq!(tls(&[("HOST", here)]), Ok(Tls::Off), "{here}");
    }
    for elsewhere in ["10.0.0.2", "db", "localhost.example", "0.0.0.0"] {
        assert_eq!(tls(&[("HOST", elsewhere)]), Ok(Tls::Verify), "{elsewhere}");
    }
    assert_eq!(tls(&[("HOST", "db"), ("TLS", "off")]), Ok(Tls::Off));
    assert_eq!(tls(&[("CA_FILE", "ca.pem")]), Ok(Tls::Verify));
    let both = tls(&[("CA_FILE", "ca.pem"), ("TLS", "off")]).unwrap_err().to_string();
    assert!(both.contains("a-1 has a ca_file, but its tls is off"), "{both}");
}

#[test]
fn a_public_listener_for_other_machines_needs_tls_in_front() {
    let listen = |public: &str, behind_tls: &str| {
        load(&[("ROOMGATE__LISTEN__PUBLIC", public), ("ROOMGATE__LISTEN__BEHIND_TLS", behind_tls)], &[])
            .map(|_| ())
    };
    for here in ["127.0.0.1:8080", "127.8.0.1:0", "[::1]:8080", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(listen(here, "false"), Ok(()), "{here}");
    }
    for open in ["0.0.0.0:8080", "[::]:8080", "10.0.0.5:443", "[::ffff:10.0.0.5]:80"] {
        let told = listen(open, "false").unwrap_err().to_string();
        assert!(told.contains("listen.behind_tls = true"), "{open}: {told}");
        assert_eq!(listen(open, "true"), Ok(()), "{open}");
    }
    assert!(Listen::default().public.ip().is_loopback(), "the default needs no proxy");
}

#[test]
fn redis_on_another_machine_needs_tls_and_a_password() {
    let redis = |settings: &[(&str, &str)]| {
        let name = |key: &str| format!("ROOMGATE__REDIS__{key}");
        let owned: Vec<(String, &str)> = settings.iter().map(|(key, value)| (name(key), *value)).collect();
        let environment: Vec<(&str, &str)> =
            owned.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        load(&environment, &[]).map(|_| ())
    };
    for here in ["redis://127.0.0.1", "redis://localhost:6379", "redis://[::1]:6379/0", "redis://127.9.9.9"] {
        assert_eq!(redis(&[("URL", here)]), Ok(()), "{here}");
    }
    let elsewhere =
        ["redis://10.0.0.2:6379", "redis://localhost.example", "redis://redis", "redis://0.0.0.0"];
    for elsewhere in elsewhere.into_iter().chain(["rediss://redis:6380", "redis://127.0.0.1.example:6379"]) {
        let told = redis(&[("URL", elsewhere)]).unwrap_err().to_string();
        assert!(
            told.contains("names another machine") && told.contains("redis.insecure"),
            "{elsewhere}: {told}"
        );
        assert_eq!(redis(&[("URL", elsewhere), ("INSECURE", "true")]), Ok(()), "{elsewhere}");
    }
    let plain = redis(&[("URL", "redis://redis:6379"), ("PASSWORD", "pw")]);
    assert!(plain.unwrap_err().to_string().contains("use rediss://"));
    assert_eq!(redis(&[("URL", "rediss://redis:6379"), ("PASSWORD", "pw")]), Ok(()));
}

#[test]
fn what_changed_is_told_by_name_and_never_by_value() {
    let before =
        load(&[("ROOMGATE__SHARDS__A__ENDPOINTS__A_1__PASSWORD", "s3cret-one")], &[]).unwrap().config;
    let mut after = before.clone();
    assert!(before.changed_to(&after).is_empty());
    after.limits.submit_burst += 1;
    after.log.filter = "debug".to_owned();
    after.pool.max_connections += 1;
    after.shards[0].endpoints[0].password = Some(Secret::new("s3cret-two"));
    after.shards[0].endpoints[0].port += 1;
    let another = SigningKey { kid: "k2".to_owned(), ..after.auth.keys[0].clone() };
    after.auth.keys.insert(0, another);
    let changed = before.changed_to(&after);
    let told: Vec<&str> = changed.iter().map(String::as_str).collect();
    let expected = [
        "auth.keys.k2",
        "limits.submit_burst",
        "log.filter",
        "pool.max_connections",
        "shards.a.endpoints.a-1.password",
        "shards.a.endpoints.a-1.port",
    ];
    assert_eq!(told, expected);
    let live: Vec<&str> = told.into_iter().filter(|key| Config::is_live(key)).collect();
    assert_eq!(live, expected[..3]);

    let mut in_force = before.clone();
    in_force.take_live(&after);
    let waiting: Vec<String> = in_force.changed_to(&after).into_iter().collect();
    assert_eq!(waiting, expected[3..], "what waits for a restart is told again");
    in_force.auth.keys.reverse();
    assert!(after.changed_to(&in_force).contains("auth.keys"), "the first one signs");
}

/// What the file says is live is what is.
#[test]
fn the_commented_file_marks_what_is_live() {
    for (at, key) in [
        ("aud of every token, required. Live", "auth.issuer"),
        ("after refresh_token_ms. Live", "auth.keys.k1.file"),
        ("All of it is live", "limits.json_depth"),
        ("# Live.\nfilter", "log.filter"),
    ] {
        assert!(FILE.contains(at) && Config::is_live(key), "{key}");
    }
    for key in ["log.format", "auth.access_token_ms", "pool.max_connections", "limitsx"] {
        assert!(!Config::is_live(key), "{key}");
    }
}

#[test]
fn traces_are_only_taken_by_a_build_that_has_them() {
    let told = |pairs: &[(&str, &str)]| load(pairs, &[]).map(|loaded| loaded.config.traces.sample_ratio);
    assert_eq!(told(&[("ROOMGATE__TRACES__SAMPLE_RATIO", "0.5")]), Ok(0.5));
    let ratio = told(&[("ROOMGATE__TRACES__SAMPLE_RATIO", "2")]).unwrap_err().to_string();
    assert!(ratio.contains("traces.sample_ratio must be from 0 to 1"), "{ratio}");
    let endpoint = told(&[("ROOMGATE__TRACES__OTLP_ENDPOINT", "http://127.0.0.1:4318")]);
    if cfg!(feature = "otlp") {
        assert_eq!(endpoint, Ok(0.01));
        let secure = problem(&[("ROOMGATE__TRACES__OTLP_ENDPOINT", "https://collector:4318")]);
        assert!(secure.contains("must be http://host:port"), "{secure}");
    } else {
        let missing = endpoint.unwrap_err().to_string();
        assert!(missing.contains("this build has no traces: build with --features otlp"), "{missing}");
    }
}

/// A new key of `[limits]` needs a row with its default.
#[test]
fn every_limit_has_a_row_with_its_default_in_the_docs() {
    let document = include_str!("../../docs/limits.md");
    let (limits, memory) = (serde_json::to_value(Limits::default()), serde_json::to_value(Memory::default()));
    let (limits, memory) = (limits.unwrap(), memory.unwrap());
    let limits = limits.as_object().unwrap().iter().map(|(key, default)| (key.clone(), default));
    let memory = memory.as_object().unwrap().iter().map(|(key, default)| (format!("memory.{key}"), default));
    let defaults: Vec<_> = limits.chain(memory).collect();
    for (key, default) in &defaults {
        let row = format!("| `{key}` | {default} | ");
        assert!(document.contains(&row), "docs/limits.md needs: {row}");
    }
    let rows = document.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, defaults.len(), "docs/limits.md describes a key that is gone");
}

/// A new key is either lifted by `roomgate dev --no-limits` or named here.
#[test]
fn every_limit_is_a_count_or_a_size() {
    let sizes = [
        "submit_burst",
        "join_burst",
        "message_burst",
        "byte_burst",
        "rooms_per_session",
        "message_bytes",
        "frame_bytes",
        "json_depth",
    ];
    let known: BTreeSet<&str> = Limits::COUNTS.into_iter().chain(sizes).collect();
    assert_eq!(keys_of::<Limits>().iter().copied().collect::<BTreeSet<_>>(), known);
}
