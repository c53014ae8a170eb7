//! What a request says about its signature, and whether that fits the server and the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::canonical::parse_query;
use super::{
    ALGORITHM, EXPIRY_MAX, Mistake, SERVICES, SKEW_MAX, SignatureError, Signed, malformed,
};
use crate::remarks::Quoted;

/// What a request says about its signature.
pub(super) struct Claim {
    pub(super) credential: String,
    pub(super) timestamp: String,
    pub(super) expires: Option<Duration>,
    pub(super) signed_headers: String,
    pub(super) signature: String,
    pub(super) token: Option<String>,
    pub(super) is_in_query: bool,
}

impl Claim {
    pub(super) fn read(request: &Signed<'_>) -> Result<Self, Mistake> {
        match (request.header)("authorization") {
            Some(header) => Self::from_header(header, request),
            None => Self::from_query(request.query),
        }
    }

    fn from_query(query: &str) -> Result<Self, Mistake> {
        let pairs = parse_query(query);
        let find = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        };
        let need = |name: &str| find(name).ok_or_else(|| malformed(format!("{name} is missing")));
        match find("X-Amz-Algorithm") {
            None => {
                let detail = "X-Amz-Algorithm is missing";
                return Err(Mistake::new(SignatureError::Missing, detail));
            }
            Some(algorithm) if algorithm == ALGORITHM => {}
            Some(_) => return Err(malformed("X-Amz-Algorithm is not AWS4-HMAC-SHA256")),
        }
        let expires = find("X-Amz-Expires")
            .map(|text| lifetime(&text))
            .transpose()?;
        Ok(Self {
            credential: need("X-Amz-Credential")?,
            timestamp: need("X-Amz-Date")?,
            expires,
            signed_headers: need("X-Amz-SignedHeaders")?,
            signature: need("X-Amz-Signature")?,
            token: find("X-Amz-Security-Token"),
            is_in_query: true,
        })
    }

    fn from_header(header: &str, request: &Signed<'_>) -> Result<Self, Mistake> {
        let parts = header
            .strip_prefix(ALGORITHM)
            .filter(|rest| rest.starts_with(' '))
            .ok_or_else(|| malformed("Authorization does not begin with AWS4-HMAC-SHA256"))?;
        let need = |name: &str| {
            parts
                .split(',')
                .filter_map(|part| part.trim().split_once('='))
                .find_map(|(key, value)| (key == name).then(|| value.to_owned()))
                .ok_or_else(|| malformed(format!("Authorization has no {name}")))
        };
        let header = |name: &str| (request.header)(name).map(str::to_owned);
        Ok(Self {
            credential: need("Credential")?,
            timestamp: header("x-amz-date")
                .ok_or_else(|| malformed("the header X-Amz-Date is missing"))?,
            expires: None,
            signed_headers: need("SignedHeaders")?,
            signature: need("Signature")?,
            token: header("x-amz-security-token"),
            is_in_query: false,
        })
    }

    pub(super) fn check_scope(
        &self,
        date: &str,
        (region, expected): (&str, &str),
        service: &str,
    ) -> Result<(), Mistake> {
        if !SERVICES.contains(&service) {
            let detail = format!(
                "the service in its credential is {}, and not one of {}",
                Quoted(service),
                SERVICES.join(", ")
            );
            return Err(Mistake::new(SignatureError::WrongService, detail));
        }
        if region != expected {
            let detail = format!(
                "the region in its credential is {}, and this is {expected:?}",
                Quoted(region)
            );
            return Err(Mistake::new(SignatureError::WrongRegion, detail));
        }
        if self.timestamp.get(..8) != Some(date) {
            return Err(malformed(
                "the date in its credential is not that of X-Amz-Date",
            ));
        }
        Ok(())
    }

    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), Mistake> {
        let signed_at = parse_timestamp(&self.timestamp)
            .ok_or_else(|| malformed("X-Amz-Date is not like 20261120T232624Z"))?;
        let expired = |detail| Err(Mistake::new(SignatureError::Expired, detail));
        if let Ok(ahead) = signed_at.duration_since(now)
            && ahead > SKEW_MAX
        {
            return expired(format!(
                "it was signed {} s in the future, of at most {}; set the clock",
                ahead.as_secs(),
                SKEW_MAX.as_secs()
            ));
        }
        let lifetime = self.expires.unwrap_or(SKEW_MAX);
        match now.duration_since(signed_at) {
            Ok(age) if age > lifetime => expired(format!(
                "it was signed {} s ago and held {} s; sign anew for each connection, or set the clock",
                age.as_secs(),
                lifetime.as_secs()
            )),
            _ => Ok(()),
        }
    }
}

/// Reads X-Amz-Expires.
fn lifetime(text: &str) -> Result<Duration, Mistake> {
    // A sign is no digit, though numbers are read with one.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds: Option<u64> = text.parse().ok().filter(|_| is_number);
    seconds
        .map(Duration::from_secs)
        .filter(|lifetime| !lifetime.is_zero() && *lifetime <= EXPIRY_MAX)
        .ok_or_else(|| {
            let max = EXPIRY_MAX.as_secs();
            malformed(format!(
                "X-Amz-Expires is no number of seconds from 1 to {max}"
            ))
        })
}

/// Reads `20261120T232624Z`.
pub(super) fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if date.len() != 8 || time.len() != 6 || !is_number(date) || !is_number(time) {
        return None;
    }
    let number = |text: &str| text.parse::<u64>().ok();
    let (year, month, day) = (
        number(&date[..4])?,
        number(&date[4..6])?,
        number(&date[6..])?,
    );
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year < 1970 || !(1..=12).contains(&month) || !(1..=days).contains(&day) {
        return None;
    }
    let (hour, minute, second) = (
        number(&time[..2])?,
        number(&time[2..4])?,
        number(&time[4..])?,
    );
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Years that begin in March, so that the leap day is their last; from 1 March of year 0 on.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    const DAYS_TO_1970: u64 = 719_468;
    let seconds = hour * 3600 + minute * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_secs(
        (days - DAYS_TO_1970) * 24 * 3600 + seconds,
    ))
}
