//! What two configurations differ in: names of keys, never values.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Config, Secret, Shard};

/// What takes effect while a node runs. Everything else is read at its start.
const LIVE: [&str; 5] = ["limits", "log.filter", "auth.issuer", "auth.audience", "auth.keys"];

impl Config {
    /// The dotted names of what is another in `new`. Elements of lists are called
    /// by their `name` or `kid`, as in the environment.
    pub fn changed_to(&self, new: &Self) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        let document = |config: &Self| serde_json::to_value(config).expect("texts, numbers, lists, sections");
        compare("", &document(self), &document(new), &mut changed);
        // Secrets are masked in the documents.
        let (before, after) = (self.secrets(), new.secrets());
        let moved = before.iter().filter(|secret| !after.contains(secret));
        changed.extend(moved.map(|(key, _)| key.clone()));
        changed
    }

    /// Whether this key, as `changed_to` names it, needs no restart.
    pub fn is_live(key: &str) -> bool {
        let below =
            |live: &str| key.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        LIVE.iter().any(|live| below(live))
    }

    /// The keys, as `changed_to` names them, of shards that only `new` has.
    pub fn shards_to_join(&self, new: &Self) -> BTreeSet<String> {
        let is_new = |shard: &&Shard| self.shards.iter().all(|known| known.name != shard.name);
        new.shards.iter().filter(is_new).map(|shard| format!("shards.{}", shard.name)).collect()
    }

    /// Takes over what is live of `new`, but for shards, which join one by one.
    pub fn take_live(&mut self, new: &Self) {
        self.limits = new.limits.clone();
        self.log.filter.clone_from(&new.log.filter);
        self.auth.issuer.clone_from(&new.auth.issuer);
        self.auth.audience.clone_from(&new.auth.audience);
        self.auth.keys.clone_from(&new.auth.keys);
    }

    fn secrets(&self) -> Vec<(String, Option<&Secret>)> {
        let shards = self.shards.iter().map(|shard| (format!("shards.{}", shard.name), &shard.endpoints));
        let databases = shards.chain([("directory".to_owned(), &self.directory.endpoints)]);
        let endpoints = databases.flat_map(|(path, endpoints)| {
            let password = move |name: &str| format!("{path}.endpoints.{name}.password");
            endpoints.iter().map(move |endpoint| (password(&endpoint.name), endpoint.password.as_ref()))
        });
        let others = [
            ("redis.password".to_owned(), self.redis.password.as_ref()),
            ("migrations.password".to_owned(), self.migrations.password.as_ref()),
        ];
        endpoints.chain(others).collect()
    }
}

fn compare(path: &str, before: &Value, after: &Value, changed: &mut BTreeSet<String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                let part = |of: &serde_json::Map<String, Value>| of.get(key).cloned().unwrap_or_default();
                compare(&below(key), &part(old), &part(new), changed);
            }
        }
        (Value::Array(old), Value::Array(new)) if is_list_of_sections(old) && is_list_of_sections(new) => {
            let names = |list: &[Value]| list.iter().map(name).collect::<Vec<_>>();
            let (old_names, new_names) = (names(old), names(new));
            for key in old_names.iter().chain(&new_names).collect::<BTreeSet<_>>() {
                let part = |list: &[Value]| list.iter().find(|item| name(item) == *key).cloned();
                let (old, new) = (part(old).unwrap_or_default(), part(new).unwrap_or_default());
                compare(&below(key), &old, &new, changed);
            }
            let is_same_set =
                old_names.len() == new_names.len() && old_names.iter().all(|n| new_names.contains(n));
            if is_same_set && old_names != new_names {
                // Their order counts: tokens are signed with the first key.
                changed.insert(path.to_owned());
            }
        }
        _ if before == after => {}
        _ => drop(changed.insert(path.to_owned())),
    }
}

fn is_list_of_sections(list: &[Value]) -> bool {
    !list.is_empty() && list.iter().all(Value::is_object)
}

fn name(item: &Value) -> String {
    let named = ["name", "kid"].into_iter().find_map(|key| item.get(key)?.as_str());
    named.unwrap_or_default().to_owned()
}
