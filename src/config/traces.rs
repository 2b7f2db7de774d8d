//! Where traces go, and of how much. Of use only in a build with them.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// `http://host:port` of a collector of OTLP over HTTP; none: no traces.
    pub otlp_endpoint: Option<String>,
    /// The share of submits that are traced, from 0 to 1.
    pub sample_ratio: f64,
}

impl Default for Traces {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 0.01 }
    }
}

impl Traces {
    /// What is wrong with it, if anything is.
    pub(super) fn problem(&self) -> Option<&'static str> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Some("traces.sample_ratio must be from 0 to 1");
        }
        let endpoint = self.otlp_endpoint.as_deref()?;
        if !cfg!(feature = "otlp") {
            return Some("traces.otlp_endpoint: this build has no traces: build with --features otlp");
        }
        let is_plain = endpoint.starts_with("http://") && !endpoint.contains(['@', '?', '#', ' ']);
        (!is_plain).then_some("traces.otlp_endpoint must be http://host:port, without secrets")
    }
}
