use std::time::UNIX_EPOCH;

use aws_lc_rs::digest;

use super::canonical::{hex, sign as sign_text, signing_key};
use super::claim::parse_timestamp;
use super::*;

const HOST: &str = "abc123.iot.us-east-1.amazonaws.com";
const TIMESTAMP: &str = "20261120T232624Z";
const SIGNATURE: &str = "34d89d4c5314420c48f4765f563c3653f6cd7d00f366abab08fe5a17e0354061";

fn key(token: Option<&str>) -> AccessKey {
    AccessKey {
        id: "AKIDEXAMPLE".to_owned(),
        secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
        token: token.map(str::to_owned),
    }
}

/// The query as the first generation of the SDK writes it.
fn query_v1(service: &str, signature: &str, token: &str) -> String {
    format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIDEXAMPLE%2F20261120%2Fus-east-1%2F{service}%2Faws4_request\
         &X-Amz-Date={TIMESTAMP}&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature={signature}{token}"
    )
}

fn check(
    query: &str,
    host: &str,
    key: AccessKey,
    after: Duration,
    timestamp: &str,
) -> Result<String, SignatureError> {
    let header = |name: &str| match name {
        "host" => Some(host),
        "connection" => Some("Upgrade"),
        _ => None,
    };
    let request = Signed {
        method: "GET",
        path: "/mqtt",
        query,
        header: &header,
        body: b"",
    };
    let now = parse_timestamp(timestamp).unwrap() + after;
    verify(&request, &[key], "us-east-1", now)
        .map(str::to_owned)
        .map_err(|mistake| mistake.error)
}

fn check_v1(query: &str, key: AccessKey, after: Duration) -> Result<String, SignatureError> {
    check(query, HOST, key, after, TIMESTAMP)
}

#[test]
fn signatures_of_both_generations_of_sdks_are_accepted() {
    let second = Duration::from_secs(1);
    let token = "&X-Amz-Security-Token=TOK/EN%2Bwith%3Dspecials";
    let with_token = query_v1("iotdata", SIGNATURE, token);
    let known = key(Some("TOK/EN+with=specials"));
    assert_eq!(
        check_v1(&with_token, known, second),
        Ok("AKIDEXAMPLE".to_owned())
    );
    let without = query_v1("iotdata", SIGNATURE, "");
    assert!(check_v1(&without, key(None), second).is_ok());
    let gateway = query_v1(
        "iotdevicegateway",
        "b13f6471eea80cfce36fae68cdf96c63874f3eedee775621793a4b33dd01733f",
        "",
    );
    assert!(check_v1(&gateway, key(None), second).is_ok());
    let second_generation = "X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIDEXAMPLE%2F20261120%2Fus-east-1%2Fiotdevicegateway%2Faws4_request\
         &X-Amz-Date=20261120T232914Z&X-Amz-SignedHeaders=connection%3Bhost\
         &X-Amz-Signature=03a15c1b4a3da01ad47d621f807ebf869b548602378db74f2d05708521be88f8";
    for host in ["localhost", "localhost:8443"] {
        let timestamp = "20261120T232914Z";
        assert!(check(second_generation, host, key(None), second, timestamp).is_ok());
    }
}

