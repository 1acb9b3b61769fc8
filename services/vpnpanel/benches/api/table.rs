//! Figures as a section of docs/benchmarks.md.

use crate::load::Cost;

/// A section.
pub(crate) struct Table {
    title: String,
    rows: Vec<[String; 5]>,
}

impl Table {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            rows: Vec::new(),
        }
    }

    /// A call's cost beside the cost of what it is compared with.
    pub(crate) fn cpu(
        &mut self,
        work: &str,
        cost: Cost,
        limit: Option<(&str, Cost)>,
        target: &str,
    ) {
        let measured = format!("{:.0} µs CPU, {:.0}/s", cost.cpu_micros, cost.per_second);
        match limit {
            Some((name, limit)) => {
                let beside = format!("{name}: {:.0} µs", limit.cpu_micros);
                let ratio = format!("{:.1} ×", cost.cpu_micros / limit.cpu_micros);
                self.row(work, &measured, &beside, &ratio, target);
            }
            None => self.row(work, &measured, "–", "–", target),
        }
    }

    pub(crate) fn row(
        &mut self,
        work: &str,
        measured: &str,
        limit: &str,
        ratio: &str,
        target: &str,
    ) {
        self.rows
            .push([work, measured, limit, ratio, target].map(str::to_owned));
    }

    pub(crate) fn print(&self) {
        println!("## {}\n", self.title);
        println!("| work | measured | limit | ratio | target |");
        println!("| --- | --- | --- | --- | --- |");
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
        println!();
    }
}
