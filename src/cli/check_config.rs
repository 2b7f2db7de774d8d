//! `roomgate check-config`: what would be used, and whether everything named in
//! it answers.

use clap::Args;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use super::{ConfigArgs, Failure};
use crate::auth::{Verifier, key_weaknesses};
use crate::bus;
use crate::config::{Config, Durability, Endpoint, Loaded, Tls, advice};
use crate::db::migrate::{self, Schema};
use crate::db::{
    Budget, Connector, DbError, Demand, ServerFacts, SessionSettings, tables_without_privileges,
};
use crate::tasks::Tasks;

/// Print the configuration that would be used, secrets masked, and reach every
/// server in it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  roomgate check-config --config config/roomgate.toml")]
pub struct CheckConfigArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only look at the configuration itself
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One line of the outcome.
struct Finding {
    /// Nothing works without it; else it is advice.
    fatal: bool,
    subject: String,
    text: String,
}

pub(super) async fn run(args: CheckConfigArgs) -> Result<(), Failure> {
    let loaded = args.config.load()?;
    let values = flat(&loaded);
    let mut findings = advise(&loaded.config);
    if let Err(error) = Verifier::load(&loaded.config.auth) {
        findings.push(Finding { fatal: true, subject: "auth.keys".to_owned(), text: error.to_string() });
    }
    let mut reached = Vec::new();
    if !args.offline {
        (reached, findings) = reach(&loaded.config, findings).await;
    }
    if args.json {
        print_json(&values, &reached, &findings);
    } else {
        print_text(&values, &reached, &findings);
    }
    let fatal = findings.iter().filter(|finding| finding.fatal).count();
    if fatal == 0 { Ok(()) } else { Err(Failure::new(format!("{fatal} problem(s)"))) }
}

/// Advice about settings and keys that work and are seldom wanted.
fn advise(config: &Config) -> Vec<Finding> {
    let settings = advice(config).into_iter().map(|(key, text)| (key.to_owned(), text));
    let keys = config.auth.keys.iter().flat_map(|key| {
        let subject = format!("auth.keys.{}", key.kid);
        key_weaknesses(key).into_iter().map(move |text| (subject.clone(), text))
    });
    settings.chain(keys).map(|(subject, text)| Finding { fatal: false, subject, text }).collect()
}

/// Every key with its value and where that came from.
fn flat(loaded: &Loaded) -> Vec<(String, Value, String)> {
    fn walk(path: &mut Vec<String>, value: Value, loaded: &Loaded, out: &mut Vec<(String, Value, String)>) {
        let children: Vec<(String, Value)> = match value {
            Value::Object(map) if !map.is_empty() => map.into_iter().collect(),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                items.into_iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
            }
            // A key without a default that nobody set.
            Value::Null => return,
            leaf => return out.push((path.join("."), leaf, loaded.origin(path).to_owned())),
        };
        for (key, child) in children {
            path.push(key);
            walk(path, child, loaded, out);
            path.pop();
        }
    }
    let document = serde_json::to_value(&loaded.config).expect("texts, numbers, lists and sections");
    let mut out = Vec::new();
    walk(&mut Vec::new(), document, loaded, &mut out);
    out
}

