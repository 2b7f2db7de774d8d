//! Each setting that a role may be given, with its most hostile values.

use std::collections::BTreeMap;

use super::classes::is_decided;
use super::connector;
use crate::append::world::{World, message, put};

/// A value that only makes connecting take for ever.
const NOT_TRIED: [&str; 1] = ["post_auth_delay"];

/// A setting of the server, as `pg_settings` describes it.
struct Known {
    name: String,
    category: String,
    kind: String,
    values: Vec<String>,
    is_of_a_session: bool,
}

async fn all(world: &World) -> Vec<Known> {
    let ask = "SELECT name, category, vartype,
                      CASE vartype WHEN 'bool' THEN ARRAY['on', 'off']
                                   WHEN 'enum' THEN enumvals
                                   WHEN 'string' THEN '{}'
                                   ELSE ARRAY[min_val, max_val] END,
                      context IN ('user', 'superuser', 'backend', 'superuser-backend')
                 FROM pg_settings WHERE context <> 'internal' ORDER BY name";
    let rows = world.admin.query(ask, &[]).await.unwrap();
    let known = |row: &tokio_postgres::Row| Known {
        name: row.get(0),
        category: row.get(1),
        kind: row.get(2),
        values: row.get(3),
        is_of_a_session: row.get(4),
    };
    rows.iter().map(known).collect()
}

/// Valid values that could do harm. PostgreSQL lists none for a text.
fn texts(name: &str) -> &'static [&'static str] {
    match name {
        "search_path" => &["pg_catalog", ""],
        "DateStyle" => &["SQL, DMY", "German"],
        "TimeZone" => &["Asia/Kathmandu"],
        "default_table_access_method" => &["heap"],
        "lc_messages" => &["C"],
        _ => &[],
    }
}

#[tokio::test]
async fn each_setting_of_postgres_is_set_checked_or_harmless() {
    let world = World::start().await;
    let undecided: Vec<String> = all(&world)
        .await
        .iter()
        .filter(|known| !is_decided(&known.name, &known.category))
        .map(|known| format!("{} ({}, {})", known.name, known.category, known.kind))
        .collect();
    assert!(undecided.is_empty(), "decide about:\n{}", undecided.join("\n"));
}

/// Else a slow statement would put drawings and digests into the server's log.
#[tokio::test]
async fn shipped_servers_log_no_parameters() {
    let world = World::start().await;
    let patroni = include_str!("../../../deploy/patroni/patroni.yml");
    for name in ["log_parameter_max_length", "log_parameter_max_length_on_error"] {
        let value = world.admin.query_one(&format!("SHOW {name}"), &[]).await.unwrap();
        assert_eq!(value.get::<_, &str>(0), "0", "{name}");
        assert!(patroni.contains(&format!("{name}: 0\n")), "{name}");
    }
}

#[tokio::test]
async fn no_setting_of_the_role_changes_an_ack() {
    let world = World::start().await;
    let connector = connector(&world.server);
    let mut outcomes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for known in all(&world).await.iter().filter(|known| known.is_of_a_session) {
        let texts = texts(&known.name).iter().map(|&text| text.to_owned());
        let values = known.values.iter().cloned().chain(texts);
        for value in values.filter(|_| !NOT_TRIED.contains(&known.name.as_str())) {
            let Known { name, .. } = known;
            let set = format!("ALTER ROLE roomgate SET {name} = '{value}'");
            if world.admin.batch_execute(&set).await.is_err() {
                outcomes.entry("not a value for a role").or_default().push(format!("{name} = {value}"));
                continue;
            }
            let outcome = match connector.connect().await {
                Ok(_) => {
                    an_ack_is_true(&world, name, &value).await;
                    "kept"
                }
                Err(error) => {
                    let told = error.to_string();
                    assert!(
                        told.contains(name.as_str()) && told.contains("needs"),
                        "{name} = {value}: {told}"
                    );
                    "refused by name"
                }
            };
            outcomes.entry(outcome).or_default().push(format!("{name} = {value}"));
            world.sql(&format!("ALTER ROLE roomgate RESET {name}")).await;
        }
    }
    for (outcome, settings) in &outcomes {
        println!("{outcome}: {}: {}", settings.len(), settings.join(", "));
    }
    assert!(outcomes["kept"].len() > 200, "{} values were tried", outcomes["kept"].len());
    assert!(outcomes["refused by name"].iter().any(|each| each.starts_with("session_replication_role")));
}

/// An op has one effect, the log has one order and holds the acked events alone.
async fn an_ack_is_true(world: &World, name: &str, value: &str) {
    let (node, room) = (world.node().await, world.room().await);
    let told = |what: &str| format!("{name} = {value}: {what}");
    let first = node.submit(put(room, "a", "s", 1)).ack().await;
    let again = node.submit(put(room, "a", "s", 1)).ack().await;
    let second = node.submit(message(room, "b", "it's \\ NULL")).ack().await;
    let seqs = [first, again, second].map(|ack| (ack.position.seq.0, ack.duplicate));
    assert_eq!(seqs, [(1, false), (1, true), (2, false)], "{}", told("acks"));
    let ops: Vec<String> = world.log(room).await.into_iter().map(|(_, op)| op).collect();
    assert_eq!(ops, ["a", "b"], "{}", told("the log"));
}
