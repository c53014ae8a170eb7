//! CBOR (RFC 8949) as far as AWS's services speak it: what JSON can say, in fewer bytes.

use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder, decode as reading, encode as writing};
use serde_json::{Map, Number, Value};

/// How deep lists and objects may lie in each other.
const DEPTH_MAX: usize = 32;

pub(super) fn encode(value: &Value) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    // Only a writer can fail, and memory does not.
    let _ = put(&mut encoder, value);
    encoder.into_writer()
}

/// # Errors
/// What is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, String> {
    let mut decoder = Decoder::new(bytes);
    let value = take(&mut decoder, 0)?;
    if decoder.position() == bytes.len() {
        Ok(value)
    } else {
        Err("there is more behind it".into())
    }
}

fn put(encoder: &mut Encoder<Vec<u8>>, value: &Value) -> Result<(), writing::Error<Infallible>> {
    match value {
        Value::Null => encoder.null()?,
        Value::Bool(truth) => encoder.bool(*truth)?,
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => encoder.u64(whole)?,
            (None, Some(whole)) => encoder.i64(whole)?,
            (None, None) => encoder.f64(number.as_f64().unwrap_or(f64::NAN))?,
        },
        Value::String(text) => encoder.str(text)?,
        Value::Array(list) => {
            encoder.array(list.len() as u64)?;
            return list.iter().try_for_each(|item| put(encoder, item));
        }
        Value::Object(fields) => {
            encoder.map(fields.len() as u64)?;
            return fields.iter().try_for_each(|(name, value)| {
                encoder.str(name)?;
                put(encoder, value)
            });
        }
    };
    Ok(())
}

fn take(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, String> {
    if depth > DEPTH_MAX {
        return Err(format!("it is deeper than {DEPTH_MAX}"));
    }
    let broken = |error: reading::Error| error.to_string();
    Ok(match decoder.datatype().map_err(broken)? {
        Type::Null | Type::Undefined => decoder.skip().map(|()| Value::Null).map_err(broken)?,
        Type::Bool => decoder.bool().map_err(broken)?.into(),
        Type::F16 | Type::F32 | Type::F64 => {
            // JSON has neither infinity nor what is no number.
            let number = Number::from_f64(decoder.f64().map_err(broken)?);
            number.map_or(Value::Null, Value::Number)
        }
        Type::String | Type::StringIndef => text(decoder).map_err(broken)?.into(),
        Type::Bytes | Type::BytesIndef => {
            let parts = decoder.bytes_iter().map_err(broken)?;
            let parts: Vec<&[u8]> = parts.collect::<Result<_, _>>().map_err(broken)?;
            let text = String::from_utf8(parts.concat());
            text.map_err(|_| "a text in it is no UTF-8")?.into()
        }
        Type::Array | Type::ArrayIndef => {
            let length = decoder.array().map_err(broken)?;
            let mut list = Vec::new();
            while has_more(decoder, length, list.len()).map_err(broken)? {
                list.push(take(decoder, depth + 1)?);
            }
            list.into()
        }
        Type::Map | Type::MapIndef => {
            let length = decoder.map().map_err(broken)?;
            let mut fields = Map::new();
            let mut taken = 0;
            while has_more(decoder, length, taken).map_err(broken)? {
                let name = text(decoder).map_err(broken)?;
                fields.insert(name, take(decoder, depth + 1)?);
                taken += 1;
            }
            fields.into()
        }
        // What a tag adds JSON cannot say; the value under it can do without.
        Type::Tag => {
            decoder.tag().map_err(broken)?;
            take(decoder, depth + 1)?
        }
        _ => {
            let whole = i128::from(decoder.int().map_err(broken)?);
            let number = Number::from_i128(whole).ok_or("a number in it is too small")?;
            number.into()
        }
    })
}

/// Whether a list or an object of which so many items were taken has another one. Nothing is set aside for the length
/// that it says it has; the mark at the end of one without a length is taken.
fn has_more(
    decoder: &mut Decoder<'_>,
    length: Option<u64>,
    taken: usize,
) -> Result<bool, reading::Error> {
    match length {
        Some(length) => Ok((taken as u64) < length),
        None if decoder.datatype()? == Type::Break => decoder.skip().map(|()| false),
        None => Ok(true),
    }
}

fn text(decoder: &mut Decoder<'_>) -> Result<String, reading::Error> {
    decoder.str_iter()?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..40).prop_map(Value::from),
                proptest::collection::btree_map(".{0,30}", inner, 0..8)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in value()) {
            let bytes = encode(&value);
            prop_assert_eq!(decode(&bytes), Ok(value));
            for end in 0..bytes.len() {
                prop_assert!(decode(&bytes[..end]).is_err());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    }

    /// RFC 8949, appendix A, as far as JSON can say it.
    #[test]
    fn the_examples_of_the_standard_are_read_and_written() {
        for (value, hex) in [
            (json!(0), "00"),
            (json!(23), "17"),
            (json!(24), "1818"),
            (json!(1000), "1903e8"),
            (json!(1_000_000), "1a000f4240"),
            (json!(1_000_000_000_000_u64), "1b000000e8d4a51000"),
            (json!(u64::MAX), "1bffffffffffffffff"),
            (json!(-1), "20"),
            (json!(-1000), "3903e7"),
            (json!(1.1), "fb3ff199999999999a"),
            (json!(-4.1), "fbc010666666666666"),
            (json!(false), "f4"),
            (json!(true), "f5"),
            (json!(null), "f6"),
            (json!(""), "60"),
            (json!("IETF"), "6449455446"),
            (json!("\u{6c34}"), "63e6b0b4"),
            (json!([]), "80"),
            (json!([1, [2, 3], [4, 5]]), "8301820203820405"),
            (json!({}), "a0"),
            (json!({"a": 1, "b": [2, 3]}), "a26161016162820203"),
        ] {
            assert_eq!(decode(&bytes(hex)), Ok(value.clone()), "{hex}");
            assert_eq!(encode(&value), bytes(hex), "{value}");
        }
    }

    #[test]
    fn other_spellings_of_the_standards_examples_are_read() {
        for (value, hex) in [
            (json!(1.0), "f93c00"),
            (json!(65504.0), "f97bff"),
            (json!(5.960_464_477_539_063e-8), "f90001"),
            (json!(-4.0), "f9c400"),
            (json!(100_000.0), "fa47c35000"),
            (json!(null), "f97c00"),
            (json!(null), "f7"),
            (json!("\u{1}\u{2}"), "420102"),
            (json!(1_363_896_240), "c11a514b67b0"),
            (json!("streaming"), "7f657374726561646d696e67ff"),
            (json!([1, [2, 3], [4, 5]]), "9f018202039f0405ffff"),
            (json!({"Fun": true, "Amt": -2}), "bf6346756ef563416d7421ff"),
        ] {
            assert_eq!(decode(&bytes(hex)), Ok(value), "{hex}");
        }
    }

    #[test]
    fn what_is_none_is_refused_and_takes_no_memory() {
        for hex in [
            "",
            "18",
            "1a0000",
            "61",
            "62ff",
            "61ff",
            "1c",
            "9bffffffffffffffff",
            "81",
            "a161",
            "a10101",
            "ff",
            "f8ff",
            "0000",
            "7f01ff",
            "7f61",
            "9f",
            "bf",
            "3bffffffffffffffff",
            "5bffffffffffffffff",
            "1f",
        ] {
            assert!(decode(&bytes(hex)).is_err(), "{hex}");
        }
        assert!(decode(&[0x81; 10_000]).is_err());
        assert!(decode(&[0xc1; 10_000]).is_err());
    }
}