/// What answered, and what is wrong with it.
async fn reach(config: &Config, mut findings: Vec<Finding>) -> (Vec<String>, Vec<Finding>) {
    let tasks = Tasks::new();
    let of_directory = config.directory.endpoints.iter().map(|e| ("directory", Schema::Directory, e));
    let of_shards = config
        .shards
        .iter()
        .flat_map(|shard| shard.endpoints.iter().map(|e| (shard.name.as_str(), Schema::Shard, e)));
    let all: Vec<_> = of_directory.chain(of_shards).collect();
    let asked = join_all(all.iter().map(|(name, schema, e)| ask(config, name, *schema, e, &tasks))).await;
    let budget = Budget::of(config);
    let mut reached = Vec::new();
    let mut primaries: Vec<&str> = Vec::new();
    for ((name, _, endpoint), answer) in all.iter().zip(asked) {
        let subject = format!("{name}/{}", endpoint.name);
        match answer {
            Ok(Answer { facts, schema, forbidden, missing }) => {
                let role = if facts.is_replica { "replica" } else { "primary" };
                let tls = if endpoint.tls() == Tls::Verify { "over TLS" } else { "without TLS" };
                reached.push(format!("{subject}: {role}, PostgreSQL {}, {tls}", facts.version));
                if !facts.is_replica {
                    primaries.push(name);
                }
                let mut advise =
                    |fatal, text| findings.push(Finding { fatal, subject: subject.clone(), text });
                judge(config, &budget.demand(endpoint), &facts, &mut advise);
                if let Err(error) = schema {
                    advise(true, error.to_string());
                }
                if !forbidden.is_empty() {
                    let tables = forbidden.join(", ");
                    advise(
                        true,
                        format!(
                            "the role may not read and write {tables}: run `roomgate migrate up`, \
                        which grants it (migrations.grant_to)"
                        ),
                    );
                }
                missing.into_iter().for_each(|statement| advise(true, format!("PgBouncer: {statement}")));
            }
            Err(error) => findings.push(Finding { fatal: true, subject, text: error.to_string() }),
        }
    }
    let names = config.shards.iter().map(|shard| shard.name.as_str()).chain(["directory"]);
    for name in names {
        let count = primaries.iter().filter(|primary| **primary == name).count();
        if count != 1 {
            let text = format!("{count} primaries answer, 1 is needed");
            findings.push(Finding { fatal: true, subject: name.to_owned(), text });
        }
    }
    // Rooms go on without Redis, slower.
    let mut advise = |text| findings.push(Finding { fatal: false, subject: "redis".to_owned(), text });
    match bus::probe(&config.redis).await {
        Ok(problems) if problems.is_empty() => reached.push(format!("redis: {} answers", config.redis.url)),
        Ok(problems) => problems.into_iter().for_each(advise),
        Err(error) => advise(error.to_string()),
    }
    (reached, findings)
}

struct Answer {
    facts: ServerFacts,
    /// Whether the gateway can use the schema.
    schema: Result<(), migrate::MigrateError>,
    /// Tables that the role may not read and write.
    forbidden: Vec<String>,
    /// The settings that the role lacks behind a PgBouncer, as statements.
    missing: Vec<String>,
}

async fn ask(
    config: &Config,
    name: &str,
    schema: Schema,
    endpoint: &Endpoint,
    tasks: &Tasks,
) -> Result<Answer, DbError> {
    let settings = SessionSettings {
        application_name: "roomgate/check-config".to_owned(),
        connect_timeout: config.pool.connect_timeout,
        statement_timeout: config.pool.statement_timeout,
        lock_timeout: config.writes.lock_timeout,
        search_path: schema.namespace(),
    };
    let connection = Connector::new(endpoint, settings.clone(), tasks).connect().await?;
    let facts = ServerFacts::ask(&connection).await?;
    let missing = match &endpoint.pgbouncer {
        None => Vec::new(),
        Some(_) => Connector::pooled(endpoint, settings.clone(), tasks).missing_settings().await?,
    };
    let forbidden = tables_without_privileges(&connection, schema.namespace()).await?;
    Ok(Answer { facts, schema: migrate::require(&connection, schema, name).await, forbidden, missing })
}

fn judge(config: &Config, demand: &Demand, facts: &ServerFacts, advise: &mut impl FnMut(bool, String)) {
    if let Err(over) = demand.check(facts.connections) {
        advise(true, over.to_string());
    }
    if !facts.may_monitor {
        let text = "its user can't watch replication: GRANT pg_monitor to it".to_owned();
        advise(false, text);
    }
    if config.writes.durability == Durability::Sync && !facts.is_replica && !facts.synchronous {
        advise(true, "writes.durability is sync, but synchronous_standby_names is empty".to_owned());
    }
}

/// PostgreSQL's rule of thumb, for a server like this machine.
fn suggested_pool() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) * 2 + 1
}

fn print_text(values: &[(String, Value, String)], reached: &[String], findings: &[Finding]) {
    for (key, value, origin) in values {
        println!("{key} = {value}  # {origin}");
    }
    println!();
    for line in reached {
        println!("ok    {line}");
    }
    for finding in findings {
        let grade = if finding.fatal { "FAIL " } else { "warn " };
        println!("{grade} {}: {}", finding.subject, finding.text);
    }
    println!(
        "pool: {} connections in all keep a server with as many cores as this machine busy (cores x 2 + 1)",
        suggested_pool()
    );
}

fn print_json(values: &[(String, Value, String)], reached: &[String], findings: &[Finding]) {
    let values: Map<String, Value> = values
        .iter()
        .map(|(key, value, origin)| (key.clone(), json!({"value": value, "origin": origin})))
        .collect();
    let findings: Vec<Value> =
        findings.iter().map(|f| json!({"fatal": f.fatal, "subject": f.subject, "text": f.text})).collect();
    let suggested = suggested_pool();
    println!(
        "{:#}",
        json!({"values": values, "reached": reached, "findings": findings, "suggested_pool": suggested})
    );
}
