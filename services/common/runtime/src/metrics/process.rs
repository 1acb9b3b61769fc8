//! The process's own figures, read from /proc at each scrape, under the names that Prometheus
//! client libraries share.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        // A figure that cannot be read is left out, as Prometheus asks.
        if let Some(bytes) = resident_bytes() {
            gauge(
                &mut encoder,
                "process_resident_memory_bytes",
                "Resident memory",
                bytes,
            )?;
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            gauge(
                &mut encoder,
                "process_open_fds",
                "Open file descriptors",
                entries.count() as u64,
            )?;
        }
        if let Some(threads) = stat_field(19) {
            gauge(&mut encoder, "process_threads", "Threads", threads)?;
        }
        if let (Some(user), Some(system)) = (stat_field(13), stat_field(14)) {
            // USER_HZ is 100 on every architecture that Linux's ABI promises.
            let counter = ConstCounter::new((user + system) as f64 / 100.0);
            let metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "CPU time, user and system",
                None,
                counter.metric_type(),
            )?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The field of /proc/self/stat at `index`, counted from 0 as proc(5) does minus one; the name in
/// parentheses may hold spaces, so counting starts behind it.
fn stat_field(index: usize) -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(index - 2)?.parse().ok()
}
