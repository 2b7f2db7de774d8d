//! What holds for every text a client may send.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{FrameLimits, read_frame, server, strict};

const LIMITS: FrameLimits = FrameLimits { frame_bytes: 0, message_bytes: 0, json_depth: 32 };

fn text() -> impl Strategy<Value = String> {
    let special =
        prop::sample::select(vec!["\"", "\\", "\n", "\u{1b}", "é", "😀", "\u{202e}", "\u{2028}", "</"]);
    prop_oneof![
        4 => "[a-z ]{0,6}",
        2 => any::<String>().prop_map(|text| text.replace('\0', "")),
        1 => special.prop_map(str::to_owned),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(|bits| {
            let double = f64::from_bits(bits);
            Value::from(if double.is_finite() { double } else { -0.0 })
        }),
        (-1e6..1e6_f64).prop_map(Value::from),
    ]
}

/// Any JSON value; with `leaf` somewhere among the ordinary leaves.
fn value(leaf: Option<&'static str>) -> BoxedStrategy<Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        text().prop_map(Value::from)
    ];
    let leaf = match leaf {
        None => plain.boxed(),
        Some(marker) => prop_oneof![3 => plain, 1 => Just(Value::from(marker))].boxed(),
    };
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..6)
                .prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
    .boxed()
}

/// Equal to the last bit: 0.0 and -0.0 differ, 1 and 1.0 too.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            a.as_f64().map(f64::to_bits) == b.as_f64().map(f64::to_bits)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && same(a, b))
        }
        _ => a == b,
    }
}

/// Stands in for what no writer of JSON would write.
const MARKER: &str = "@@bad@@";

const BAD: [&str; 12] = [
    r#""\u0000""#,
    r#""a\u0000b""#,
    r#""\ud800""#,
    r#""\udfff\ud800""#,
    "1e999",
    "-1e400",
    "18446744073709551616",
    "-18446744073709551616",
    r#"{"a":1,"b":2,"a":1}"#,
    r#"{"é":1,"\u00e9":1}"#,
    r#"{"x\u0000":1}"#,
    "NaN",
];

fn frame_like() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "d800",
        "null",
        "1",
        "-",
        "e9",
        "9999999999999999999999",
        " ",
        "\n",
        "\"type\":",
        "\"submit\"",
        "\"join\"",
        "\"room\":",
        "\"op\":",
        "\"kind\":",
        "\"shape\":{\"id\":",
        "\"a\"",
        "\0",
        "é",
        "\"id\":",
        "\"shape.put\"",
        "\"from\":",
        "\"ping\"",
        "\"base\":",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat()),
    ]
}

const GOOD: [&str; 6] = [
    r#"{"type":"submit","id":3,"room":5,"op":"o","kind":"shape.put","base":2,"shape":{"id":"a","n":[1.5,"x"]}}"#,
    r#"[{"type":"ping"},{"type":"submit","room":5,"op":"o","kind":"shape.update","shape_id":"a","patch":{"x":null}}]"#,
    r#"{"type":"join","room":5,"from":{"epoch":1,"seq":2},"password":"p"}"#,
    r#"{"type":"signal","room":5,"data":{"cursor":[1,2]}}"#,
    r#"{"type":"submit","room":5,"op":"o","kind":"message","data":"\ud83d\ude00"}"#,
    r#"{"type":"hello","token":"t","client":{"name":"n"}}"#,
];

/// A good frame with a few bytes replaced, dropped or doubled.
fn damaged() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0_u8..3, any::<u8>());
    (prop::sample::select(GOOD.to_vec()), prop::collection::vec(edit, 1..6)).prop_map(|(text, edits)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, what, byte) in edits {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, bytes[at]),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn values_come_through_to_the_last_bit(value in value(None)) {
        let json = value.to_string();
        let read = strict::value(&json, 32).unwrap();
        prop_assert!(same(&read, &value), "{json} became {read}");
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        prop_assert!(same(&strict::value(&pretty, 32).unwrap(), &value));
        prop_assert_eq!(strict::compact(&pretty), json);
    }

    #[test]
    fn one_bad_place_anywhere_is_refused(value in value(Some(MARKER)), bad in prop::sample::select(BAD.to_vec())) {
        let marked = Value::from(vec![value, MARKER.into()]).to_string();
        let json = marked.replace(&format!("\"{MARKER}\""), bad);
        prop_assert!(strict::value(&json, 32).is_err(), "{json}");
        let message = format!(r#"{{"type":"submit","room":5,"op":"o","kind":"message","data":{json}}}"#);
        prop_assert!(read_frame(&message, LIMITS).unwrap()[0].message.is_err());
    }

    #[test]
    fn no_text_panics_and_every_refusal_can_be_answered(frame in prop_oneof![frame_like(), damaged()]) {
        let Ok(items) = read_frame(&frame, LIMITS) else { return Ok(()) };
        for item in items {
            if let Err(refused) = &item.message {
                let answer = server::refusal(&item, refused);
                prop_assert!(strict::object(answer.as_str(), 8).is_ok(), "{}", answer.as_str());
            }
        }
        if let Ok(value) = strict::value(&frame, 32) {
            prop_assert!(same(&serde_json::from_str(&frame).unwrap(), &value));
        }
    }
}
