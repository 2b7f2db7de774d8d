//! Spans, made and ended by hand: one begins where a frame is read and ends on a
//! lane, its grandchildren begin on other nodes. No task has it as its context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::export;
use crate::config;
use crate::ids::{NodeName, RoomId};
use crate::position::Seq;
use crate::tasks::Tasks;

/// Sampled events whose delivery a room may await at once; more are not traced.
const AWAITED_MAX: usize = 256;

/// Seq, trace, span.
const ENTRY_BYTES: usize = 8 + 16 + 8;

/// Begins the traces of a node. Cheap to clone; the default begins none.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Source>>);

struct Source {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    sample_ratio: f64,
}

/// Of one submit, on the node that took it in. Most are empty.
pub struct Trace(Option<Box<Submitted>>);

struct Submitted {
    source: Arc<Source>,
    frame: opentelemetry_sdk::trace::Span,
    /// Of the attempt that is under way.
    commit: Option<opentelemetry_sdk::trace::Span>,
    /// Of the last attempt, also when it has ended.
    attempted: Option<SpanContext>,
}

/// What goes to other nodes ahead of sampled events: whose children their
/// deliveries are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Carried(Vec<(Seq, SpanContext)>);

/// What a room was told of events that it has yet to deliver.
pub struct Awaited {
    source: Option<Arc<Source>>,
    heard: BTreeMap<Seq, (SpanContext, SystemTime)>,
}

impl Traces {
    /// Begins none without an endpoint. `Err` if that can't be used.
    pub fn start(config: &config::Traces, node: &NodeName, tasks: &Tasks) -> Result<Self, String> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(Self(None)) };
        let provider = export::provider(endpoint, node, tasks)?;
        let tracer = provider.tracer("roomgate");
        Ok(Self(Some(Arc::new(Source { provider, tracer, sample_ratio: config.sample_ratio }))))
    }

    /// Of a submit that was received then; whether it is sampled is decided here.
    pub fn frame(&self, room: RoomId, transport: &'static str, received: Instant) -> Trace {
        let sampled = |source: &&Arc<Source>| rand::random::<f64>() < source.sample_ratio;
        let Some(source) = self.0.as_ref().filter(sampled) else { return Trace(None) };
        let began = SystemTime::now() - received.elapsed();
        let attributes = [room_id(room), KeyValue::new("roomgate.transport", transport)];
        let frame = SpanBuilder::from_name("frame")
            .with_kind(SpanKind::Server)
            .with_start_time(began)
            .with_attributes(attributes);
        let frame = source.tracer.build_with_context(frame, &Context::new());
        Trace(Some(Box::new(Submitted { source: source.clone(), frame, commit: None, attempted: None })))
    }

    /// For a room.
    pub fn awaited(&self) -> Awaited {
        Awaited { source: self.0.clone(), heard: BTreeMap::new() }
    }

    /// Sends what waits, for as long as a node that ends may take. Blocks.
    pub fn finish(&self) {
        if let Some(source) = &self.0
            && let Err(error) = source.provider.shutdown_with_timeout(export::FAREWELL_LIMIT)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

impl Trace {
    pub fn none() -> Self {
        Self(None)
    }

    pub fn is_sampled(&self) -> bool {
        self.0.is_some()
    }

    /// An attempt to write it, with so many others. A further one is a span of its
    /// own.
    pub fn commit_begins(&mut self, shard: &str, endpoint: &str, submits: usize) {
        let Some(submitted) = &mut self.0 else { return };
        let attributes = [
            KeyValue::new("roomgate.shard", shard.to_owned()),
            KeyValue::new("roomgate.endpoint", endpoint.to_owned()),
            KeyValue::new("roomgate.batch_size", i64::try_from(submits).unwrap_or(i64::MAX)),
        ];
        let commit = SpanBuilder::from_name("commit").with_kind(SpanKind::Client).with_attributes(attributes);
        let commit = submitted.source.child(commit, submitted.frame.span_context());
        submitted.attempted = Some(commit.span_context().clone());
        submitted.commit = Some(commit);
    }

    /// `committed`, or why not.
    pub fn commit_ends(&mut self, outcome: &'static str) {
        let commit = self.0.as_mut().and_then(|submitted| submitted.commit.take());
        if let Some(mut commit) = commit {
            commit.set_attribute(KeyValue::new("roomgate.outcome", outcome));
            if !matches!(outcome, "committed" | "nothing_to_write") {
                commit.set_status(Status::error(outcome));
            }
            commit.end();
        }
    }

    /// Its event has this seq, and is about to be announced.
    pub fn carry(&self, seq: Seq, carried: &mut Carried) {
        if let Some(attempted) = self.0.as_ref().and_then(|submitted| submitted.attempted.clone()) {
            carried.0.push((seq, attempted));
        }
    }

    /// The submit was answered, or will not be.
    pub fn ends(&mut self, outcome: &'static str) {
        if let Some(mut submitted) = self.0.take() {
            submitted.frame.set_attribute(KeyValue::new("roomgate.outcome", outcome));
            submitted.frame.end();
        }
    }
}

impl Source {
    fn child(&self, span: SpanBuilder, parent: &SpanContext) -> opentelemetry_sdk::trace::Span {
        let context = Context::new().with_remote_span_context(parent.clone());
        self.tracer.build_with_context(span, &context)
    }
}

impl Carried {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn size(&self) -> usize {
        self.0.len() * ENTRY_BYTES
    }

    pub fn encode(&self, out: &mut BytesMut) {
        for (seq, context) in &self.0 {
            out.put_u64(seq.0);
            out.put_slice(&context.trace_id().to_bytes());
            out.put_slice(&context.span_id().to_bytes());
        }
    }

    /// `None` for what is no list of entries.
    pub fn decode(mut payload: Bytes) -> Option<Self> {
        let mut carried = Vec::new();
        while payload.has_remaining() {
            let seq = Seq(payload.try_get_u64().ok()?);
            let (mut trace, mut span) = ([0; 16], [0; 8]);
            payload.try_copy_to_slice(&mut trace).ok()?;
            payload.try_copy_to_slice(&mut span).ok()?;
            let (trace, span) = (TraceId::from_bytes(trace), SpanId::from_bytes(span));
            // Only what is sampled is told.
            let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE);
            carried.push((seq, context));
        }
        Some(Self(carried))
    }
}

