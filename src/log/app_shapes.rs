//! Shapes as the drawing app stores them, and as the schema `drawing` has them.
//!
//! Both kinds of client share rooms, so a stored shape fits the schema: members
//! that the schema needs are added, and `{x, y}` points become pairs. The member
//! `app_form` names each such member, so that the app gets back the shape it sent,
//! and sees the changes that other clients made to it. Shapes that fit the schema
//! already are left as they are.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::protocol::Object;

/// The member that lists how the app's form differs. Its value is `true`, or for
/// points the app's own where they hold more than `x` and `y`.
const FORM: &str = "app_form";

/// Members of the schema, and the app's names for them.
const NAMES: [(&str, &[&str]); 6] = [
    ("x", &["startX", "centerX", "cx", "x1"]),
    ("y", &["startY", "centerY", "cy", "y1"]),
    ("x2", &["endX"]),
    ("y2", &["endY"]),
    ("radius", &["r"]),
    ("text", &["content", "value"]),
];

/// A shape that fits the schema, if `shape` is one of the app's forms that does not.
pub fn to_schema(shape: &Object) -> Option<Object> {
    let mut form = Map::new();
    let mut shape = shape.clone();
    let kind = shape.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let points =
        if matches!(kind.as_str(), "pencil" | "line" | "arrow") { points(&shape, &kind) } else { None };
    if let Some((pairs, mark)) = points {
        form.insert("points".to_owned(), mark);
        shape.insert("points".to_owned(), pairs);
    }
    for (member, names) in NAMES {
        if needs(&kind, member, shape.contains_key("points"))
            && is_absent(&shape, member)
            && let Some(value) = names.iter().find_map(|name| shape.get(*name)).cloned()
        {
            form.insert(member.to_owned(), Value::Bool(true));
            shape.insert(member.to_owned(), value);
        }
    }
    if kind == "circle" && is_absent(&shape, "radius") {
        form.insert("radius".to_owned(), Value::Bool(true));
        shape.insert("radius".to_owned(), box_radius(&shape).into());
    }
    if form.is_empty() {
        return None;
    }
    shape.insert(FORM.to_owned(), Value::Object(form));
    Some(shape)
}

/// A stored shape, JSON, in the form that the app sent.
pub fn to_app(json: &str) -> Cow<'_, str> {
    // Most shapes have no other form, and needn't be parsed.
    if !json.contains(FORM) {
        return Cow::Borrowed(json);
    }
    let Ok(mut shape) = serde_json::from_str::<Object>(json) else { return Cow::Borrowed(json) };
    let Some(Value::Object(form)) = shape.remove(FORM) else { return Cow::Borrowed(json) };
    for (member, mark) in &form {
        let Some(value) = shape.get(member).cloned() else { continue };
        if let Some(name) = name_of(&shape, member) {
            shape.remove(member);
            shape.insert(name.to_owned(), value);
        } else if member == "points" {
            shape.remove(member);
            app_points(&mut shape, value, mark);
        } else if member == "radius" {
            shape.remove(member);
            app_radius(&mut shape, value);
        }
    }
    Cow::Owned(Value::Object(shape).to_string())
}

fn needs(kind: &str, member: &str, has_points: bool) -> bool {
    match member {
        "x" | "y" => !has_points,
        "x2" | "y2" => matches!(kind, "line" | "arrow") && !has_points,
        "radius" => kind == "circle",
        _ => kind == "text",
    }
}

/// Pairs instead of the app's points, and the mark that leads back.
fn points(shape: &Object, kind: &str) -> Option<(Value, Value)> {
    if is_absent(shape, "points") {
        let ends: Option<Vec<Value>> =
            ["startX", "startY", "endX", "endY"].iter().map(|name| shape.get(*name).cloned()).collect();
        return match (kind, ends.as_deref()) {
            ("pencil", Some([x, y, x2, y2])) => {
                Some((serde_json::json!([[x, y], [x2, y2]]), Value::Bool(true)))
            }
            _ => None,
        };
    }
    let points = shape.get("points")?.as_array()?;
    let pair = |point: &Value| Some(Value::Array(vec![point.get("x")?.clone(), point.get("y")?.clone()]));
    let pairs: Vec<Value> = points.iter().map(pair).collect::<Option<_>>()?;
    if pairs.is_empty() {
        return None;
    }
    let is_plain = points.iter().filter_map(Value::as_object).all(|point| point.len() == 2);
    let mark = if is_plain { Value::Bool(true) } else { Value::Array(points.clone()) };
    Some((Value::Array(pairs), mark))
}

