//! What the fuzz targets call; see `fuzz/`. Only there when fuzzing. Each panics
//! when something is wrong.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::auth::{Origins, Signer, Verifier};
use crate::config;
use crate::ids::UserId;
use crate::log::{Authority, Submit, tests::tables};
use crate::position::Position;
use crate::protocol::{ClientMessage, FrameLimits, Kind, read_frame, strict};
use crate::store::rooms::ListCursor;

const DEPTH: usize = 32;
const LIMITS: FrameLimits = FrameLimits { frame_bytes: 1 << 20, message_bytes: 64 << 10, json_depth: DEPTH };

/// What is read is what was sent, and what is stored of it is read back as the
/// same operation.
pub fn message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(value) = strict::value(text, DEPTH) {
        assert_eq!(value, serde_json::from_str::<Value>(text).expect("strict is stricter"));
    }
    let Ok(messages) = read_frame(text, LIMITS) else { return };
    for inbound in messages {
        let Ok(ClientMessage::Submit { room, op, operation }) = inbound.message else { continue };
        let user = UserId::new("ann").expect("an id");
        let submit = Submit::new(room, user.clone(), Authority::Member, op.clone(), operation.clone());
        let mut again: Value = serde_json::from_str(&submit.body).expect("a body is JSON");
        again["type"] = json!("submit");
        again["room"] = json!(room.get());
        again["op"] = json!(op.as_str());
        again["kind"] = json!(operation.kind().as_str());
        let again = read_frame(&again.to_string(), FrameLimits { message_bytes: 0, ..LIMITS });
        let Some(Ok(ClientMessage::Submit { operation, .. })) =
            again.expect("it was read before").pop().map(|inbound| inbound.message)
        else {
            panic!("a stored body is no submit: {}", submit.body);
        };
        let again = Submit::new(room, user, Authority::Member, op, operation);
        assert_eq!(again.digest, submit.digest, "{} became {}", submit.body, again.body);
    }
}

/// Whatever commits, is lost, lags or fails over: every session sees one run of
/// one log.
pub fn session(data: &[u8]) {
    crate::room::feeding_model(Tape(data));
}

/// What parses is printed as something that parses alike.
pub fn cursor(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
    if let Ok(cursor) = text.parse::<ListCursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
    crate::http::fuzz_cursor(text);
}

