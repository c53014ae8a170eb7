//! Renders a compiled template.

use std::io::Write;

use super::number::{write_decimal, write_iso};
use super::parse::{Part, Program};
use super::random::{DeviceState, Random, Stream};

/// Whom a template is rendered for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Name of the fleet.
    pub fleet: &'a str,
    /// Name of the group.
    pub group: &'a str,
    /// Number of the device in its group, counted from the group's `start_index`.
    pub index: u64,
    /// Id of the device.
    pub id: &'a str,
}

/// The command that a reply answers.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Name of the command.
    pub command: &'a str,
    /// What the cloud calls this one request; empty where the platform has no such thing.
    pub request_id: &'a str,
    /// What came with it.
    pub payload: &'a [u8],
}

impl Program {
    pub(super) fn state(&self, seed: u64, group: &str, index: u64, stream: Stream) -> DeviceState {
        DeviceState {
            random: Random::for_device(seed, group, index, stream),
            seq: 0,
            walks: self.walk_starts().into(),
        }
    }

    /// Renders what depends on the device alone; the other parts cannot be in such a template.
    pub(super) fn render_fixed(&self, subject: &Subject<'_>, out: &mut Vec<u8>) {
        for part in self.parts() {
            write_fixed(part, subject, out);
        }
    }

    pub(super) fn render(
        &self,
        subject: &Subject<'_>,
        now_unix_ms: u64,
        request: Option<&Request<'_>>,
        state: &mut DeviceState,
        out: &mut Vec<u8>,
    ) {
        state.seq = state.seq.wrapping_add(1);
        for part in self.parts() {
            if !write_fixed(part, subject, out) && !write_request(part, request, out) {
                write_value(part, now_unix_ms, state, out);
            }
        }
    }
}

/// Writes the parts that are the same in all of a device's messages; `false` for the others.
fn write_fixed(part: &Part, subject: &Subject<'_>, out: &mut Vec<u8>) -> bool {
    match part {
        Part::Text(text) => out.extend_from_slice(text.as_bytes()),
        Part::Index { width, hex: false } => {
            let _ = write!(
                out,
                "{:0width$}",
                subject.index,
                width = usize::from(*width)
            );
        }
        Part::Index { width, hex: true } => {
            let _ = write!(
                out,
                "{:0width$x}",
                subject.index,
                width = usize::from(*width)
            );
        }
        Part::Id => out.extend_from_slice(subject.id.as_bytes()),
        Part::Group => out.extend_from_slice(subject.group.as_bytes()),
        Part::Fleet => out.extend_from_slice(subject.fleet.as_bytes()),
        _ => return false,
    }
    true
}

/// Writes the parts that come from the command; `false` for the others.
fn write_request(part: &Part, request: Option<&Request<'_>>, out: &mut Vec<u8>) -> bool {
    let (text, json) = match part {
        Part::Command { json } => (request.map(|r| r.command.as_bytes()), *json),
        Part::RequestId { json } => (request.map(|r| r.request_id.as_bytes()), *json),
        Part::Payload { json } => (request.map(|r| r.payload), *json),
        _ => return false,
    };
    let text = text.unwrap_or_default();
    if json {
        write_json_string(&String::from_utf8_lossy(text), out);
    } else {
        out.extend_from_slice(text);
    }
    true
}

