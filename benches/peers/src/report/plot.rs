//! The picture: for each row how good everybody is beside paquebot, on a logarithmic axis.

use std::fmt::Write as _;

use super::Report;
use crate::bench::Measured;
use crate::client::Client;
use crate::measure::Column;
use crate::musts::{ratio, times};
use crate::rows::Row;

const WIDTH: f64 = 960.0;
const LABEL_WIDTH: f64 = 230.0;
const VALUE_WIDTH: f64 = 70.0;
const BAR_HEIGHT: f64 = 18.0;
const TITLE_HEIGHT: f64 = 46.0;
const AXIS_HEIGHT: f64 = 30.0;
const HEAD_HEIGHT: f64 = 54.0;

/// The bars of one row.
struct Panel {
    title: String,
    column: Column,
    /// How good each is, paquebot being 1; the best first.
    bars: Vec<(Client, f64)>,
}

/// All rows in which paquebot is compared with others, one below the other.
pub(super) fn picture(report: &Report) -> String {
    let panels: Vec<Panel> = report.measured.iter().flat_map(panels).collect();
    let bars = panels.iter().map(|panel| panel.bars.len()).sum::<usize>() as f64;
    let height =
        HEAD_HEIGHT + panels.len() as f64 * (TITLE_HEIGHT + AXIS_HEIGHT) + bars * BAR_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"18\">paquebot beside other MQTT clients</text>\n\
         <text x=\"16\" y=\"44\" fill=\"#666\">paquebot = 1, logarithmic; to the right is better. {}</text>\n",
        escaped(&format!(
            "{} cores of {}",
            report.machine.cores, report.machine.cpu
        )),
    );
    let scale = Scale::of(&panels);
    let mut top = HEAD_HEIGHT;
    for panel in &panels {
        panel.draw(&scale, top, &mut svg);
        top += TITLE_HEIGHT + AXIS_HEIGHT + panel.bars.len() as f64 * BAR_HEIGHT;
    }
    svg.push_str("</svg>\n");
    svg
}

fn panels(measured: &Measured) -> Vec<Panel> {
    let section = &measured.section;
    let panel = |(row, column): (&Row, Column)| {
        let ours = measured.ours(row, column)?;
        let mut bars: Vec<_> = row
            .contestants
            .iter()
            .filter_map(|client| {
                let summary = measured.cell(row, *client)?.summary(column)?;
                Some((*client, ratio(column, summary.median, ours)))
            })
            .collect();
        bars.sort_by(|a, b| b.1.total_cmp(&a.1));
        (bars.len() > 1).then(|| Panel {
            title: format!("{}: {}", section.title, row.title),
            column,
            bars,
        })
    };
    let compared = section.rows.iter().flat_map(|row| {
        let columns = row.columns.iter().filter(|column| column.is_compared());
        columns.map(move |column| (row, *column))
    });
    compared.filter_map(panel).collect()
}

impl Panel {
    fn draw(&self, scale: &Scale, top: f64, svg: &mut String) {
        let bars_top = top + TITLE_HEIGHT - 12.0;
        let bottom = bars_top + self.bars.len() as f64 * BAR_HEIGHT;
        // A string takes all that is written to it.
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{:.1}\" font-weight=\"bold\">{} ({})</text>",
            top + 24.0,
            escaped(&self.title),
            escaped(self.column.title())
        );
        for power in scale.powers() {
            let (x, value) = (scale.x(10_f64.powi(power)), 10_f64.powi(power));
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bars_top:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{value}×</text>",
                bottom + 14.0
            );
        }
        let one = scale.x(1.0);
        for (index, (client, ratio)) in self.bars.iter().enumerate() {
            let y = bars_top + index as f64 * BAR_HEIGHT;
            let x = scale.x(*ratio);
            let (left, right) = (x.min(one), x.max(one));
            // paquebot itself has no length: a mark on the line.
            let left = if client.is_ours() { left - 2.0 } else { left };
            let width = (right - left).max(2.0);
            let ink = if client.is_ours() {
                colour(*client)
            } else {
                "#222"
            };
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{text_y:.1}\" text-anchor=\"end\" fill=\"{ink}\">{}</text>\
                 <rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{text_y:.1}\">{}</text>",
                LABEL_WIDTH - 8.0,
                escaped(client.title()),
                y + 3.0,
                BAR_HEIGHT - 6.0,
                colour(*client),
                WIDTH - VALUE_WIDTH + 8.0,
                times(*ratio),
                text_y = y + 13.0,
            );
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{bars_top:.1}\" y2=\"{bottom:.1}\" stroke=\"#222\"/>"
        );
    }
}

/// The axis, the same for all panels.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn of(panels: &[Panel]) -> Self {
        let ratios = panels.iter().flat_map(|panel| &panel.bars);
        let powers = ratios.map(|(_, ratio)| ratio.log10());
        let (low, high) = powers.fold((-1.0_f64, 1.0_f64), |(low, high), power| {
            (low.min(power), high.max(power))
        });
        Self {
            low: low.floor() as i32,
            high: high.ceil() as i32,
        }
    }

    fn powers(&self) -> std::ops::RangeInclusive<i32> {
        self.low..=self.high
    }

    fn x(&self, ratio: f64) -> f64 {
        let share = (ratio.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        LABEL_WIDTH + share * (WIDTH - LABEL_WIDTH - VALUE_WIDTH)
    }
}

const fn colour(client: Client) -> &'static str {
    match client {
        client if client.is_ours() => "#c2410c",
        Client::Raw64k
        | Client::Raw16k
        | Client::RawWriteEach
        | Client::RawTask
        | Client::RawChannel => "#9ca3af",
        _ => "#3b6ea5",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
