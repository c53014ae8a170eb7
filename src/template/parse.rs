//! Compiles the text of a template.

use super::placeholder::{
    MAGNITUDE_MAX, PLACEHOLDERS, Placeholder, Purpose, error, shortened, split,
};
use super::{TemplateError, TemplateErrorKind as Kind, nearest};

/// A compiled template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Program {
    source: Box<str>,
    parts: Box<[Part]>,
    walk_starts: Box<[f64]>,
}

/// One piece of a template: text or what stands in its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    Text(Box<str>),
    Index { width: u8, hex: bool },
    Id,
    Group,
    Fleet,
    NowMs,
    NowS,
    NowIso,
    Seq,
    Uuid,
    Int { min: i64, max: i64 },
    Float { min: f64, max: f64, decimals: u8 },
    Normal { mean: f64, sd: f64, decimals: u8 },
    Walk(Walk),
    Sine(Sine),
    Bool { p: f64 },
    Choice(Box<[Box<str>]>),
    Hex { digits: usize },
    Pad { length: usize },
    Command { json: bool },
    RequestId { json: bool },
    Payload { json: bool },
}

/// A random walk; its present value is in the device's state, at `slot`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Walk {
    pub(super) slot: usize,
    pub(super) start: f64,
    pub(super) step: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) decimals: u8,
}

/// A sine over the wall clock.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sine {
    pub(super) amplitude: f64,
    pub(super) period_s: f64,
    pub(super) offset: f64,
    pub(super) decimals: u8,
}

/// Longest template, and the most that `pad` and `hex` of one template add up to, in bytes.
const LENGTH_MAX: usize = 1024 * 1024;

impl Program {
    pub(super) fn parse(text: &str, purpose: Purpose) -> Result<Self, TemplateError> {
        Parser {
            text,
            purpose,
            parts: Vec::new(),
            literal: String::new(),
            walk_starts: Vec::new(),
            filler_bytes: 0,
        }
        .parse()
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn walk_starts(&self) -> &[f64] {
        &self.walk_starts
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn has_index(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Index { .. }))
    }

    pub(super) fn has_id(&self) -> bool {
        self.parts.contains(&Part::Id)
    }
}

struct Parser<'a> {
    text: &'a str,
    purpose: Purpose,
    parts: Vec<Part>,
    literal: String,
    walk_starts: Vec<f64>,
    filler_bytes: usize,
}