#[test]
fn whatever_differs_from_what_was_signed_is_refused() {
    let second = Duration::from_secs(1);
    let good = query_v1("iotdata", SIGNATURE, "");
    for (query, expected) in [
        (good.replace("34d8", "34d9"), SignatureError::Mismatch),
        (good.replace("=86400", "=86399"), SignatureError::Mismatch),
        (
            good.replace("AKIDEXAMPLE", "AKIDOTHER"),
            SignatureError::UnknownKey,
        ),
        (good.replace("iotdata", "s3"), SignatureError::WrongService),
        (
            good.replace("us-east-1", "eu-west-1"),
            SignatureError::WrongRegion,
        ),
        (good.replace("=86400", "=604801"), SignatureError::Malformed),
        (good.replace("=86400", "=0"), SignatureError::Malformed),
        (good.replace("=86400", "=-1"), SignatureError::Malformed),
        (good.replace("=86400", "=%2B5"), SignatureError::Malformed),
        (
            good.replace("SignedHeaders=host", "SignedHeaders=host%3Bx"),
            SignatureError::Malformed,
        ),
        (
            good.replace("SignedHeaders=host", "SignedHeaders=connection"),
            SignatureError::Malformed,
        ),
        (
            good.replace("&X-Amz-Date", "&X-Amz-Data"),
            SignatureError::Malformed,
        ),
        (
            good.replace("T232624Z", "T2326Z"),
            SignatureError::Malformed,
        ),
        (
            format!("{good}&X-Amz-Security-Token=t"),
            SignatureError::UnknownKey,
        ),
        (String::new(), SignatureError::Missing),
    ] {
        assert_eq!(
            check_v1(&query, key(None), second),
            Err(expected),
            "{query}"
        );
    }
    let other_host = check(&good, "other.example", key(None), second, TIMESTAMP);
    assert_eq!(other_host, Err(SignatureError::Mismatch));
    let mut other_secret = key(None);
    other_secret.secret.push('x');
    let refused = check_v1(&good, other_secret, second);
    assert_eq!(refused, Err(SignatureError::Mismatch));
}

/// What the log says of a request that was signed in a way of its own.
fn detail_of(sign: impl FnOnce(&str) -> String) -> String {
    let unsigned = query_v1("iotdata", "00", "&X-Amz-Security-Token=s3ssion");
    let known = key(Some("s3ssion"));
    let signature = {
        let text = format!(
            "{ALGORITHM}\n{TIMESTAMP}\n20261120/us-east-1/iotdata/aws4_request\n{}",
            hex(digest::digest(&digest::SHA256, sign(&unsigned).as_bytes()).as_ref())
        );
        let scope = ["20261120", "us-east-1", "iotdata", "aws4_request"];
        hex(sign_text(signing_key(&known.secret, &scope).as_ref(), &text).as_ref())
    };
    let query = unsigned.replace("Signature=00", &format!("Signature={signature}"));
    let header = |name: &str| (name == "host").then_some(HOST);
    let request = Signed {
        method: "GET",
        path: "/mqtt",
        query: &query,
        header: &header,
        body: b"",
    };
    let now = parse_timestamp(TIMESTAMP).unwrap();
    let keys = [known];
    let mistake = verify(&request, &keys, "us-east-1", now).unwrap_err();
    assert_eq!(mistake.error, SignatureError::Mismatch);
    assert_eq!(mistake.key_id.as_deref(), Some("AKIDEXAMPLE"));
    assert!(!mistake.detail.contains("s3ssion"), "{}", mistake.detail);
    assert!(!mistake.detail.contains("wJalr"), "{}", mistake.detail);
    mistake.detail.into_owned()
}

#[test]
fn what_was_signed_in_the_wrong_way_is_named() {
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let canonical = |path: &str, query: &str, body: &str| {
        let mut pairs: Vec<&str> = query
            .split('&')
            .filter(|pair| !pair.starts_with("X-Amz-Signature"))
            .collect();
        pairs.sort();
        let pairs = pairs.join("&");
        format!("GET\n{path}\n{pairs}\nhost:{HOST}\n\nhost\n{body}")
    };
    let without_token = |query: &str| query.replace("&X-Amz-Security-Token=s3ssion", "");
    let detail = detail_of(|query| canonical("/mqtt", query, EMPTY));
    assert!(detail.contains("session token was signed"), "{detail}");
    let detail = detail_of(|query| canonical("/mqtt", &without_token(query), "UNSIGNED-PAYLOAD"));
    assert!(detail.contains("UNSIGNED-PAYLOAD was signed"), "{detail}");
    let detail = detail_of(|query| canonical("/", &without_token(query), EMPTY));
    assert!(detail.contains("the path / was signed"), "{detail}");
    let detail = detail_of(|_| "something else".to_owned());
    assert!(detail.contains("another secret key"), "{detail}");
    assert!(detail.contains(&format!("host:{HOST}")), "{detail}");
}

