//! The recorder, and how a family becomes handles. The only file that knows the
//! exporter.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

/// One metric name.
pub(super) struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    pub kind: Kind,
}

pub(super) enum Kind {
    Counter,
    Gauge,
    /// Upper bounds. Without any the exporter would make a summary, which can't
    /// be added up over nodes.
    Histogram(&'static [f64]),
}

impl Family {
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, labels, kind: Kind::Counter }
    }

    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, labels, kind: Kind::Gauge }
    }

    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
        help: &'static str,
    ) -> Self {
        Self { name, help, labels, kind: Kind::Histogram(bounds) }
    }
}

/// From a cached read to a stalled failover.
pub(super) const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

static RECORDER: LazyLock<PrometheusRecorder> = LazyLock::new(|| {
    let mut builder = PrometheusBuilder::new();
    for family in families() {
        if let Kind::Histogram(bounds) = family.kind {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(family.name.to_owned()), bounds)
                .expect("the bounds are constants and not empty");
        }
    }
    let recorder = builder.build_recorder();
    for family in families() {
        let (name, help) = (KeyName::from_const_str(family.name), family.help.into());
        match family.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
            Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
        }
    }
    recorder
});

pub(super) fn families() -> impl Iterator<Item = &'static Family> {
    let areas = [
        super::gateway::FAMILIES,
        super::bus::FAMILIES,
        super::http::FAMILIES,
        super::database::FAMILIES,
        super::moves::FAMILIES,
    ];
    areas.into_iter().flatten().copied()
}

/// What other crates record in `measure` goes to this registry.
pub(super) fn recording(measure: impl FnOnce()) {
    metrics::with_local_recorder(&*RECORDER, measure);
}

pub(super) fn render() -> String {
    RECORDER.handle().render()
}

pub(super) fn fold() {
    RECORDER.handle().run_upkeep();
}

/// What a family can be recorded through.
pub(super) trait Handle: Clone {
    fn register(key: &Key) -> Self;
}

const METADATA: Metadata<'static> = Metadata::new("roomgate", Level::INFO, None);

impl Handle for Counter {
    fn register(key: &Key) -> Self {
        RECORDER.register_counter(key, &METADATA)
    }
}

impl Handle for Gauge {
    fn register(key: &Key) -> Self {
        RECORDER.register_gauge(key, &METADATA)
    }
}

impl Handle for Histogram {
    fn register(key: &Key) -> Self {
        RECORDER.register_histogram(key, &METADATA)
    }
}

/// The handle of one series; `values` in the order of the family's labels.
/// Not for the hot path: keep the handle.
pub(super) fn series<H: Handle>(family: &Family, values: &[&str]) -> H {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let labels: Vec<Label> = family
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    H::register(&Key::from_parts(family.name, labels))
}

/// The series of a family that differ in the last label, made when first used.
/// Values are `&'static str`, so their number is bounded by the program text.
pub(super) struct ByLabel<H> {
    family: &'static Family,
    first: Vec<String>,
    known: RwLock<HashMap<&'static str, H>>,
}

impl<H: Handle> ByLabel<H> {
    pub fn new(family: &'static Family, first: &[&str]) -> Self {
        let first = first.iter().map(|value| (*value).to_owned()).collect();
        Self { family, first, known: RwLock::default() }
    }

    /// Makes the series of `values` before they are used, at zero.
    pub fn prepare(&self, values: impl IntoIterator<Item = &'static str>) {
        values.into_iter().for_each(|value| drop(self.get(value)));
    }

    pub fn get(&self, value: &'static str) -> H {
        if let Some(handle) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(value) {
            return handle.clone();
        }
        let mut values: Vec<&str> = self.first.iter().map(String::as_str).collect();
        values.push(value);
        let handle: H = series(self.family, &values);
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(value, handle.clone());
        handle
    }
}
