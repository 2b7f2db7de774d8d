//! What clients draw: few shapes at a time, so that they get in each other's way,
//! and new ones with time, since what was deleted stays dead.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::Failure;

/// The shapes of a file of gzipped lines like `{"room": slug, "shape": {…}}`.
pub fn read(file: &Path) -> Result<Vec<Value>, Failure> {
    let file = File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
    let shape = |line: std::io::Result<String>| {
        let mut line: Value = serde_json::from_str(&line?)?;
        Ok(line["shape"].take())
    };
    lines.map(shape).collect()
}

/// A submit's kind and body. Of shapes that were read, any; else made up.
pub fn draw(rng: &mut StdRng, ops: usize, shapes: &[Value]) -> Value {
    if !shapes.is_empty() {
        return json!({"kind": "shape.put", "shape": shapes[rng.random_range(0..shapes.len())]});
    }
    let id = format!("s{}-{}", ops / 25, rng.random_range(0..12));
    let x = rng.random_range(-1000..1000);
    let base = rng.random_bool(0.2).then(|| rng.random_range(0..12));
    let mut body = match rng.random_range(0..1000) {
        0..200 => return json!({"kind": "shape.add", "shape": shape(&id, x)}),
        200..500 => {
            json!({"kind": "shape.update", "shape_id": id, "patch": {"x": x, "style": {"w": x, "colour": null}}})
        }
        500..800 => json!({"kind": "shape.put", "shape": shape(&id, x)}),
        800..850 => json!({"kind": "shape.delete", "shape_id": id}),
        850..998 => return json!({"kind": "message", "data": {"x": x, "text": "grüße 🖍"}}),
        _ => return json!({"kind": "room.clear"}),
    };
    if let Some(base) = base {
        body["base"] = json!(base);
    }
    body
}

fn shape(id: &str, x: i32) -> Value {
    json!({"id": id, "type": "rect", "x": x, "y": -x, "width": 3.5, "height": 4, "style": {"colour": "#123456"}})
}
