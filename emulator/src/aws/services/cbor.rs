//! CBOR (RFC 8949) as fleet provisioning and Device Defender use it: the values that JSON has, no more.

use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder, decode as reading, encode as writing};

use super::json::{Json, Number, Object};

/// How many maps and arrays may stand inside each other.
const LEVELS_MAX: usize = 100;

/// The bytes of a value. A number is an integer where it is one of 64 bits, and a double elsewhere.
pub(crate) fn encode(value: &Json) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    // Only the writer can fail, and memory does not.
    let _ = write(value, &mut encoder);
    encoder.into_writer()
}

type Written = Result<(), writing::Error<Infallible>>;

fn write(value: &Json, encoder: &mut Encoder<Vec<u8>>) -> Written {
    match value {
        Json::Null => encoder.null()?,
        Json::Bool(value) => encoder.bool(*value)?,
        Json::Number(number) => return write_number(number, encoder),
        Json::String(text) => encoder.str(text)?,
        Json::Array(items) => {
            encoder.array(length(items.len()))?;
            return items.iter().try_for_each(|item| write(item, encoder));
        }
        Json::Object(fields) => {
            encoder.map(length(fields.len()))?;
            return fields.iter().try_for_each(|(key, value)| {
                encoder.str(key)?;
                write(value, encoder)
            });
        }
    };
    Ok(())
}

fn write_number(number: &Number, encoder: &mut Encoder<Vec<u8>>) -> Written {
    let whole = number.as_i128();
    if let Some(whole) = whole.and_then(|whole| u64::try_from(whole).ok()) {
        encoder.u64(whole)?;
    } else if let Some(whole) = whole.and_then(|whole| i64::try_from(whole).ok()) {
        encoder.i64(whole)?;
    } else {
        encoder.f64(number.as_text().parse().unwrap_or(f64::INFINITY))?;
    }
    Ok(())
}

fn length(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

/// The one value that bytes hold; `None` when they are no CBOR, hold more than one value, or one that JSON
/// does not have.
pub(crate) fn decode(bytes: &[u8]) -> Option<Json> {
    let mut decoder = Decoder::new(bytes);
    let value = read(&mut decoder, 0)?;
    (decoder.position() == bytes.len()).then_some(value)
}

fn read(decoder: &mut Decoder<'_>, level: usize) -> Option<Json> {
    if level > LEVELS_MAX {
        return None;
    }
    match decoder.datatype().ok()? {
        Type::Null | Type::Undefined => decoder.skip().ok().map(|()| Json::Null),
        Type::Bool => decoder.bool().ok().map(Json::Bool),
        Type::String | Type::StringIndef => text(decoder).ok().map(Json::String),
        Type::F16 | Type::F32 | Type::F64 => {
            let number = decoder.f64().ok()?;
            // The shortest text that is read back as the same double; there is none for NaN and infinity.
            Number::from_text(&number.to_string()).map(Json::Number)
        }
        Type::Array | Type::ArrayIndef => {
            let count = decoder.array().ok()?;
            let mut items = Vec::new();
            while has_more(decoder, count, items.len())? {
                items.push(read(decoder, level + 1)?);
            }
            Some(Json::Array(items))
        }
        Type::Map | Type::MapIndef => {
            let count = decoder.map().ok()?;
            let mut fields = Object::new();
            let mut taken = 0;
            while has_more(decoder, count, taken)? {
                let key = text(decoder).ok()?;
                fields.insert(key, read(decoder, level + 1)?);
                taken += 1;
            }
            Some(Json::Object(fields))
        }
        Type::Tag => {
            // A tag says how to see a value; what it is stays.
            decoder.tag().ok()?;
            read(decoder, level + 1)
        }
        _ => {
            let number = decoder.int().ok()?;
            Number::from_text(&i128::from(number).to_string()).map(Json::Number)
        }
    }
}

/// Whether an array or map has another item; takes the mark at the end of one of unknown length.
fn has_more(decoder: &mut Decoder<'_>, count: Option<u64>, taken: usize) -> Option<bool> {
    match count {
        Some(count) => Some(length(taken) < count),
        None if decoder.datatype().ok()? == Type::Break => {
            decoder.skip().ok()?;
            Some(false)
        }
        None => Some(true),
    }
}

fn text(decoder: &mut Decoder<'_>) -> Result<String, reading::Error> {
    decoder.str_iter()?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_document_survives_the_way_through_cbor() {
        let document = json(
            r#"{"a":[1,-2,18446744073709551615,0.5,1e300,true,null],"b":{"c":"ü"},"d":{},"e":[]}"#,
        );
        assert_eq!(decode(&encode(&document)), Some(document));
    }

    #[test]
    fn the_bytes_are_those_of_the_standards_examples() {
        for (bytes, text) in [
            (&b"\x00"[..], "0"),
            (b"\x17", "23"),
            (b"\x18\x18", "24"),
            (
                b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
                "18446744073709551615",
            ),
            (b"\x20", "-1"),
            (b"\xfb\x3f\xf1\x99\x99\x99\x99\x99\x9a", "1.1"),
            (b"\xf5", "true"),
            (b"\xf6", "null"),
            (b"\x64IETF", r#""IETF""#),
            (b"\x83\x01\x02\x03", "[1,2,3]"),
            (b"\xa2\x61a\x01\x61b\x82\x02\x03", r#"{"a":1,"b":[2,3]}"#),
        ] {
            assert_eq!(encode(&json(text)), bytes, "{text}");
            assert_eq!(decode(bytes), Some(json(text)), "{text}");
        }
    }

    #[test]
    fn forms_that_we_do_not_write_are_read() {
        for (bytes, text) in [
            (&b"\x7f\x65strea\x64ming\xff"[..], r#""streaming""#),
            (b"\x9f\x01\x82\x02\x03\xff", "[1,[2,3]]"),
            (b"\xbf\x61a\x01\xff", r#"{"a":1}"#),
            (b"\xf9\x3c\x00", "1"),
            (b"\xfa\x47\xc3\x50\x00", "100000"),
            (b"\xc1\x01", "1"),
        ] {
            assert_eq!(decode(bytes), Some(json(text)), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_no_cbor_or_has_no_like_in_json_is_refused() {
        for bytes in [
            &b""[..],
            b"\x01\x02",
            b"\x82\x01",
            b"\x62a",
            b"\x62\xff\xfe",
            b"\x41a",
            b"\xa1\x01\x02",
            b"\x9f\x01",
            b"\xff",
            b"\xf9\x7e\x00",
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(decode(bytes), None, "{bytes:02x?}");
        }
        assert_eq!(decode(&[0x81; 100_000]), None);
    }
}
