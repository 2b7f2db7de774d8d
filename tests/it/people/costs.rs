//! `docs/costs.md` names each route and message, and the parties and limits of each.

use std::collections::{BTreeMap, BTreeSet};

use roomgate::config::Limits;
use roomgate::dev::Api;

use super::rights::{ADDRESSES, Class};
use super::strangers::{body, routes, send};
use crate::world::World;

/// Name, party, memory and limits.
type Row = (String, String, String, String);

fn rows(heading: &str) -> Vec<Row> {
    let section = include_str!("../../../docs/costs.md").split_once(&format!("\n## {heading}\n")).unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    let row = |line: &str| {
        let cells: Vec<String> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
        let [name, who, memory, limits] = cells.try_into().unwrap_or_else(|_| panic!("{line}"));
        (name, who, memory, limits)
    };
    section.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

#[tokio::test]
async fn each_route_is_documented_with_the_party_that_may_use_it() {
    let world = World::shared();
    let documented: BTreeMap<String, String> =
        rows("Routes").into_iter().map(|(name, who, ..)| (name, who)).collect();
    let described = routes(world).await;
    let names: BTreeSet<String> =
        described.iter().map(|(method, path)| format!("{} {path}", method.to_uppercase())).collect();
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), names);

    let nobody = Api::new(&world.cluster().nodes()[0].url());
    for (method, path) in &described {
        let who = &documented[&format!("{} {path}", method.to_uppercase())];
        let concrete = path.replace("{room}", "77").replace("{user}", "ann").replace("{invite}", "1");
        let answer = send(&nobody, method, &concrete, body(method, path)).await;
        let told = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        let needs_token = told.starts_with("sign in: Authorization: Bearer");
        assert_eq!(needs_token, who != "anyone", "{method} {path}: {}", answer.text);
    }
    for (method, path, class) in ADDRESSES.iter().filter(|(_, path, _)| path.starts_with("/v1/")) {
        let path = path.split('?').next().unwrap();
        let expected = match class {
            Class::Known => "known",
            Class::Read => "reader",
            Class::Write => "writer",
            Class::Enter => "self",
            Class::Manage | Class::ManageAnyway => "owner",
        };
        assert_eq!(documented[&format!("{method} {path}")], expected, "{method} {path}");
    }
}

#[test]
fn each_message_is_documented_and_its_limits_are_keys() {
    let messages = rows("Messages");
    let names: BTreeSet<&str> = messages.iter().map(|(name, ..)| name.as_str()).collect();
    let types = roomgate::metrics::gateway::MESSAGE_TYPES.into_iter().filter(|name| *name != "invalid");
    assert_eq!(names, types.collect());
    let keys = serde_json::to_value(Limits::default()).unwrap();
    for (name, .., limits) in messages.iter().chain(&rows("Routes")) {
        for limit in limits.split(", ").filter(|limit| !limit.is_empty()) {
            let key = limit.trim_matches('`');
            assert!(keys.get(key).is_some(), "{name} names {key}, which is no key of [limits]");
        }
    }
}
