//! Times and sizes as people write them.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A time such as `30s`, `1.5h` or `1m30s`, exact to the millisecond; `0` needs no unit.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total_ms = 0_u64;
    let mut smaller_than = u64::MAX;
    while !rest.is_empty() {
        let (number, unit, after) = take_quantity(rest)?;
        let (_, unit_ms) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        // `1s2m` is more likely a slip than a meaning.
        if *unit_ms >= smaller_than {
            return None;
        }
        smaller_than = *unit_ms;
        total_ms = total_ms.checked_add(scale(number, *unit_ms)?)?;
        rest = after;
    }
    (smaller_than != u64::MAX).then(|| Duration::from_millis(total_ms))
}

/// A size such as `64KiB`, `1.5GB` or `512`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let (number, unit, after) = take_quantity(text)?;
    let (_, bytes) = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    after.is_empty().then(|| scale(number, *bytes)).flatten()
}

/// The number at the beginning, the letters behind it, and the rest.
fn take_quantity(text: &str) -> Option<(&str, &str, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(number_end);
    let rest = rest.trim_start();
    let unit_end = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    Some((number, unit, after))
}

/// A decimal number times a unit, in whole units of 1; `None` when it is none, too large or not exact.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let numerator = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    let denominator = 10_u128.checked_pow(digits)?;
    // What is below the smallest unit is cut off: 1.5ms is 1 ms, 0.3KiB is 307 bytes.
    whole.checked_add(u64::try_from(numerator / denominator).ok()?)
}

/// A time as the file would say it.
pub fn show_duration(duration: Duration) -> String {
    let mut ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, unit_ms) in DURATION_UNITS.iter().rev() {
        let unit_ms = u128::from(*unit_ms);
        if ms >= unit_ms {
            text.push_str(&format!("{}{name}", ms / unit_ms));
            ms %= unit_ms;
        }
    }
    text
}

/// A size in the largest binary unit that shows it exactly.
pub fn show_size(bytes: u64) -> String {
    let (name, unit) = SIZE_UNITS
        .iter()
        .take(5)
        .rev()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .unwrap_or(&SIZE_UNITS[0]);
    format!("{} {name}", bytes / unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_have_units() {
        let ms = |text| parse_duration(text).map(|time| time.as_millis());
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("1.5h"), Some(5_400_000));
        assert_eq!(ms("2 d"), Some(172_800_000));
        assert_eq!(ms("0"), Some(0));
        for bad in [
            "",
            "30",
            "s",
            "-1s",
            "1s1m",
            "1s1s",
            "1.s",
            ".5s",
            "1..5s",
            "1x",
            "1e3s",
            "1S",
            "99999999999999999999d",
        ] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal() {
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("2GiB"), Some(2_147_483_648));
        assert_eq!(parse_size("1.5 MB"), Some(1_500_000));
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("1kb"), Some(1_000));
        for bad in ["", "KiB", "1K", "-1B", "1KiB2", "99999999TiB", "1.B"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(ms in 0_u64..=10_000_000_000, bytes: u64) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}|[0-9.]{0,24}[a-zA-Z ]{0,4}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
