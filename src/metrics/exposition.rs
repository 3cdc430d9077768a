//! What Prometheus reads.

use std::borrow::Cow;

use metrics_exporter_prometheus::PrometheusHandle;

use super::table::{DEVICE_BUSY, MODEL_INFO, Metric};

/// Everything that was collected; clones show the same.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    pub(super) fn new(handle: PrometheusHandle) -> Self {
        Self(handle)
    }

    /// The values of this moment, in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for line in self.0.render().lines() {
            if let Some(line) = exposed(line) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }

    /// Bounds the memory of what nobody reads; due every few seconds.
    pub fn tidy(&self) {
        self.0.run_upkeep();
    }
}

/// The line as it goes out. A counter of seconds is kept in whole microseconds, for want of counters with a fraction.
/// Series of what is served no more are left out: an info metric has one.
fn exposed(line: &str) -> Option<Cow<'_, str>> {
    let Some((series, value)) = line.rsplit_once(' ').filter(|(series, _)| !series.starts_with('#')) else {
        return Some(line.into());
    };
    let is_of = |metric: Metric| series.strip_prefix(metric.name).is_some_and(|rest| rest.starts_with('{'));
    if is_of(MODEL_INFO) && value == "0" {
        return None;
    }
    match value.parse::<u64>() {
        Ok(microseconds) if is_of(DEVICE_BUSY) => Some(format!("{series} {}", microseconds as f64 / 1e6).into()),
        _ => Some(line.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_seconds_are_seconds_and_old_bundles_are_not_shown() {
        let line = "pcqa_device_busy_seconds_total{device=\"cpu\"} 1500000";
        assert_eq!(exposed(line).as_deref(), Some("pcqa_device_busy_seconds_total{device=\"cpu\"} 1.5"));
        for name in ["served now", "a } 0"] {
            let line = |value| format!("pcqa_model_info{{name=\"{name}\",version=\"1\",digest=\"d\"}} {value}");
            assert_eq!(exposed(&line(1)).as_deref(), Some(&*line(1)));
            assert_eq!(exposed(&line(0)), None);
        }
        for line in ["# TYPE pcqa_model_info gauge", "# HELP pcqa_ready 0", "pcqa_ready 0", ""] {
            assert_eq!(exposed(line).as_deref(), Some(line));
        }
    }
}
