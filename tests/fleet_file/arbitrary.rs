//! Whatever a file says, it is read or refused.

use std::path::Path;

use paquebot::fleet_file::{FleetPlan, Overrides, Place};
use proptest::prelude::*;

use crate::{GOOD, parse_in};

/// Values of every TOML type, right and wrong ones.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("[{}, 1, [nan]]".to_owned()),
        Just("2026-11-21T00:00:00Z".to_owned()),
        Just("\"30s\"".to_owned()),
        Just("{ every = \"1ms\", jitter = 1 }".to_owned()),
        Just("{ type = \"x509\", cert = \"{{id}}\", key = \"\" }".to_owned()),
        any::<i128>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}").replace("NaN", "nan")),
        "'[^'\\p{Cc}]{0,12}'",
        "\"(a|\\{\\{|\\}\\}|index|\\\\u00e9|:|%|/){0,8}\"",
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = FleetPlan::parse("f", &bytes, Path::new(""), &Overrides::none());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "([\\[\\]{}=.,\"'#\n ]|\\PC|groups|name|fleet){0,60}") {
        let _ = FleetPlan::parse("f", text.as_bytes(), Path::new(""), &Overrides::none());
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused_with_a_place(
        line in 1_usize..13, value in any_value(), set: bool,
    ) {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        let Some((key, _)) = lines[line].split_once('=') else { return Ok(()); };
        let (text, overrides) = if set {
            let path = format!("groups.lab.{}={value}", key.trim());
            (GOOD.to_owned(), Overrides::none().with_sets([path]))
        } else {
            lines[line] = format!("{key}= {value}");
            (lines.join("\n"), Overrides::none())
        };
        // A count that is valid may be large; a smaller one costs less and shows as much.
        let overrides = if set { overrides } else {
            overrides.with_sets(["groups.lab.count=3".to_owned()])
        };
        if let Err(problems) = parse_in(Path::new("/nonexistent"), &text, &overrides) {
            for problem in problems {
                if let Place::Text { line, column, .. } = problem.place() {
                    prop_assert!(*line <= text.lines().count() + 1 && *column >= 1, "{}", problem);
                }
                prop_assert!(!problem.to_string().contains('\0'));
            }
        }
    }

    #[test]
    fn any_override_is_applied_or_refused(
        set in "(groups|lab|count|fleet|[a-z0-9\"'.=\\[\\]{}]|\\PC){0,20}",
        name in "PAQUEBOT__[A-Z_]{0,20}",
        value in any_value(),
    ) {
        let overrides = Overrides::none()
            .with_environment([(name, value)])
            .with_sets([set]);
        let _ = FleetPlan::parse("f", GOOD.as_bytes(), Path::new(""), &overrides);
    }
}
