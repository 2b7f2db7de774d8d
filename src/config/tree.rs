//! The configuration before it has types: a tree of values, each with where it
//! came from.

use std::collections::BTreeMap;

use figment::value::{Dict, Tag, Value};

/// Where the values that don't come from the file were set.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    file: Option<String>,
    set_by: BTreeMap<Vec<String>, String>,
}

impl Origins {
    pub(super) fn new(file: Option<String>) -> Self {
        Self { file, set_by: BTreeMap::new() }
    }

    /// The file, variable or flag that a reader has to change.
    pub(super) fn place(&self, path: &[String]) -> String {
        let below = || self.set_by.iter().find(|(key, _)| key.starts_with(path)).map(|(_, by)| by);
        match self.set_by.get(path).or_else(below) {
            Some(by) => by.clone(),
            None => self.file.clone().unwrap_or_else(|| "the configuration".to_owned()),
        }
    }

    /// The variable or flag that set exactly this key.
    pub(super) fn set_by(&self, path: &[String]) -> Option<&str> {
        self.set_by.get(path).map(String::as_str)
    }

    pub(super) fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

/// Puts `text` at `address`, whose segments name keys (case and `-` `.` `_`
/// don't matter), or elements of a list by index or by their `name` or `kid`.
/// An index one past the end appends. `by` is noted as its origin.
pub(super) fn set(
    root: &mut Dict,
    origins: &mut Origins,
    address: &[String],
    text: &str,
    by: &str,
) -> Result<(), String> {
    let mut path = Vec::new();
    let (last, inner) = address.split_last().ok_or("names no key")?;
    let mut tree = Value::Dict(Tag::Default, std::mem::take(root));
    let result = descend(&mut tree, inner, last, &mut path).and_then(|parent| {
        let key = enter(parent, last, None)?;
        path.push(key.0);
        *key.1 = Value::from(text);
        Ok(())
    });
    if let Value::Dict(_, dict) = tree {
        *root = dict;
    }
    result?;
    origins.set_by.insert(path, by.to_owned());
    Ok(())
}

fn descend<'a>(
    mut node: &'a mut Value,
    inner: &[String],
    last: &String,
    path: &mut Vec<String>,
) -> Result<&'a mut Value, String> {
    for (index, segment) in inner.iter().enumerate() {
        let next = inner.get(index + 1).unwrap_or(last);
        let (key, child) = enter(node, segment, Some(next))?;
        path.push(key);
        node = child;
    }
    Ok(node)
}

/// The child of `node` that `segment` names, made if it may be; `next` tells
/// whether a new one is a list.
fn enter<'a>(
    node: &'a mut Value,
    segment: &str,
    next: Option<&String>,
) -> Result<(String, &'a mut Value), String> {
    match node {
        Value::Dict(_, dict) => {
            let known = dict.keys().find(|key| same_name(key, segment)).cloned();
            let key = known.unwrap_or_else(|| segment.to_lowercase());
            let empty = || match next.map(|next| next.parse::<usize>()) {
                Some(Ok(_)) => Value::from(Vec::<Value>::new()),
                _ => Value::from(Dict::new()),
            };
            Ok((key.clone(), dict.entry(key).or_insert_with(empty)))
        }
        Value::Array(_, items) => {
            let index = match segment.parse::<usize>() {
                Ok(index) => index,
                Err(_) => items
                    .iter()
                    .position(|item| is_called(item, segment))
                    .ok_or_else(|| format!("no element is called {segment}"))?,
            };
            if index == items.len() {
                items.push(Value::from(Dict::new()));
            }
            let length = items.len();
            let item =
                items.get_mut(index).ok_or_else(|| format!("{index} is beyond the {length} elements"))?;
            Ok((index.to_string(), item))
        }
        _ => Err(format!("{segment} names a part of what has no parts")),
    }
}

fn is_called(item: &Value, segment: &str) -> bool {
    let Value::Dict(_, dict) = item else { return false };
    let names = ["name", "kid"].into_iter().filter_map(|key| dict.get(key)?.as_str());
    names.into_iter().any(|name| same_name(name, segment))
}

fn same_name(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace(['-', '.'], "_");
    plain(a) == plain(b)
}

/// The value at `path`, whose segments are exact.
pub(super) fn find<'a>(root: &'a mut Dict, path: &[String]) -> Option<&'a mut Value> {
    let (first, rest) = path.split_first()?;
    let mut node = root.get_mut(first)?;
    for segment in rest {
        node = match node {
            Value::Dict(_, dict) => dict.get_mut(segment)?,
            Value::Array(_, items) => items.get_mut(segment.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(node)
}

/// Takes the key at `path` out. False if there is none.
pub(super) fn remove(root: &mut Dict, path: &[String]) -> bool {
    let Some((last, inner)) = path.split_last() else { return false };
    if inner.is_empty() {
        return root.remove(last).is_some();
    }
    match find(root, inner) {
        Some(Value::Dict(_, dict)) => dict.remove(last).is_some(),
        _ => false,
    }
}
