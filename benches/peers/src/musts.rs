//! What paquebot has to reach, as ratios within one run.

use serde::Serialize;

use crate::bench::Measured;
use crate::client::Client;
use crate::measure::Column;

/// One figure of the run: a median.
#[derive(Debug, Clone)]
pub(crate) struct Figure(&'static str, Column, Client);

/// What has to hold of a figure.
#[derive(Debug, Clone)]
enum Bound {
    /// It is at least so many times as good as the other: more of a rate, less of a time.
    Times(f64, Figure),
    /// It is at most so much.
    AtMost(f64),
}

/// One requirement.
#[derive(Debug, Clone)]
struct Must {
    subject: &'static str,
    ours: Figure,
    bound: Bound,
    /// What is wanted beyond the requirement, in the same terms.
    want: Option<f64>,
}

/// A requirement and what the run says to it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    pub(crate) subject: &'static str,
    pub(crate) required: String,
    pub(crate) wanted: Option<String>,
    pub(crate) measured: String,
    /// The same ratio of the CPU time a message or a connect, which a busy machine disturbs less.
    pub(crate) by_cpu: Option<String>,
    /// What sockets without a client reach here against the same, or in the same two rows against themselves: no
    /// requirement can ask for more.
    pub(crate) raw: Option<String>,
    pub(crate) is_met: bool,
}

/// What was required of everything that this run has measured.
pub(crate) fn verdicts(measured: &[Measured]) -> Vec<Verdict> {
    all()
        .iter()
        .filter_map(|must| must.verdict(measured))
        .collect()
}

impl Must {
    fn verdict(&self, measured: &[Measured]) -> Option<Verdict> {
        let ours = self.ours.median(measured)?;
        let (value, required, is_met) = match &self.bound {
            Bound::Times(least, theirs) => {
                let ratio = ratio(self.ours.1, ours, theirs.median(measured)?);
                (
                    times(ratio),
                    format!("≥ {}", times(*least)),
                    ratio >= *least,
                )
            }
            Bound::AtMost(most) => (format!("{ours:.1}"), format!("≤ {most}"), ours <= *most),
        };
        let against = match &self.bound {
            Bound::Times(_, theirs) => theirs.against(&self.ours),
            Bound::AtMost(_) => self.ours.1.title().to_owned(),
        };
        let raw = match &self.bound {
            Bound::Times(_, theirs) if theirs.0 == self.ours.0 => theirs.raw(measured),
            Bound::Times(_, theirs) => self.ours.raw_against(theirs, measured),
            Bound::AtMost(_) => None,
        };
        let by_cpu = match &self.bound {
            Bound::Times(_, theirs) => self.ours.1.cpu().and_then(|column| {
                let cpu = |figure: &Figure| Figure(figure.0, column, figure.2).median(measured);
                let (ours, theirs) = (cpu(&self.ours)?, cpu(theirs)?);
                Some(times(ratio(column, ours, theirs)))
            }),
            Bound::AtMost(_) => None,
        };
        let wanted = self.want.map(|want| match self.bound {
            Bound::Times(..) => format!("≥ {}", times(want)),
            Bound::AtMost(_) => format!("≤ {want}"),
        });
        Some(Verdict {
            subject: self.subject,
            required: format!("{required} {against}"),
            wanted,
            measured: value,
            by_cpu,
            raw,
            is_met,
        })
    }
}

/// Sockets without a client, those that are nearest to one first.
const RAW: [Client; 4] = [
    Client::RawChannel,
    Client::Raw16k,
    Client::RawWriteEach,
    Client::RawTask,
];

impl Figure {
    fn median(&self, measured: &[Measured]) -> Option<f64> {
        let mut cells = measured.iter().flat_map(|section| &section.cells);
        let cell = cells.find(|cell| cell.row == self.0 && cell.client == self.2)?;
        Some(cell.summary(self.1)?.median)
    }