/// Writes the parts that change from message to message.
fn write_value(part: &Part, now_unix_ms: u64, state: &mut DeviceState, out: &mut Vec<u8>) {
    let random = &mut state.random;
    match part {
        Part::NowMs => drop(write!(out, "{now_unix_ms}")),
        Part::NowS => drop(write!(out, "{}", now_unix_ms / 1_000)),
        Part::NowIso => write_iso(now_unix_ms, out),
        Part::Seq => drop(write!(out, "{}", state.seq)),
        Part::Uuid => write_uuid(random, out),
        Part::Int { min, max } => drop(write!(out, "{}", random.int(*min, *max))),
        Part::Float { min, max, decimals } => {
            write_decimal(min + (max - min) * random.unit(), *decimals, out);
        }
        Part::Normal { mean, sd, decimals } => {
            write_decimal(mean + sd * random.normal(), *decimals, out);
        }
        Part::Walk(walk) => {
            let move_by = walk.step * (2.0 * random.unit() - 1.0);
            let value = match state.walks.get_mut(walk.slot) {
                Some(value) => {
                    *value = (*value + move_by).clamp(walk.min, walk.max);
                    *value
                }
                None => walk.start,
            };
            write_decimal(value, walk.decimals, out);
        }
        Part::Sine(sine) => {
            #[expect(
                clippy::cast_precision_loss,
                reason = "milliseconds of this era are far below 2^53"
            )]
            let turns = (now_unix_ms as f64 / 1_000.0 / sine.period_s).fract();
            let value = sine.offset + sine.amplitude * (turns * std::f64::consts::TAU).sin();
            write_decimal(value, sine.decimals, out);
        }
        Part::Bool { p } => {
            let text: &[u8] = if random.chance(*p) { b"true" } else { b"false" };
            out.extend_from_slice(text);
        }
        Part::Choice(texts) => {
            let pick = usize::try_from(random.below(texts.len() as u64)).unwrap_or(0);
            let text = texts.get(pick).map_or("", |text| text);
            out.extend_from_slice(text.as_bytes());
        }
        Part::Hex { digits } => write_hex(*digits, random, out),
        Part::Pad { length } => out.resize(out.len() + length, b'x'),
        _ => {}
    }
}

fn write_hex(digits: usize, random: &mut Random, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut left = digits;
    while left > 0 {
        let mut bits = random.bits();
        for _ in 0..left.min(16) {
            out.push(DIGITS[(bits & 15) as usize]);
            bits >>= 4;
        }
        left = left.saturating_sub(16);
    }
}

/// A random UUID: version 4, variant 1 (RFC 9562, section 5.4).
fn write_uuid(random: &mut Random, out: &mut Vec<u8>) {
    let (high, low) = (random.bits(), random.bits());
    let _ = write!(
        out,
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff,
    );
}