/// Puts the app's form of `pairs` into `shape`.
fn app_points(shape: &mut Object, pairs: Value, mark: &Value) {
    let kind = shape.get("type").and_then(Value::as_str).unwrap_or_default();
    if points(shape, kind).is_some_and(|(own, _)| own == pairs) {
        return;
    }
    if let Value::Array(kept) = mark
        && let Some((own, _)) = points(&Map::from_iter([("points".to_owned(), mark.clone())]), "pencil")
        && own == pairs
    {
        shape.insert("points".to_owned(), Value::Array(kept.clone()));
        return;
    }
    let point = |pair: &Value| serde_json::json!({"x": pair[0], "y": pair[1]});
    let app = pairs.as_array().map(|pairs| pairs.iter().map(point).collect());
    shape.insert("points".to_owned(), app.map_or(pairs, Value::Array));
}

/// A circle in a box without a radius of its own: that of the circle around its
/// middle that touches the longer side.
fn box_radius(shape: &Object) -> f64 {
    let side = |name: &str| shape.get(name).and_then(Value::as_f64).unwrap_or_default().abs();
    side("width").max(side("height")) / 2.0
}

/// Nothing, unless another client resized the circle.
fn app_radius(shape: &mut Object, radius: Value) {
    match radius.as_f64() {
        Some(length) if length == box_radius(shape) => {}
        Some(length) if shape.contains_key("width") || shape.contains_key("height") => {
            for side in ["width", "height"] {
                shape.insert(side.to_owned(), (2.0 * length).into());
            }
        }
        _ => drop(shape.insert("radius".to_owned(), radius)),
    }
}

/// The app's name for `member` in this shape.
fn name_of(shape: &Object, member: &str) -> Option<&'static str> {
    let (_, names) = NAMES.iter().find(|(name, _)| *name == member)?;
    names.iter().copied().find(|name| shape.contains_key(*name))
}

