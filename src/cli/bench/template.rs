//! Texts with `%i`, `%c` and `%r` in them, for topics and client identifiers.

/// A text that differs from link to link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `%i`: the number of the link, from 0.
    Index,
    /// `%c`: the client identifier of the link.
    Client,
    /// `%r`: eight hexadecimal digits that tell this run from others.
    Run,
}

/// What the placeholders of a [`Template`] stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) index: u32,
    pub(super) client: &'a str,
    pub(super) run: u32,
}

impl Template {
    pub(super) fn render(&self, values: Values<'_>) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Index => values.index.to_string(),
                Part::Client => values.client.to_owned(),
                Part::Run => format!("{:08x}", values.run),
            })
            .collect()
    }

    /// Whether two links get two texts.
    pub(super) fn differs_by_link(&self) -> bool {
        self.0
            .iter()
            .any(|part| matches!(part, Part::Index | Part::Client))
    }

    /// The filter that takes the topics of all links: levels that differ are `+`.
    pub(super) fn filter(&self, run: u32) -> String {
        // No topic holds this character, so it marks the places.
        let marked = self.render_with(run, "\0");
        let levels = marked.split('/');
        let levels = levels.map(|level| if level.contains('\0') { "+" } else { level });
        levels.collect::<Vec<_>>().join("/")
    }

    fn render_with(&self, run: u32, differing: &str) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Index | Part::Client => differing.to_owned(),
                Part::Run => format!("{run:08x}"),
            })
            .collect()
    }
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                plain.push(character);
                continue;
            }
            let part = match characters.next() {
                Some('i') => Part::Index,
                Some('c') => Part::Client,
                Some('r') => Part::Run,
                Some('%') => {
                    plain.push('%');
                    continue;
                }
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!(
                        "%{other} stands for nothing; there are %i (number of the link), %c (client \
                         identifier), %r (this run) and %% (a percent sign)"
                    ));
                }
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'_> = Values {
        index: 7,
        client: "c7",
        run: 0xbeef,
    };

    #[test]
    fn placeholders_are_filled_in_and_a_doubled_percent_sign_is_one() {
        let template: Template = "a/%i/%c/%r/100%%".parse().unwrap();
        assert_eq!(template.render(VALUES), "a/7/c7/0000beef/100%");
        assert!(template.differs_by_link());
        assert!(!"a/%r".parse::<Template>().unwrap().differs_by_link());
    }

    #[test]
    fn the_filter_takes_whole_levels() {
        for (template, filter) in [
            ("a/%i", "a/+"),
            ("a/dev-%i/x", "a/+/x"),
            ("%r/%c%i", "0000beef/+"),
            ("a/b", "a/b"),
        ] {
            let template: Template = template.parse().unwrap();
            assert_eq!(template.filter(VALUES.run), filter);
        }
    }

    #[test]
    fn an_unknown_placeholder_is_named() {
        assert!("a/%x".parse::<Template>().unwrap_err().starts_with("%x "));
        assert!("a/%".parse::<Template>().unwrap_err().starts_with("% "));
    }
}
