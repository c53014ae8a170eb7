//! How numbers and moments are written.

use std::io::Write;

/// Appends `value` with a fixed count of decimals: no exponent, no `-0`, and 0 for what is no number.
pub(super) fn write_decimal(value: f64, decimals: u8, out: &mut Vec<u8>) {
    let value = if value.is_finite() { value } else { 0.0 };
    let scale = 10_u64.pow(u32::from(decimals.min(DECIMALS_MAX)));
    #[expect(
        clippy::cast_precision_loss,
        reason = "10^9 and less are exact in an f64"
    )]
    let scaled = (value * scale as f64).round();
    // Above 2^53 the scaled value is no exact integer any more; such sizes are rare, so slow is good enough.
    if scaled.abs() >= 9_007_199_254_740_992.0 {
        let _ = write!(out, "{value:.*}", usize::from(decimals));
        return;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked just above, and never negative"
    )]
    let units = scaled.abs() as u64;
    if scaled < 0.0 {
        out.push(b'-');
    }
    let _ = write!(out, "{}", units / scale);
    if decimals > 0 {
        let _ = write!(
            out,
            ".{:0width$}",
            units % scale,
            width = usize::from(decimals)
        );
    }
}

/// The most decimals that a template can ask for.
pub(super) const DECIMALS_MAX: u8 = 9;

/// Appends a moment as ISO 8601 in UTC with milliseconds: `2026-11-21T08:30:00.250Z`.
pub(super) fn write_iso(unix_ms: u64, out: &mut Vec<u8>) {
    let (seconds, ms) = (unix_ms / 1_000, unix_ms % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years counted from 1 March, so that the leap day is the last of its year; 719,468 days lie between
    // 0000-03-01 and the epoch, and the calendar repeats every 400 years = 146,097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(value: f64, decimals: u8) -> String {
        let mut out = Vec::new();
        write_decimal(value, decimals, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn iso(unix_ms: u64) -> String {
        let mut out = Vec::new();
        write_iso(unix_ms, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_json_and_short() {
        assert_eq!(decimal(0.1 + 0.2, 2), "0.30");
        assert_eq!(decimal(-0.001, 2), "0.00");
        assert_eq!(decimal(-0.0, 0), "0");
        assert_eq!(decimal(-1.5, 1), "-1.5");
        assert_eq!(decimal(0.999, 2), "1.00");
        assert_eq!(decimal(230.0, 0), "230");
        assert_eq!(decimal(1e15, 9), "1000000000000000.000000000");
        assert_eq!(decimal(f64::NAN, 1), "0.0");
        assert_eq!(decimal(f64::INFINITY, 0), "0");
    }

    #[test]
    fn moments_are_in_the_civil_calendar() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(iso(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
        assert_eq!(iso(4_102_444_800_000), "2100-01-01T00:00:00.000Z");
        assert_eq!(iso(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
