//! What is told of a promotion, in words and as JSON. Pure.

use serde_json::{Value, json};

use crate::config::{Durability, Endpoint};
use crate::routing::staleness::Timeline;
use crate::store::promotion::{Asked, Decision, Survey};

/// What came out, as far as it went.
#[derive(Default)]
pub(super) struct Report {
    pub survey: Option<Survey>,
    pub decision: Option<Decision>,
    pub promoted: Option<Timeline>,
    pub claimed: bool,
    /// What is left to be done by hand.
    pub left: Vec<String>,
    pub failed: Option<String>,
}

impl Report {
    pub fn json(&self) -> Value {
        let claim = self
            .survey
            .as_ref()
            .map(|survey| json!({"endpoint": survey.claim.endpoint, "timeline": survey.claim.timeline.0}));
        let asked = self.survey.iter().flat_map(|survey| &survey.asked);
        let decision = self.decision.as_ref().map(|decision| {
            json!({
                "endpoint": decision.endpoint,
                "flushed": decision.at.1.to_string(),
                "answered": decision.answered,
                "needed": decision.needed,
                "may_lose": decision.may_lose,
            })
        });
        json!({
            "claim": claim,
            "endpoints": asked.map(endpoint).collect::<Vec<_>>(),
            "decision": decision,
            "promoted_timeline": self.promoted.map(|timeline| timeline.0),
            "claimed": self.claimed,
            "left_to_do": self.left,
            "error": self.failed,
        })
    }
}

fn endpoint(asked: &Asked) -> Value {
    match &asked.answer {
        Err(silence) => json!({"name": asked.endpoint, "error": silence.why}),
        Ok(answer) => json!({
            "name": asked.endpoint,
            "role": if answer.in_recovery { "standby" } else { "primary" },
            "timeline": answer.timeline.0,
            "system_id": answer.system_id.0,
            "flushed": answer.flushed.to_string(),
            "knows_its_end": answer.knows_its_end,
            "streams_from": answer.streams_from.as_ref().map(|(host, port)| format!("{host}:{port}")),
            "synchronous_standby_names": answer.synchronous_standby_names,
        }),
    }
}

/// The claim, and a line an endpoint.
pub(super) fn lines(survey: &Survey) -> String {
    let claimed = survey.claim.endpoint.as_deref().unwrap_or("a server that is not configured any more");
    let mut text = format!("claimed: {claimed}, timeline {}", survey.claim.timeline);
    for asked in &survey.asked {
        let said = match &asked.answer {
            Err(error) => format!("no answer: {error}"),
            Ok(answer) => {
                let role = if answer.in_recovery { "standby" } else { "primary" };
                let (timeline, flushed, system) = (answer.timeline, answer.flushed, answer.system_id.0);
                let unsure = if answer.knows_its_end { "" } else { " at least" };
                let names = &answer.synchronous_standby_names;
                let stream = match &answer.streams_from {
                    Some((host, port)) => format!(", streams from {host}:{port}"),
                    None => String::new(),
                };
                format!(
                    "{role}, timeline {timeline}, log up to {flushed}{unsure}, cluster {system}, \
                     synchronous_standby_names '{names}'{stream}"
                )
            }
        };
        text.push_str(&format!("\n{:<12} {said}", asked.endpoint));
    }
    text
}

pub(super) fn reason(decision: &Decision) -> String {
    let Decision { endpoint, at, answered, needed, may_lose } = decision;
    let loss = if *may_lose { "; ACKED EVENTS MAY BE LOST, as accepted" } else { "" };
    format!(
        "{endpoint} is to be promoted, with its log up to {}: {answered} standby(s) told how far they are, {needed} must{loss}",
        at.1
    )
}

/// The new primary is up; the others don't know it yet.
pub(super) fn left_to_do(
    survey: &Survey,
    decision: &Decision,
    endpoints: &[Endpoint],
    durability: Durability,
) -> Vec<String> {
    let new = &decision.endpoint;
    let address = endpoints.iter().find(|known| known.name == *new);
    let address = address.map(|known| format!("host={} port={}", known.host, known.port)).unwrap_or_default();
    let mut left = Vec::new();
    for asked in survey.asked.iter().filter(|asked| asked.endpoint != *new) {
        let name = &asked.endpoint;
        left.push(match &asked.answer {
            Ok(answer) if answer.system_id != survey.claim.system_id => {
                format!("{name} is a server of another cluster: correct the configuration")
            }
            Ok(answer) if answer.in_recovery && (answer.timeline, answer.flushed) <= decision.at => {
                format!("{name}: have it stream from {new} (primary_conninfo = '{address} …', then pg_reload_conf())")
            }
            _ => format!(
                "{name}: replace its data before it is used again (pg_rewind or pg_basebackup, from {address}); \
                 started as it is, every node fences it off"
            ),
        });
    }
    let names = survey.asked.iter().find(|asked| asked.endpoint == *new);
    let names = names.and_then(|asked| asked.answer.as_ref().ok());
    let names = names.map(|answer| answer.synchronous_standby_names.as_str()).unwrap_or_default();
    match durability {
        Durability::Sync if names.is_empty() => left.push(format!(
            "durability is sync and {new} waits for no standby, so that nodes write nothing to it: there, ALTER \
             SYSTEM SET synchronous_standby_names = 'ANY k (…)', then pg_reload_conf()"
        )),
        _ if !names.is_empty() => {
            left.push(format!("{new} commits once '{names}' confirm: the claim too waits until they follow it"));
        }
        Durability::Async => left.push(
            "durability is async: what was acked last may have reached no standby; whoever saw it is told to resync"
                .to_owned(),
        ),
        Durability::Sync => {}
    }
    left
}