    /// How good the row's sockets without a client are beside it; `None` if it is theirs.
    fn raw(&self, measured: &[Measured]) -> Option<String> {
        if RAW.contains(&self.2) {
            return None;
        }
        let theirs = self.median(measured)?;
        let raw = |client| Self(self.0, self.1, client).median(measured);
        let raw = RAW.into_iter().find_map(raw)?;
        Some(times(ratio(self.1, raw, theirs)))
    }

    /// How good sockets without a client are in its row beside the same in another row.
    fn raw_against(&self, other: &Self, measured: &[Measured]) -> Option<String> {
        RAW.into_iter().find_map(|client| {
            let of = |figure: &Self| Self(figure.0, figure.1, client).median(measured);
            Some(times(ratio(self.1, of(self)?, of(other)?)))
        })
    }

    /// What tells it from `ours`: the client or, of the same client, the row.
    fn against(&self, ours: &Self) -> String {
        if self.2 == ours.2 {
            self.0.to_owned()
        } else {
            self.2.title().to_owned()
        }
    }
}

/// How many times as good `ours` is.
pub(crate) fn ratio(column: Column, ours: f64, theirs: f64) -> f64 {
    if column.is_more_better() {
        ours / theirs
    } else {
        theirs / ours
    }
}

/// A ratio with as many digits as it deserves.
pub(crate) fn times(ratio: f64) -> String {
    match ratio {
        100.0.. => format!("{ratio:.0}×"),
        10.0..100.0 => format!("{ratio:.1}×"),
        0.1..10.0 => format!("{ratio:.2}×"),
        _ => format!("{ratio:.4}×"),
    }
}

fn all() -> Vec<Must> {
    let mut musts = vec![must(
        "decode, stream cut at any byte",
        Figure("codec-qos1-64", Column::Decode, Client::Paquebot),
        4.0,
        Client::RumqttcV4,
        Some(6.0),
    )];
    musts.extend(publish());
    musts.extend(tls());
    musts.extend(receive());
    musts.extend(links());
    musts.extend(growth());
    musts
}

fn publish() -> Vec<Must> {
    let qos0 = |ours| Figure("publish-qos0-64", Column::Rate, ours);
    let qos1 = || Figure("publish-qos1-64-w1000", Column::Rate, Client::PaquebotBatch);
    let receipts = Figure("receipts-qos1-64-w1000", Column::Rate, Client::Paquebot);
    let mut musts = Vec::new();
    for (subject, ours) in [
        ("publish QoS 0, batches", Client::PaquebotBatch),
        ("publish QoS 0, no receipts", Client::PaquebotDetached),
    ] {
        for (least, theirs, want) in [
            (25.0, Client::RumqttcV4Nodelay, None),
            (7.0, Client::RumqttcV4, None),
            (1.1, Client::Ntex, None),
            (0.75, Client::RawChannel, Some(0.9)),
        ] {
            musts.push(must(subject, qos0(ours), least, theirs, want));
        }
    }
    for (least, theirs, want) in [
        (25.0, Client::RumqttcV4Nodelay, None),
        (10.0, Client::RumqttcV4, None),
        (3.0, Client::Ntex, None),
        (0.65, Client::RawChannel, Some(0.85)),
    ] {
        let subject = "publish QoS 1, window 1,000";
        musts.push(must(subject, qos1(), least, theirs, want));
    }
    let subject = "publish QoS 1, one receipt each";
    musts.push(must(subject, receipts, 1.0, Client::Ntex, Some(1.5)));
    musts
}

fn tls() -> Vec<Must> {
    let pairs = [
        ("publish QoS 0 over TLS", "tls-qos0-64", "tls-tcp-qos0-64"),
        (
            "publish QoS 1 over TLS",
            "tls-qos1-64-w1000",
            "tls-tcp-qos1-64-w1000",
        ),
    ];
    let musts = pairs.into_iter().flat_map(|(subject, tls, tcp)| {
        let ours = || Figure(tls, Column::Rate, Client::PaquebotBatch);
        let plain = Figure(tcp, Column::Rate, Client::PaquebotBatch);
        [
            against(subject, ours(), 0.7, plain, Some(0.85)),
            must(subject, ours(), 15.0, Client::RumqttcV4Nodelay, None),
        ]
    });
    musts.collect()
}