fn is_absent(shape: &Object, member: &str) -> bool {
    shape.get(member).is_none_or(Value::is_null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::log::Schema;

    fn object(shape: Value) -> Object {
        let Value::Object(shape) = shape else { panic!("an object") };
        shape
    }

    fn fits(shape: &Object) -> bool {
        Schema::Drawing.check(shape).is_ok()
    }

    /// Every kind that the app draws, in every form in which it is stored.
    fn app_forms() -> Vec<Value> {
        vec![
            json!({"id":"s","type":"rect","startX":1,"startY":2,"width":3,"height":4}),
            json!({"id":"s","type":"ellipse","cx":1,"cy":2,"width":3,"height":4}),
            json!({"id":"s","type":"image","startX":1,"startY":2,"width":3,"height":4,"src":"data:"}),
            json!({"id":"s","type":"circle","x":1,"y":2}),
            json!({"id":"s","type":"circle","x":1,"y":2,"colour":"red","width":30,"height":-40}),
            json!({"id":"s","type":"circle","centerX":1.5,"centerY":2,"radius":3}),
            json!({"id":"s","type":"circle","cx":1,"cy":2,"r":3}),
            json!({"id":"s","type":"line","startX":1,"startY":2,"endX":3,"endY":4}),
            json!({"id":"s","type":"line","x1":1,"y1":2,"x2":3,"y2":4}),
            json!({"id":"s","type":"arrow","startX":1,"startY":2,"endX":3,"endY":4}),
            json!({"id":"s","type":"arrow","points":[{"x":1,"y":2},{"x":3,"y":4}]}),
            json!({"id":"s","type":"line","x":0,"y":0,"points":[{"x":1,"y":2}]}),
            json!({"id":"s","type":"pencil","points":[{"x":1,"y":2},{"x":3.25,"y":-4}]}),
            json!({"id":"s","type":"pencil","x":9,"y":9,"points":[{"x":1,"y":2}]}),
            json!({"id":"s","type":"pencil","points":[{"x":1,"y":2,"pressure":0.5},{"x":3,"y":4}]}),
            json!({"id":"s","type":"pencil","startX":1,"startY":2,"endX":3,"endY":4}),
            json!({"id":"s","type":"text","x":1,"y":2,"content":"hello"}),
            json!({"id":"s","type":"text","startX":1,"startY":2,"value":"app_form"}),
        ]
    }

    #[test]
    fn every_app_form_fits_the_schema_and_comes_back_as_sent() {
        for sent in app_forms() {
            let sent = object(sent);
            assert!(!fits(&sent), "{sent:?} needs no translation");
            let stored = to_schema(&sent).unwrap_or_else(|| panic!("{sent:?}"));
            assert!(fits(&stored), "{stored:?}: {:?}", Schema::Drawing.check(&stored));
            assert_eq!(to_schema(&stored), None, "a second translation changes nothing");
            let text = Value::Object(stored).to_string();
            assert_eq!(serde_json::from_str::<Object>(&to_app(&text)).unwrap(), sent);
        }
    }

    #[test]
    fn shapes_that_fit_the_schema_stay_as_they_are() {
        for shape in [
            json!({"id":"s","type":"rect","x":0,"y":-1.5,"width":-3,"height":0,"startX":7}),
            json!({"id":"s","type":"ellipse","x":0,"y":0,"width":1,"height":1,"r":2}),
            json!({"id":"s","type":"circle","x":0,"y":0,"radius":0,"width":9}),
            json!({"id":"s","type":"line","x":0,"y":0,"x2":1,"y2":2,"endX":5}),
            json!({"id":"s","type":"arrow","points":[[0,0],[1.5,2]]}),
            json!({"id":"s","type":"line","x":1,"y":1,"points":[]}),
            json!({"id":"s","type":"pencil","points":[[0,0]],"startX":1,"startY":1,"endX":2,"endY":2}),
            json!({"id":"s","type":"text","x":0,"y":0,"text":"","content":"other"}),
            json!({"id":"s","type":"image","x":0,"y":0,"width":1,"height":1,"src":"data:"}),
        ] {
            let shape = object(shape);
            assert!(fits(&shape), "{shape:?}");
            assert_eq!(to_schema(&shape), None, "{shape:?}");
        }
        let text = r#"{"id":"s","type":"text","x":1.50,"y":0,"text":"app_form"}"#;
        assert_eq!(to_app(text), text, "its numbers too");
    }

    #[test]
    fn what_no_form_explains_is_still_refused() {
        for shape in [
            json!({"id":"s","type":"fish","startX":1,"startY":1}),
            json!({"id":"s","type":"rect","x":1,"y":1}),
            json!({"id":"s","type":"circle","x":1,"y":1,"radius":-1}),
            json!({"id":"s","type":"circle","radius":1}),
            json!({"id":"s","type":"circle","x":1,"y":1,"r":"3"}),
            json!({"id":"s","type":"pencil","points":[{"x":1}]}),
            json!({"id":"s","type":"pencil","points":[{"x":1,"y":"2"}]}),
            json!({"id":"s","type":"pencil","points":[{"x":1,"y":2},[3,4]]}),
            json!({"id":"s","type":"pencil","x":1,"y":1}),
            json!({"id":"s","type":"text","x":1,"y":1,"content":7}),
        ] {
            let shape = object(shape);
            let stored = to_schema(&shape).unwrap_or_else(|| shape.clone());
            assert!(!fits(&stored), "{stored:?}");
        }
    }

    #[test]
    fn a_forged_form_takes_no_member_away() {
        let text = r#"{"id":"s","type":"rect","x":1,"app_form":{"id":true,"type":true,"x":true,"y":true}}"#;
        let app: Value = serde_json::from_str(&to_app(text)).unwrap();
        assert_eq!(app, json!({"id":"s","type":"rect","x":1}));
        for form in ["7", "[]", "null", "{\"points\":5,\"radius\":{}}"] {
            let text = format!("{{\"id\":\"s\",\"points\":[7],\"radius\":\"r\",\"app_form\":{form}}}");
            let app: Value = serde_json::from_str(&to_app(&text)).unwrap();
            assert_eq!((&app["id"], &app["radius"]), (&json!("s"), &json!("r")), "{app}");
        }
    }

    #[test]
    fn changes_of_other_clients_reach_the_app_in_its_form() {
        for (sent, change, app) in [
            (
                json!({"type":"circle","centerX":1,"centerY":2,"radius":3}),
                json!({"x":10,"radius":4}),
                json!({"type":"circle","centerX":10,"centerY":2,"radius":4}),
            ),
            (
                json!({"type":"circle","x":1,"y":2,"width":6,"height":4}),
                json!({"x":5,"radius":10}),
                json!({"type":"circle","x":5,"y":2,"width":20.0,"height":20.0}),
            ),
            (
                json!({"type":"circle","x":1,"y":2}),
                json!({"radius":10}),
                json!({"type":"circle","x":1,"y":2,"radius":10}),
            ),
            (
                json!({"type":"pencil","points":[{"x":1,"y":2,"pressure":1}]}),
                json!({"points":[[3,4]]}),
                json!({"type":"pencil","points":[{"x":3,"y":4}]}),
            ),
            (
                json!({"type":"line","startX":1,"startY":2,"endX":3,"endY":4}),
                json!({"x2":30}),
                json!({"type":"line","startX":1,"startY":2,"endX":30,"endY":4}),
            ),
        ] {
            let mut stored = to_schema(&object(sent)).unwrap();
            stored.extend(object(change));
            let text = Value::Object(stored).to_string();
            assert_eq!(serde_json::from_str::<Value>(&to_app(&text)).unwrap(), app);
        }
    }
}