impl Parser<'_> {
    fn parse(mut self) -> Result<Program, TemplateError> {
        if self.text.len() > LENGTH_MAX {
            return Err(error(
                Kind::TooLong,
                LENGTH_MAX,
                "the template is longer than 1 MiB; send less",
            ));
        }
        let mut position = 0;
        while let Some(rest) = self.text.get(position..).filter(|rest| !rest.is_empty()) {
            position += if rest.starts_with("{{") {
                self.take_placeholder(position)?
            } else if rest.starts_with('%') {
                self.take_percent(position)?
            } else {
                let next = rest
                    .match_indices(['{', '%'])
                    .map(|(at, _)| at)
                    .find(|&at| rest[at..].starts_with('%') || rest[at..].starts_with("{{"))
                    .unwrap_or(rest.len());
                self.literal.push_str(&rest[..next]);
                next
            };
        }
        self.flush_literal();
        Ok(Program {
            source: self.text.into(),
            parts: self.parts.into(),
            walk_starts: self.walk_starts.into(),
        })
    }

    fn flush_literal(&mut self) {
        if !self.literal.is_empty() {
            let text = std::mem::take(&mut self.literal);
            self.parts.push(Part::Text(text.into()));
        }
    }

    fn push(&mut self, part: Part) {
        self.flush_literal();
        self.parts.push(part);
    }

    /// Takes `%i`, `%c`, `%u`, `%%` or a plain percent sign; returns its length.
    fn take_percent(&mut self, position: usize) -> Result<usize, TemplateError> {
        let letter = self.text.as_bytes().get(position + 1);
        let name = match letter {
            Some(b'i') => "index",
            Some(b'c') => "id",
            Some(b'u') => "group",
            _ => {
                self.literal.push('%');
                return Ok(if letter == Some(&b'%') { 2 } else { 1 });
            }
        };
        self.compile(&Placeholder {
            offset: position,
            name,
            arguments: None,
            format: None,
        })?;
        Ok(2)
    }

    /// Takes `{{…}}`; returns its length.
    fn take_placeholder(&mut self, position: usize) -> Result<usize, TemplateError> {
        let inside_at = position + 2;
        let rest = self.text.get(inside_at..).unwrap_or_default();
        let Some(length) = rest.find("}}") else {
            return Err(error(
                Kind::Unclosed,
                position,
                "`{{` is never closed; add `}}`",
            ));
        };
        let placeholder = split(&rest[..length], inside_at)?;
        self.compile(&placeholder)?;
        Ok(length + 4)
    }

    fn compile(&mut self, it: &Placeholder<'_>) -> Result<(), TemplateError> {
        let known = PLACEHOLDERS.iter().find(|(name, ..)| *name == it.name);
        let Some((_, _, needs)) = known else {
            return Err(self.unknown(it));
        };
        if *needs > self.purpose {
            return Err(self.not_here(it));
        }
        let part = self.part(it)?;
        self.push(part);
        Ok(())
    }

    fn part(&mut self, it: &Placeholder<'_>) -> Result<Part, TemplateError> {
        if let Some(part) = plain_part(it)? {
            return Ok(part);
        }
        match it.name {
            "int" => {
                it.no_format()?;
                let [min, max] = it.exactly("a smallest and a largest whole number")?;
                let (min, max) = (it.whole(min)?, it.whole(max)?);
                it.require(min <= max, "the first number is larger than the second")?;
                Ok(Part::Int { min, max })
            }
            "float" => {
                let [min, max] = it.exactly("a smallest and a largest number")?;
                let decimals = it.decimals()?;
                let (min, max) = (it.number(min)?, it.number(max)?);
                it.require(min <= max, "the first number is larger than the second")?;
                Ok(Part::Float { min, max, decimals })
            }
            "normal" => {
                let [mean, sd] = it.exactly("a mean and a standard deviation")?;
                let decimals = it.decimals()?;
                let (mean, sd) = (it.number(mean)?, it.number(sd)?);
                it.require(sd >= 0.0, "the standard deviation is negative")?;
                Ok(Part::Normal { mean, sd, decimals })
            }
            "walk" => self.walk(it),
            "sine" => sine(it),
            "bool" => {
                it.no_format()?;
                let [p] = it.exactly("a probability")?;
                let p = it.number(p)?;
                it.require((0.0..=1.0).contains(&p), "a probability is from 0 to 1")?;
                Ok(Part::Bool { p })
            }
            "choice" => choice(it),
            "hex" => Ok(Part::Hex {
                digits: self.filler(it, "how many digits")?,
            }),
            "pad" => Ok(Part::Pad {
                length: self.filler(it, "how many letters")?,
            }),
            _ => Err(self.unknown(it)),
        }
    }

    fn walk(&mut self, it: &Placeholder<'_>) -> Result<Part, TemplateError> {
        let (start, step, bounds) = match it.arguments.as_deref() {
            Some(&[start, step]) => (start, step, None),
            Some(&[start, step, min, max]) => (start, step, Some((min, max))),
            _ => {
                return Err(
                    it.wants("a start and a step, or a start, a step, a minimum and a maximum")
                );
            }
        };
        let (start, step) = (it.number(start)?, it.number(step)?);
        it.require(step >= 0.0, "the step is negative")?;
        let (min, max) = match bounds {
            Some((min, max)) => (it.number(min)?, it.number(max)?),
            None => (-MAGNITUDE_MAX, MAGNITUDE_MAX),
        };
        it.require(
            min <= start && start <= max,
            "the start is outside of minimum and maximum",
        )?;
        let walk = Walk {
            slot: self.walk_starts.len(),
            start,
            step,
            min,
            max,
            decimals: it.decimals()?,
        };
        self.walk_starts.push(start);
        Ok(Part::Walk(walk))
    }

    /// The length of `hex` or `pad`.
    fn filler(&mut self, it: &Placeholder<'_>, what: &str) -> Result<usize, TemplateError> {
        it.no_format()?;
        let [length] = it.exactly(what)?;
        let length = length
            .parse::<usize>()
            .ok()
            .filter(|length| *length <= LENGTH_MAX - self.filler_bytes);
        let Some(length) = length else {
            return Err(error(
                Kind::TooLong,
                it.offset,
                format!(
                    "{} takes a whole number; all `pad` and `hex` of a template add up to 1,048,576 at most",
                    it.name
                ),
            ));
        };
        self.filler_bytes += length;
        Ok(length)
    }

    fn unknown(&self, it: &Placeholder<'_>) -> TemplateError {
        let here = || {
            PLACEHOLDERS
                .iter()
                .filter(|(.., needs)| *needs <= self.purpose)
        };
        let hint = nearest(it.name, here().map(|(name, ..)| *name))
            .and_then(|meant| here().find(|(name, ..)| *name == meant))
            .map(|(_, form, _)| format!("did you mean {form}? "))
            .unwrap_or_default();
        error(
            Kind::UnknownPlaceholder,
            it.offset,
            format!(
                "there is no placeholder {{{{{}}}}}; {hint}There is {}",
                shortened(it.name),
                self.available()
            ),
        )
    }

    fn not_here(&self, it: &Placeholder<'_>) -> TemplateError {
        let (what, why) = match self.purpose {
            Purpose::Id => ("an id", "an id has to stay the same from run to run"),
            Purpose::Name => ("a name or path", "it has to stay the same for a device"),
            Purpose::Payload => ("a payload", "it belongs to the reply of a command"),
            Purpose::Reply => ("a reply", "it has no meaning"),
        };
        error(
            Kind::NotHere,
            it.offset,
            format!(
                "{{{{{}}}}} cannot be in {what}: {why}. There is {}",
                it.name,
                self.available()
            ),
        )
    }

    fn available(&self) -> String {
        let forms: Vec<&str> = PLACEHOLDERS
            .iter()
            .filter(|(.., needs)| *needs <= self.purpose)
            .map(|(_, form, _)| *form)
            .collect();
        forms.join(" ")
    }
}

