//! The list of a thing's named shadows, a page at a time: "ListNamedShadowsForThing" of the AWS IoT data
//! plane's reference.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::request::Refusal;
use crate::aws::services::json::{Json, Number, Object, object};
use crate::aws::services::seconds;

/// Names on a page when the request does not say.
const PAGE_SIZE_DEFAULT: usize = 25;

/// The most that a request may ask for.
const PAGE_SIZE_MAX: usize = 100;

/// The page of names that a query asks for. A token is the last name of the page before it, in hexadecimal,
/// so that shadows that come and go in between move no other shadow to another page.
pub(crate) fn page<'a>(
    names: impl Iterator<Item = &'a str>,
    query: &BTreeMap<String, String>,
    now: SystemTime,
) -> Result<Object, Refusal> {
    let size = match query.get("pageSize") {
        None => PAGE_SIZE_DEFAULT,
        Some(text) => Number::from_text(text)
            .and_then(|size| usize::try_from(size.as_u64()?).ok())
            .filter(|size| (1..=PAGE_SIZE_MAX).contains(size))
            .ok_or_else(|| Refusal::new(400, "Invalid pageSize"))?,
    };
    let after = match query.get("nextToken").filter(|token| !token.is_empty()) {
        None => String::new(),
        Some(token) => name_of(token).ok_or_else(|| Refusal::new(400, "Invalid nextToken"))?,
    };
    let mut rest = names.filter(|name| *name > after.as_str());
    let results: Vec<&str> = rest.by_ref().take(size).collect();
    let next = rest.next().and(results.last()).map(|name| token_of(name));
    let results = results.into_iter().map(Json::from).collect();
    Ok(object([
        ("results", Some(Json::Array(results))),
        ("nextToken", next.map(Json::String)),
        ("timestamp", Some(seconds(now).into())),
    ]))
}

fn token_of(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn name_of(token: &str) -> Option<String> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = token.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
            _ => None,
        })
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::services::json::object_text;

    fn ask(query: &[(&str, &str)]) -> Result<String, (u16, String)> {
        let query = query
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let names = ["a", "b", "c"];
        page(names.into_iter(), &query, SystemTime::UNIX_EPOCH)
            .map(|body| object_text(&body))
            .map_err(|refusal| (refusal.status, refusal.message))
    }

    #[test]
    fn the_pages_of_a_list_hold_each_name_once() {
        let all = r#"{"results":["a","b","c"],"timestamp":0}"#;
        assert_eq!(ask(&[]).unwrap(), all);
        assert_eq!(ask(&[("pageSize", "3")]).unwrap(), all);
        let first = r#"{"nextToken":"62","results":["a","b"],"timestamp":0}"#;
        assert_eq!(ask(&[("pageSize", "2")]).unwrap(), first);
        let last = r#"{"results":["c"],"timestamp":0}"#;
        assert_eq!(
            ask(&[("pageSize", "2"), ("nextToken", "62")]).unwrap(),
            last
        );
    }

    #[test]
    fn a_page_that_cannot_be_is_refused() {
        for size in ["0", "101", "x", ""] {
            let error = (400, "Invalid pageSize".to_owned());
            assert_eq!(ask(&[("pageSize", size)]), Err(error), "{size}");
        }
        for token in ["6", "zz", "ff"] {
            let error = (400, "Invalid nextToken".to_owned());
            assert_eq!(ask(&[("nextToken", token)]), Err(error), "{token}");
        }
    }
}