impl Awaited {
    /// Ahead of the events themselves.
    pub fn hear(&mut self, carried: Carried) {
        if self.source.is_none() {
            return;
        }
        let now = SystemTime::now();
        for (seq, context) in carried.0 {
            if self.heard.len() < AWAITED_MAX {
                self.heard.insert(seq, (context, now));
            }
        }
    }

    /// Everything up to `last` is in the outboxes of so many sessions, or was
    /// before.
    pub fn delivered(&mut self, room: RoomId, last: Seq, sessions: usize) {
        if self.heard.is_empty() {
            return;
        }
        let later = self.heard.split_off(&last.next());
        for (seq, (context, heard)) in std::mem::replace(&mut self.heard, later) {
            let Some(source) = &self.source else { return };
            let attributes = [
                room_id(room),
                KeyValue::new("roomgate.seq", i64::try_from(seq.0).unwrap_or(i64::MAX)),
                KeyValue::new("roomgate.sessions", i64::try_from(sessions).unwrap_or(i64::MAX)),
            ];
            let delivery = SpanBuilder::from_name("delivery")
                .with_kind(SpanKind::Consumer)
                .with_start_time(heard)
                .with_attributes(attributes);
            source.child(delivery, &context).end();
        }
    }
}

fn room_id(room: RoomId) -> KeyValue {
    KeyValue::new("roomgate.room", i64::try_from(room.get()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_arrives_and_what_is_cut_is_dropped() {
        let context = SpanContext::new(
            TraceId::from_bytes([7; 16]),
            SpanId::from_bytes([9; 8]),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        let carried = Carried(vec![(Seq(1), context.clone()), (Seq(5), context)]);
        let mut out = BytesMut::new();
        carried.encode(&mut out);
        assert_eq!(out.len(), carried.size());
        let payload = out.freeze();
        assert_eq!(Carried::decode(payload.clone()), Some(carried));
        assert_eq!(Carried::decode(payload.slice(..payload.len() - 1)), None);
    }

    #[test]
    fn a_room_awaits_no_more_than_it_may_and_forgets_what_is_delivered() {
        let traces = Traces(None);
        let mut awaited = traces.awaited();
        awaited.hear(Carried(vec![(Seq(1), SpanContext::NONE)]));
        assert!(awaited.heard.is_empty(), "nobody would send it");
        let provider = SdkTracerProvider::builder().build();
        let tracer = provider.tracer("test");
        awaited.source = Some(Arc::new(Source { provider, tracer, sample_ratio: 1.0 }));
        awaited.hear(Carried((0..1000).map(|seq| (Seq(seq), SpanContext::NONE)).collect()));
        assert_eq!(awaited.heard.len(), AWAITED_MAX);
        awaited.delivered(RoomId::new(1).unwrap(), Seq(99), 0);
        assert_eq!(awaited.heard.len(), AWAITED_MAX - 100);
    }
}