/// The placeholders without arguments; `None` for the others.
fn plain_part(it: &Placeholder<'_>) -> Result<Option<Part>, TemplateError> {
    let part = match it.name {
        "index" => {
            let (width, hex) = index_format(it)?;
            it.no_arguments()?;
            return Ok(Some(Part::Index { width, hex }));
        }
        "command" | "request_id" | "payload" => {
            it.no_arguments()?;
            let json = match it.format {
                None => false,
                Some("json") => true,
                Some(_) => return Err(it.bad_format("`json`, for a quoted JSON string")),
            };
            return Ok(Some(match it.name {
                "command" => Part::Command { json },
                "request_id" => Part::RequestId { json },
                _ => Part::Payload { json },
            }));
        }
        "id" => Part::Id,
        "group" => Part::Group,
        "fleet" => Part::Fleet,
        "now_ms" => Part::NowMs,
        "now_s" => Part::NowS,
        "now_iso" => Part::NowIso,
        "seq" => Part::Seq,
        "uuid" => Part::Uuid,
        _ => return Ok(None),
    };
    it.no_arguments()?;
    it.no_format()?;
    Ok(Some(part))
}

/// `06`: six digits with leading zeros; `x`: hexadecimal; `08x`: both.
fn index_format(it: &Placeholder<'_>) -> Result<(u8, bool), TemplateError> {
    let Some(format) = it.format else {
        return Ok((0, false));
    };
    let (digits, hex) = match format.strip_suffix('x') {
        Some(digits) => (digits, true),
        None => (format, false),
    };
    if digits.is_empty() && hex {
        return Ok((0, true));
    }
    digits
        .strip_prefix('0')
        .filter(|width| !width.starts_with('+'))
        .and_then(|width| width.parse::<u8>().ok())
        .filter(|width| (1..=20).contains(width))
        .map(|width| (width, hex))
        .ok_or_else(|| {
            it.bad_format("a zero and a width from 1 to 20 as in `06`, `x` for hexadecimal, or both as in `08x`")
        })
}

fn sine(it: &Placeholder<'_>) -> Result<Part, TemplateError> {
    let (amplitude, period, offset) = match it.arguments.as_deref() {
        Some(&[amplitude, period]) => (amplitude, period, None),
        Some(&[amplitude, period, offset]) => (amplitude, period, Some(offset)),
        _ => return Err(it.wants("an amplitude, a period in seconds and an offset")),
    };
    let period_s = it.number(period)?;
    it.require(period_s > 0.0, "the period has to be above 0 seconds")?;
    Ok(Part::Sine(Sine {
        amplitude: it.number(amplitude)?,
        period_s,
        offset: offset.map_or(Ok(0.0), |offset| it.number(offset))?,
        decimals: it.decimals()?,
    }))
}