/// A JSON string, quotes included (RFC 8259, section 7).
fn write_json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => drop(write!(out, "\\u{byte:04x}")),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::{NameTemplate, PayloadTemplate, ReplyTemplate};
    use super::*;

    const SUBJECT: Subject<'static> = Subject {
        fleet: "demo",
        group: "lab",
        index: 7,
        id: "lab-000007",
    };
    const NOW: u64 = 1_795_249_800_250;

    fn series(text: &str, count: usize) -> Vec<String> {
        let template = PayloadTemplate::new(text).unwrap();
        let mut state = template.state(42, "lab", 7);
        (0..count)
            .map(|_| {
                let mut out = Vec::new();
                template.render(&SUBJECT, NOW, &mut state, &mut out);
                String::from_utf8(out).unwrap()
            })
            .collect()
    }

    fn one(text: &str) -> String {
        series(text, 1).remove(0)
    }

    #[test]
    fn names_moments_and_counts_are_put_in() {
        assert_eq!(
            one("{{fleet}}/{{group}}/{{id}}/{{index}}/{{index:06}}/{{index:04x}}"),
            "demo/lab/lab-000007/7/000007/0007"
        );
        assert_eq!(one("%i %c %u 5%% 6%"), "7 lab-000007 lab 5% 6%");
        assert_eq!(
            one("{{now_ms}} {{now_s}} {{now_iso}}"),
            "1795249800250 1795249800 2026-11-21T08:30:00.250Z"
        );
        assert_eq!(series("{{seq}}", 3), ["1", "2", "3"]);
        assert_eq!(one("{{pad(3)}}|{{hex(0)}}|"), "xxx||");
    }

    #[test]
    fn one_seed_always_gives_these_values() {
        // Pinned: a change of these lines breaks every recorded run of every user.
        let text = "{{int(1,6)}} {{float(0,1)}} {{normal(230,2)}} {{walk(0,0.01)}} {{bool(0.5)}} {{choice(a,b,c)}} {{hex(5)}}";
        assert_eq!(series(text, 2), series(text, 2));
        assert_eq!(series(text, 2), PINNED);
        assert_eq!(one("{{uuid}}"), PINNED_UUID);
    }

    const PINNED: [&str; 2] = [
        "4 0.06 231.33 -0.003 false a b815e",
        "6 0.59 230.17 0.000 true c 0a0d3",
    ];
    const PINNED_UUID: &str = "89288b0e-a677-4249-8ee9-59d2e8e63499";

    #[test]
    fn values_stay_in_their_ranges() {
        for text in series("{{int(-3,3)}}", 500) {
            assert!((-3..=3).contains(&text.parse::<i32>().unwrap()));
        }
        for text in series("{{float(1.5,2.5):4}}", 500) {
            assert_eq!(text.len(), 6, "{text}");
            assert!((1.5..=2.5).contains(&text.parse::<f64>().unwrap()));
        }
        for text in series("{{choice(\"on\",\"off\")}}", 50) {
            assert!(["\"on\"", "\"off\""].contains(&text.as_str()));
        }
        assert!(series("{{bool(1)}}", 50).iter().all(|text| text == "true"));
        assert!(series("{{bool(0)}}", 50).iter().all(|text| text == "false"));
    }

    #[test]
    fn a_walk_moves_by_its_step_and_stays_between_its_bounds() {
        let values: Vec<f64> = series("{{walk(5,1,4,6):6}}", 500)
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert!(values.iter().all(|value| (4.0..=6.0).contains(value)));
        assert!(values.windows(2).all(|w| (w[0] - w[1]).abs() <= 1.000_001));
        assert!(values.windows(2).any(|w| w[0] != w[1]));
    }

    #[test]
    fn two_walks_of_one_template_are_apart() {
        let line = series("{{walk(0,1):9}} {{walk(100,1):9}}", 5).remove(4);
        let (first, second) = line.split_once(' ').unwrap();
        assert!(first.parse::<f64>().unwrap().abs() <= 5.0);
        assert!((second.parse::<f64>().unwrap() - 100.0).abs() <= 5.0);
    }

    #[test]
    fn a_sine_follows_the_clock() {
        let template = PayloadTemplate::new("{{sine(10,60,20):1}}").unwrap();
        let at = |ms| {
            let mut out = Vec::new();
            let mut state = template.state(1, "g", 0);
            template.render(&SUBJECT, ms, &mut state, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            [at(0), at(15_000), at(30_000), at(45_000), at(60_000)],
            ["20.0", "30.0", "20.0", "10.0", "20.0"]
        );
    }

    #[test]
    fn a_uuid_says_version_and_variant() {
        for text in series("{{uuid}}", 50) {
            let parts: Vec<usize> = text.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{text}");
            assert_eq!(text.as_bytes()[14], b'4');
            assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
        }
    }

    #[test]
    fn a_reply_quotes_what_came_from_outside_when_asked() {
        let template = ReplyTemplate::new(
            r#"{"c":{{command:json}},"r":"{{request_id}}","p":{{payload:json}}}"#,
        )
        .unwrap();
        let request = Request {
            command: "re\"boot",
            request_id: "17",
            payload: b"a\n\x01\xffb",
        };
        let mut out = Vec::new();
        let mut state = template.state(42, "lab", 7);
        template.render(&SUBJECT, NOW, &request, &mut state, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"c\":\"re\\\"boot\",\"r\":\"17\",\"p\":\"a\\n\\u0001\u{fffd}b\"}"
        );
    }

    #[test]
    fn a_raw_payload_is_put_in_byte_by_byte() {
        let template = ReplyTemplate::new("{{payload}}").unwrap();
        let request = Request {
            command: "",
            request_id: "",
            payload: &[0, 255, 1],
        };
        let mut out = Vec::new();
        let mut state = template.state(0, "", 0);
        template.render(&SUBJECT, NOW, &request, &mut state, &mut out);
        assert_eq!(out, [0, 255, 1]);
    }

    #[test]
    fn a_full_buffer_is_reused_without_growing() {
        let template =
            PayloadTemplate::new("{{uuid}}{{normal(0,1)}}{{now_iso}}{{pad(40)}}").unwrap();
        let mut state = template.state(1, "g", 1);
        let mut out = Vec::with_capacity(256);
        for _ in 0..100 {
            out.clear();
            template.render(&SUBJECT, NOW, &mut state, &mut out);
        }
        assert_eq!(out.capacity(), 256);
    }

    #[test]
    fn names_know_their_device() {
        let template = NameTemplate::new("certs/{{id}}.pem").unwrap();
        assert!(template.varies());
        assert_eq!(template.render(&SUBJECT), "certs/lab-000007.pem");
        assert!(!NameTemplate::new("{{group}}-user").unwrap().varies());
    }
}