/// Nothing but what was signed here is accepted.
pub fn token(data: &[u8]) {
    static KEYS: OnceLock<(Verifier, String)> = OnceLock::new();
    let (verifier, good) = KEYS.get_or_init(|| {
        let file = std::env::temp_dir().join(format!("roomgate-fuzz-{}", std::process::id()));
        std::fs::write(&file, [7; 32]).expect("a folder for temporary files");
        let auth = config::Auth {
            issuer: "https://issuer.test".to_owned(),
            audience: "roomgate".to_owned(),
            keys: vec![config::SigningKey {
                kid: "a".to_owned(),
                alg: config::Algorithm::HS256,
                file: file.clone(),
                may_issue: vec![config::Issuable::User],
            }],
            access_token: Duration::from_secs(1 << 30),
            refresh_token: Duration::from_secs(1 << 30),
            token_max: Duration::from_secs(400 * 24 * 3600),
        };
        let verifier = Verifier::load(&auth).expect("a key");
        std::fs::remove_file(&file).expect("it was written");
        let signer: Signer = verifier.signer(auth.access_token).expect("it signs");
        let ann = UserId::new("ann").expect("an id");
        let good = signer.issue(&ann, Some("Ann"), Authority::Member).expect("it signs").token;
        assert!(verifier.verify(&good).is_ok());
        (verifier, good)
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(verifier.verify(text).is_err(), "forged: {text}");
    // Parts of a good one, with something else between them.
    let [at, skip, rest @ ..] = data else { return };
    let (at, skip) = (usize::from(*at) * 2 % good.len(), usize::from(*skip));
    let Ok(middle) = std::str::from_utf8(rest) else { return };
    let changed = format!("{}{middle}{}", &good[..at], &good[(at + skip).min(good.len())..]);
    assert!(changed == *good || verifier.verify(&changed).is_err(), "forged: {changed}");
}

/// An origin is the listed one, or a scheme before the host that was asked, but for
/// the dot and the default port at their ends.
pub fn origin(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (origin, host) = (parts.next().unwrap_or_default(), parts.next());
    let origins = Origins::new(&["self".to_owned(), "https://draw.example".to_owned()]);
    if !origins.allow(Some(origin), host) {
        assert!(origin != b"https://draw.example", "the listed one");
        return;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let (origin, host) = (text(origin), text(host.unwrap_or_default()));
    let (scheme, authority) = origin.split_once("://").expect("a scheme");
    let port = if scheme == "https" { "443" } else { "80" };
    // Of a port, only the number counts.
    let plain = |text: &str| {
        let (name, digits) = text.rsplit_once(':').unwrap_or((text, port));
        let digits = if digits.is_empty() { port } else { digits.trim_start_matches('0') };
        format!("{}:{digits}", name.strip_suffix('.').unwrap_or(name))
    };
    let is_address = authority.starts_with('[') && host.starts_with('[');
    let expected = [plain(&host), plain("draw.example")];
    assert!(is_address || expected.contains(&plain(authority)), "{origin:?} {host:?}");
}

/// However a room's submits are cut into batches: one effect an op, no hole, and
/// the table of shapes is the replayed log.
pub fn decide(data: &[u8]) {
    let mut tables = tables::Tables::new();
    let mut batch = Vec::new();
    for wish in data.chunks_exact(4) {
        batch.push(submit(wish));
        if wish[3] & 0x80 != 0 {
            tables.append(&batch);
            batch.clear();
        }
    }
    tables.append(&batch);
    for id in [1, 2].map(tables::room) {
        let fold = tables.fold(id);
        let rows = tables.shapes.iter().filter(|((room, _), _)| *room == id);
        let rows: BTreeMap<_, _> = rows.map(|((_, shape), state)| (shape.clone(), state.clone())).collect();
        assert_eq!(fold.shapes, rows);
        assert_eq!(fold.head, tables.rooms[&id].head);
        assert_eq!(fold.cleared, tables.rooms[&id].cleared);
        assert_eq!(fold.live().count() as u64, tables.rooms[&id].live_shapes);
        let bytes: usize = fold.live().map(|(_, _, data)| data.json.len()).sum();
        assert_eq!(bytes as u64, tables.rooms[&id].live_bytes);
        let seqs = tables.log.iter().filter(|event| event.room == id).map(|event| event.position.seq.0);
        assert!(seqs.eq(1..=fold.head.seq.0), "a hole, a repeat or a reordering");
    }
}

/// Four bytes: who and where, which op, what to which shape, with which fields.
fn submit(wish: &[u8]) -> Submit {
    let who = ["ann", "bob", "vic", "eve"][usize::from(wish[0] & 3)];
    let room = 1 + u64::from(wish[0] >> 2 & 1);
    let kind = Kind::ALL[usize::from(wish[2] & 7) % Kind::ALL.len()];
    let id = ["a", "b", "c", "d"][usize::from(wish[2] >> 3 & 3)];
    let value = match wish[3] & 7 {
        0 => Value::Null,
        1 => json!({"m": {"k": 2}, "n": null}),
        2 => json!([1, null]),
        n => json!(n),
    };
    let fields = json!({ "x": value, "o": {"n": wish[3] >> 3 & 3} });
    let mut body = match kind {
        Kind::ShapeAdd | Kind::ShapePut => {
            let mut shape = fields;
            shape["id"] = json!(id);
            json!({ "shape": shape })
        }
        Kind::ShapeUpdate => json!({ "shape_id": id, "patch": fields }),
        Kind::ShapeDelete => json!({ "shape_id": id }),
        Kind::RoomClear => json!({}),
        Kind::Message => json!({ "data": fields }),
    };
    let base = wish[2] >> 5;
    if base > 2 {
        body["base"] = json!(base - 3);
    }
    tables::submit_by(who, room, &format!("op-{}", wish[1]), kind.as_str(), body)
}

/// Random numbers that are read off the input; zeros behind its end.
pub struct Tape<'a>(&'a [u8]);

impl Tape<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.0.split_at(N.min(self.0.len()));
        self.0 = later;
        let mut taken = [0; N];
        taken[..now.len()].copy_from_slice(now);
        taken
    }
}

impl rand::TryRng for Tape<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The high bits choose, so that one byte is enough.
        Ok(u32::from_be_bytes([self.take::<1>()[0], 0, 0, 0]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_be_bytes([self.take::<1>()[0], 0, 0, 0, 0, 0, 0, 0]))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.iter_mut().for_each(|byte| *byte = self.take::<1>()[0]);
        Ok(())
    }
}
