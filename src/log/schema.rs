//! Which objects a room takes as shapes.

use serde_json::Value;

use super::Schema;
use crate::protocol::{Code, Object, Refusal};

/// The most points of one line.
pub const MAX_POINTS: usize = 10_000;

impl Schema {
    /// Checks a whole shape, whose `id` is known to be right. The message names
    /// the first field that is wrong, and what it must be.
    pub fn check(self, shape: &Object) -> Result<(), Refusal> {
        match self {
            Self::Open => Ok(()),
            Self::Drawing => drawing(shape),
        }
    }
}

fn drawing(shape: &Object) -> Result<(), Refusal> {
    let has_points = shape.contains_key("points");
    let only_points = match shape.get("type").and_then(Value::as_str) {
        Some("rect" | "ellipse") => size(shape).map(|()| false),
        Some("image") => size(shape).and_then(|()| text(shape, "src")).map(|()| false),
        Some("circle") => radius(shape).map(|()| false),
        Some("line" | "arrow") if has_points => points(shape).map(|()| true),
        Some("line" | "arrow") => end_point(shape).map(|()| false),
        Some("pencil") => points(shape).map(|()| true),
        Some("text") => text(shape, "text").map(|()| false),
        _ => Err(must_be("type", "rect, ellipse, circle, line, arrow, pencil, text or image")),
    }?;
    for axis in ["x", "y"] {
        if !(only_points && shape.get(axis).is_none()) {
            number(shape, axis)?;
        }
    }
    Ok(())
}

fn size(shape: &Object) -> Result<(), Refusal> {
    number(shape, "width")?;
    number(shape, "height")
}

fn end_point(shape: &Object) -> Result<(), Refusal> {
    for axis in ["x2", "y2"] {
        if !shape.get(axis).is_some_and(Value::is_number) {
            return Err(must_be(axis, "a number, or points be given instead"));
        }
    }
    Ok(())
}

fn radius(shape: &Object) -> Result<(), Refusal> {
    match shape.get("radius").and_then(Value::as_f64) {
        Some(radius) if radius >= 0.0 => Ok(()),
        _ => Err(must_be("radius", "a number ≥ 0")),
    }
}

fn points(shape: &Object) -> Result<(), Refusal> {
    let is_point = |point: &Value| {
        point.as_array().is_some_and(|pair| pair.len() == 2 && pair.iter().all(Value::is_number))
    };
    match shape.get("points").and_then(Value::as_array) {
        Some(points) if points.len() > MAX_POINTS => Err(must_be("points", "at most 10000 points")),
        Some(points) if points.iter().all(is_point) => Ok(()),
        _ => Err(must_be("points", "an array of [x, y] number pairs")),
    }
}

/// Any JSON number is finite: the strict reader takes no other.
fn number(shape: &Object, field: &str) -> Result<(), Refusal> {
    match shape.get(field) {
        Some(Value::Number(_)) => Ok(()),
        _ => Err(must_be(field, "a number")),
    }
}

fn text(shape: &Object, field: &str) -> Result<(), Refusal> {
    match shape.get(field) {
        Some(Value::String(_)) => Ok(()),
        _ => Err(must_be(field, "a string")),
    }
}

fn must_be(field: &str, rule: &str) -> Refusal {
    Refusal::new(Code::InvalidShape, format!("shape.{field} must be {rule}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(shape: Value) -> Result<(), String> {
        let Value::Object(shape) = shape else { panic!("an object") };
        Schema::Drawing.check(&shape).map_err(|refusal| {
            assert_eq!(refusal.code, Code::InvalidShape);
            refusal.message.into_owned()
        })
    }

    #[test]
    fn good_drawings_pass() {
        for shape in [
            json!({"type":"rect","x":0,"y":-1.5,"width":-3,"height":0,"colour":"red","deep":{"a":[null]}}),
            json!({"type":"ellipse","x":0,"y":0,"width":1,"height":1}),
            json!({"type":"image","x":0,"y":0,"width":1,"height":1,"src":"data:"}),
            json!({"type":"circle","x":0,"y":0,"radius":0}),
            json!({"type":"line","x":0,"y":0,"x2":1,"y2":2}),
            json!({"type":"arrow","points":[[0,0],[1.5,2]]}),
            json!({"type":"line","x":1,"y":1,"points":[]}),
            json!({"type":"pencil","points":[[0,0]]}),
            json!({"type":"text","x":0,"y":0,"text":""}),
        ] {
            assert_eq!(check(shape.clone()), Ok(()), "{shape}");
        }
    }

    #[test]
    fn bad_drawings_name_the_field() {
        let many = vec![json!([0, 0]); MAX_POINTS + 1];
        for (shape, message) in [
            (
                json!({"x":0,"y":0}),
                "shape.type must be rect, ellipse, circle, line, arrow, pencil, text or image",
            ),
            (
                json!({"type":"blob"}),
                "shape.type must be rect, ellipse, circle, line, arrow, pencil, text or image",
            ),
            (
                json!({"type":7}),
                "shape.type must be rect, ellipse, circle, line, arrow, pencil, text or image",
            ),
            (json!({"type":"rect","x":0,"y":0,"height":1}), "shape.width must be a number"),
            (json!({"type":"rect","x":0,"y":0,"width":1}), "shape.height must be a number"),
            (json!({"type":"rect","width":1,"height":1,"y":0}), "shape.x must be a number"),
            (json!({"type":"rect","width":1,"height":1,"x":0,"y":"0"}), "shape.y must be a number"),
            (json!({"type":"image","x":0,"y":0,"width":1,"height":1}), "shape.src must be a string"),
            (json!({"type":"circle","x":0,"y":0}), "shape.radius must be a number ≥ 0"),
            (json!({"type":"circle","x":0,"y":0,"radius":-0.1}), "shape.radius must be a number ≥ 0"),
            (json!({"type":"circle","radius":1,"y":0}), "shape.x must be a number"),
            (json!({"type":"line","x":0,"y":0}), "shape.x2 must be a number, or points be given instead"),
            (
                json!({"type":"arrow","x":0,"y":0,"x2":1}),
                "shape.y2 must be a number, or points be given instead",
            ),
            (json!({"type":"line","points":[[1]]}), "shape.points must be an array of [x, y] number pairs"),
            (json!({"type":"line","points":[[1,2]],"x":null,"y":0}), "shape.x must be a number"),
            (json!({"type":"pencil","x":0,"y":0}), "shape.points must be an array of [x, y] number pairs"),
            (
                json!({"type":"pencil","points":[[1,2,3]]}),
                "shape.points must be an array of [x, y] number pairs",
            ),
            (
                json!({"type":"pencil","points":[[1,"2"]]}),
                "shape.points must be an array of [x, y] number pairs",
            ),
            (json!({"type":"pencil","points":many}), "shape.points must be at most 10000 points"),
            (json!({"type":"text","x":0,"y":0}), "shape.text must be a string"),
        ] {
            assert_eq!(check(shape), Err(message.to_owned()));
        }
    }

    #[test]
    fn an_open_room_takes_any_object() {
        assert_eq!(Schema::Open.check(&Object::new()), Ok(()));
    }
}
