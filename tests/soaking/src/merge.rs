//! Several courses as one run.

use serde_json::{Value, json};

use crate::course::Findings;
use crate::support::judge::Verdict;

impl Findings {
    /// Adds what another course came to: sums for counts, its figures in a list.
    pub(crate) fn merge(&mut self, other: Self) {
        self.faults += other.faults;
        let (to, from) = (&mut self.totals, other.totals);
        to.accepted += from.accepted;
        to.delivered += from.delivered;
        to.rejected += from.rejected;
        to.expired += from.expired;
        to.dropped += from.dropped;
        to.held += from.held;
        to.recovered += from.recovered;
        to.merged += from.merged;
        to.kept += from.kept;
        to.disconnects += from.disconnects;
        to.connects += from.connects;
        to.reconnects += from.reconnects;
        for (to, from) in self.verdicts.iter_mut().zip(other.verdicts) {
            to.add_verdict(from);
        }
        let courses = self
            .figures
            .entry("courses")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(courses) = courses {
            let mut figures = other.figures;
            figures.insert(
                "seconds".to_owned(),
                json!(other.began.elapsed().as_secs_f64()),
            );
            courses.push(Value::Object(figures));
        }
        self.broken.extend(other.broken);
    }
}

impl Verdict {
    pub(crate) const fn add_verdict(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.disordered += other.disordered;
        self.foreign += other.foreign;
    }
}