fn receive() -> Vec<Must> {
    let ours = |row| Figure(row, Column::Rate, Client::Paquebot);
    let theirs = Client::RumqttcV4;
    vec![
        must(
            "receive QoS 0",
            ours("receive-qos0-64"),
            2.5,
            theirs,
            Some(5.0),
        ),
        must(
            "receive QoS 1",
            ours("receive-qos1-64"),
            5.0,
            theirs,
            Some(12.0),
        ),
    ]
}

fn links() -> Vec<Must> {
    let ours = |row, column| Figure(row, column, Client::Paquebot);
    let raw = Client::RawTask;
    let connects = |row| ours(row, Column::Connects);
    let memory = |subject, row, most, want| Must {
        subject,
        ours: ours(row, Column::Memory),
        bound: Bound::AtMost(most),
        want: Some(want),
    };
    vec![
        must(
            "many links in turn",
            ours("turns", Column::Rate),
            0.8,
            Client::RawWriteEach,
            Some(0.9),
        ),
        memory("idle link, TCP", "connects-tcp-few", 6.0, 3.0),
        memory("idle link, TLS", "connects-tls-few", 14.0, 11.0),
        must(
            "connects, TCP",
            connects("connects-tcp-few"),
            0.75,
            raw,
            None,
        ),
        must(
            "connects, TLS",
            connects("connects-tls-few"),
            0.9,
            raw,
            None,
        ),
        against(
            "connects do not slow down, TCP",
            connects("connects-tcp-many"),
            0.9,
            connects("connects-tcp-few"),
            None,
        ),
        against(
            "connects do not slow down, TLS",
            connects("connects-tls-many"),
            0.9,
            connects("connects-tls-few"),
            None,
        ),
    ]
}

/// Flat within half as much again: two thirds of the speed at the least.
fn growth() -> Vec<Must> {
    let ours = |row| Figure(row, Column::Cpu, Client::Paquebot);
    let rows = [
        ("growth-tcp-1000", "growth-tcp-10"),
        ("growth-tcp-10000", "growth-tcp-10"),
        ("growth-pipe-1000", "growth-pipe-10"),
        ("growth-pipe-10000", "growth-pipe-10"),
        ("growth-pipe-100000", "growth-pipe-10"),
    ];
    let musts = rows
        .into_iter()
        .map(|(larger, smallest)| against(larger, ours(larger), 1.0 / 1.5, ours(smallest), None));
    musts.collect()
}

/// Against another client in the same row.
fn must(
    subject: &'static str,
    ours: Figure,
    least: f64,
    theirs: Client,
    want: Option<f64>,
) -> Must {
    let theirs = Figure(ours.0, ours.1, theirs);
    against(subject, ours, least, theirs, want)
}

fn against(
    subject: &'static str,
    ours: Figure,
    least: f64,
    theirs: Figure,
    want: Option<f64>,
) -> Must {
    Must {
        subject,
        ours,
        bound: Bound::Times(least, theirs),
        want,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Extent, all as all_rows};

    #[test]
    fn every_requirement_names_a_row_and_a_contestant_that_exist() {
        let sections = all_rows(Extent {
            is_quick: false,
            links_max: 19_800,
        });
        let is_measured = |Figure(row, column, client): &Figure| {
            let mut rows = sections.iter().flat_map(|section| &section.rows);
            rows.any(|known| {
                known.id == *row
                    && known.columns.contains(column)
                    && known.contestants.contains(client)
            })
        };
        for must in all() {
            assert!(is_measured(&must.ours), "{must:?}");
            if let Bound::Times(_, theirs) = &must.bound {
                assert!(is_measured(theirs), "{must:?}");
            }
        }
    }

    #[test]
    fn less_of_a_time_is_better_and_more_of_a_rate() {
        assert_eq!(ratio(Column::Rate, 300.0, 100.0), 3.0);
        assert_eq!(ratio(Column::Decode, 25.0, 100.0), 4.0);
    }
}