fn choice(it: &Placeholder<'_>) -> Result<Part, TemplateError> {
    it.no_format()?;
    match it.arguments.as_deref() {
        None | Some([""]) => Err(it.wants("the texts to choose from")),
        Some(texts) => Ok(Part::Choice(
            texts.iter().map(|&text| text.into()).collect(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{
        IdTemplate, NameTemplate, PayloadTemplate, ReplyTemplate, Request, Subject,
    };
    use super::*;

    fn payload_error(text: &str) -> (Kind, usize, String) {
        let error = PayloadTemplate::new(text).unwrap_err();
        (error.kind(), error.offset(), error.to_string())
    }

    #[test]
    fn json_needs_no_escaping() {
        let template = Program::parse(r#"{"a":{"b":{{index}}}}"#, Purpose::Payload).unwrap();
        assert_eq!(
            template.parts(),
            [
                Part::Text(r#"{"a":{"b":"#.into()),
                Part::Index {
                    width: 0,
                    hex: false
                },
                Part::Text("}}".into()),
            ]
        );
    }

    #[test]
    fn blanks_inside_a_placeholder_mean_nothing() {
        assert_eq!(
            Program::parse("{{ int ( 1 , 5 ) }}", Purpose::Payload)
                .unwrap()
                .parts(),
            [Part::Int { min: 1, max: 5 }]
        );
    }

    #[test]
    fn an_unclosed_placeholder_is_found_where_it_opens() {
        assert_eq!(payload_error("abc {{index").0, Kind::Unclosed);
        assert_eq!(payload_error("abc {{index").1, 4);
        assert_eq!(payload_error("{{int(1,2}}").0, Kind::BadArguments);
    }

    #[test]
    fn an_unknown_placeholder_names_what_there_is() {
        let (kind, offset, text) = payload_error("ab{{ indx }}");
        assert_eq!((kind, offset), (Kind::UnknownPlaceholder, 5));
        assert!(text.contains("did you mean {{index}}?"), "{text}");
        assert!(text.contains("{{choice(a,b,c)}}"), "{text}");
        assert!(!text.contains("{{request_id}}"), "{text}");
        let (kind, _, text) = payload_error("{{device-id}}");
        assert_eq!(kind, Kind::UnknownPlaceholder);
        assert!(text.contains("`device-id`"), "{text}");
        assert_eq!(payload_error("{{}}").0, Kind::UnknownPlaceholder);
    }

    #[test]
    fn a_template_is_checked_for_its_place() {
        let id = |text| IdTemplate::new(text).map_err(|error| error.kind());
        assert!(id("{{fleet}}-{{group}}-{{index:06}}-%i-%u").is_ok());
        for text in ["{{id}}", "%c", "{{now_ms}}", "{{uuid}}", "{{seq}}"] {
            assert_eq!(id(text), Err(Kind::NotHere), "{text}");
        }
        assert!(NameTemplate::new("certs/{{id}}.pem").is_ok());
        assert!(NameTemplate::new("{{uuid}}").is_err());
        assert_eq!(payload_error("{{command}}").0, Kind::NotHere);
        assert!(ReplyTemplate::new("{{command}} {{uuid}} {{payload:json}}").is_ok());
    }

    #[test]
    fn wrong_arguments_are_told_apart() {
        for text in [
            "{{int}}",
            "{{int(1)}}",
            "{{int(1,2,3)}}",
            "{{int(2,1)}}",
            "{{int(1.5,2)}}",
            "{{int(,)}}",
            "{{float(1,NaN)}}",
            "{{float(0,inf)}}",
            "{{float(0,1e16)}}",
            "{{normal(1,-1)}}",
            "{{walk(1)}}",
            "{{walk(1,2,3)}}",
            "{{walk(1,1,2,3)}}",
            "{{walk(0,-1)}}",
            "{{sine(1,0)}}",
            "{{sine(1)}}",
            "{{bool(1.1)}}",
            "{{choice()}}",
            "{{choice}}",
            "{{index(1)}}",
            "{{uuid()}}",
        ] {
            assert_eq!(payload_error(text).0, Kind::BadArguments, "{text}");
        }
        for text in [
            "{{index:6}}",
            "{{index:0}}",
            "{{index:021}}",
            "{{index:0+6}}",
            "{{index:}}",
            "{{float(0,1):10}}",
            "{{float(0,1):x}}",
            "{{int(0,1):2}}",
            "{{id:json}}",
            "{{bool(1)x}}",
        ] {
            assert_eq!(payload_error(text).0, Kind::BadFormat, "{text}");
        }
        let reply = ReplyTemplate::new("{{payload:yaml}}").unwrap_err();
        assert_eq!(reply.kind(), Kind::BadFormat);
    }

    #[test]
    fn filler_has_its_limit_over_the_whole_template() {
        assert!(PayloadTemplate::new("{{pad(1048576)}}").is_ok());
        assert!(PayloadTemplate::new("{{pad(1048575)}}{{hex(1)}}").is_ok());
        assert_eq!(payload_error("{{pad(1048576)}}{{hex(1)}}").0, Kind::TooLong);
        assert_eq!(payload_error("{{pad(-1)}}").0, Kind::TooLong);
        assert!(PayloadTemplate::new(&"a".repeat(LENGTH_MAX)).is_ok());
        assert_eq!(payload_error(&"a".repeat(LENGTH_MAX + 1)).0, Kind::TooLong);
    }

    #[test]
    fn decimals_follow_the_most_exact_argument() {
        let decimals = |text| match Program::parse(text, Purpose::Payload).unwrap().parts() {
            [Part::Float { decimals, .. }] => *decimals,
            other => panic!("{other:?}"),
        };
        assert_eq!(decimals("{{float(0,1)}}"), 2);
        assert_eq!(decimals("{{float(0,0.01)}}"), 3);
        assert_eq!(decimals("{{float(0,0.0000000000001)}}"), 9);
        assert_eq!(decimals("{{float(0,1):0}}"), 0);
    }

    #[test]
    fn commas_in_double_quotes_do_not_split() {
        let program = Program::parse(r#"{{choice("a,b", (c,d), e)}}"#, Purpose::Payload).unwrap();
        let texts: Box<[Box<str>]> = [r#""a,b""#, "(c,d)", "e"].map(Into::into).into();
        assert_eq!(program.parts(), [Part::Choice(texts)]);
    }

    /// Texts that are likely to be nearly templates.
    fn template_like() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{{".to_owned()),
            Just("}}".to_owned()),
            Just("%".to_owned()),
            Just("(".to_owned()),
            Just(")".to_owned()),
            Just(":json".to_owned()),
            Just(":09".to_owned()),
            (0..PLACEHOLDERS.len()).prop_map(|at| PLACEHOLDERS[at].0.to_owned()),
            (0..PLACEHOLDERS.len(), any::<i64>(), any::<f64>())
                .prop_map(|(at, a, b)| format!("{{{{{}({a},{b})}}}}", PLACEHOLDERS[at].0)),
            (0..PLACEHOLDERS.len(), -9_i8..9, 0_u8..99, "[:][0-9x]{1,2}")
                .prop_map(|(at, a, b, f)| format!("{{{{{}({a},{b}){f}}}}}", PLACEHOLDERS[at].0)),
            "\\PC{0,6}",
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_text_compiles_or_says_where_it_does_not(text in template_like()) {
            match ReplyTemplate::new(&text) {
                Err(error) => {
                    prop_assert!(text.is_char_boundary(error.offset()));
                    prop_assert!(!error.to_string().is_empty());
                }
                Ok(template) => {
                    let subject = Subject { fleet: "f", group: "g", index: u64::MAX, id: "d" };
                    let request = Request { command: "c", request_id: "r", payload: b"p" };
                    let mut state = template.state(1, "g", u64::MAX);
                    let mut out = Vec::new();
                    for now in [0, 1_795_249_800_250, u64::MAX] {
                        template.render(&subject, now, &request, &mut state, &mut out);
                    }
                    prop_assert!(String::from_utf8(out).is_ok());
                }
            }
        }

        #[test]
        fn text_without_placeholders_is_itself(text in "[^{%]{0,80}") {
            let template = PayloadTemplate::new(&text).unwrap();
            let subject = Subject { fleet: "f", group: "g", index: 1, id: "d" };
            let mut out = Vec::new();
            template.render(&subject, 0, &mut template.state(1, "g", 1), &mut out);
            prop_assert_eq!(out, text.into_bytes());
        }

        #[test]
        fn numbers_print_as_json(
            a in -1e15..1e15_f64, b in 0.0..1e15_f64, decimals in 0_u8..=9, seed: u64,
        ) {
            let text = format!(
                "[{{{{float({a},{})}}}},{{{{normal({a},{b}):{decimals}}}}},{{{{walk({a},{b})}}}}]",
                (a + b).min(1e15)
            );
            let template = PayloadTemplate::new(&text).unwrap();
            let subject = Subject { fleet: "f", group: "g", index: 1, id: "d" };
            let mut state = template.state(seed, "g", 1);
            let mut out = Vec::new();
            template.render(&subject, 0, &mut state, &mut out);
            let values: Vec<f64> = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(values.len(), 3);
        }
    }
}