#[test]
fn what_may_be_a_secret_is_not_shown_wherever_a_request_has_it() {
    let header = |name: &str| match name {
        "authorization" => Some(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261120/us-east-1/iotdata/aws4_request, \
             SignedHeaders=host;x-amz-date;x-amz-security-token;x-pass, Signature=00",
        ),
        "host" => Some(HOST),
        "x-amz-date" => Some(TIMESTAMP),
        "x-amz-security-token" => Some("s3ssion"),
        "x-pass" => Some("pa55word"),
        _ => None,
    };
    let request = Signed {
        method: "GET",
        path: "/mqtt",
        query: "X-Amz-Security-Token=oth%2Fer&X-Amz-Date=then&tok=t0ken",
        header: &header,
        body: b"",
    };
    let now = parse_timestamp(TIMESTAMP).unwrap();
    let keys = [key(Some("s3ssion"))];
    let detail = verify(&request, &keys, "us-east-1", now)
        .unwrap_err()
        .detail;
    for secret in ["s3ssion", "oth%2Fer", "oth/er", "pa55word", "t0ken"] {
        assert!(!detail.contains(secret), "{secret} in {detail}");
    }
    for shown in [HOST, TIMESTAMP, "X-Amz-Date=then", "tok=(not shown)"] {
        assert!(detail.contains(shown), "{shown} not in {detail}");
    }
}

#[test]
fn only_two_hexadecimal_digits_are_an_escape() {
    for (text, is) in [
        ("%2B%2f", "+/"),
        ("%+F%-1", "%+F%-1"),
        ("%2", "%2"),
        ("%", "%"),
        ("%g0%0g", "%g0%0g"),
    ] {
        assert_eq!(unescape(text), is);
    }
}

#[test]
fn a_signature_holds_for_as_long_as_it_says() {
    let good = query_v1("iotdata", SIGNATURE, "");
    let expiry = Duration::from_secs(86_400);
    assert!(check_v1(&good, key(None), expiry).is_ok());
    let later = expiry + Duration::from_secs(1);
    assert_eq!(
        check_v1(&good, key(None), later),
        Err(SignatureError::Expired)
    );
}

#[test]
fn timestamps_are_read_over_leap_years() {
    let seconds = |text| {
        let time = parse_timestamp(text)?;
        Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
    };
    assert_eq!(seconds("19700101T000000Z"), Some(0));
    assert_eq!(seconds("20000229T235959Z"), Some(951_868_799));
    assert_eq!(seconds("20261120T232624Z"), Some(1_795_217_184));
    for bad in [
        "",
        "20261120T232624",
        "20261320T000000Z",
        "2026é120T00000Z",
        "19690101T000000Z",
    ] {
        assert_eq!(seconds(bad), None, "{bad}");
    }
}

#[test]
fn times_that_no_clock_shows_are_no_timestamps() {
    for wrong in [
        "20261120T992624Z",
        "20261120T240000Z",
        "20261120T236000Z",
        "20261120T235960Z",
        "20260231T000000Z",
        "20260229T000000Z",
        "20261131T000000Z",
        "20261300T000000Z",
    ] {
        assert_eq!(parse_timestamp(wrong), None, "{wrong}");
    }
    let leap = parse_timestamp("20240229T235959Z").unwrap();
    assert_eq!(
        parse_timestamp("20240301T000000Z"),
        Some(leap + Duration::from_secs(1))
    );
}

#[test]
fn the_algorithm_in_a_header_is_a_word_of_its_own() {
    let refused = |authorization: &str| {
        let header = |name: &str| (name == "authorization").then_some(authorization);
        let request = Signed {
            method: "GET",
            path: "/mqtt",
            query: "",
            header: &header,
            body: b"",
        };
        let Err(mistake) = verify(&request, &[key(None)], "us-east-1", UNIX_EPOCH) else {
            panic!("it was taken");
        };
        mistake.detail
    };
    let glued = refused("AWS4-HMAC-SHA256-X Credential=a/b/c/d/aws4_request");
    assert!(glued.contains("does not begin with"), "{glued}");
    let apart = refused("AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request");
    assert!(!apart.contains("does not begin with"), "{apart}");
}
