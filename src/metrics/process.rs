//! The process itself: processor, memory, files, start; under the names that
//! every Prometheus client gives them.

use std::sync::LazyLock;

use metrics_process::Collector;

use super::registry;

static COLLECTOR: LazyLock<Collector> = LazyLock::new(Collector::default);

pub(super) fn init() {
    registry::recording(|| COLLECTOR.describe());
}

/// As it is now.
pub(super) fn measure() {
    registry::recording(|| COLLECTOR.collect());
}
