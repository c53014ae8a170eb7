//! CBOR as far as AWS's services speak it: what JSON can say, in fewer bytes (RFC 8949).

use serde_json::{Map, Number, Value};

/// How deep lists and objects may lie in each other.
const DEPTH_MAX: usize = 32;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;

/// The additional information of an item whose end is marked.
const INDEFINITE: u8 = 31;
const BREAK: u8 = 0xff;

pub(super) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, value);
    bytes
}

/// # Errors
/// What is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = Reader { bytes };
    let value = reader.value(0)?;
    if reader.bytes.is_empty() {
        Ok(value)
    } else {
        Err("there is more behind it".into())
    }
}

fn put(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => bytes.push(0xf6),
        Value::Bool(false) => bytes.push(0xf4),
        Value::Bool(true) => bytes.push(0xf5),
        Value::Number(number) => put_number(bytes, number),
        Value::String(text) => {
            put_head(bytes, TEXT, text.len() as u64);
            bytes.extend_from_slice(text.as_bytes());
        }
        Value::Array(list) => {
            put_head(bytes, ARRAY, list.len() as u64);
            for item in list {
                put(bytes, item);
            }
        }
        Value::Object(fields) => {
            put_head(bytes, MAP, fields.len() as u64);
            for (key, value) in fields {
                put_head(bytes, TEXT, key.len() as u64);
                bytes.extend_from_slice(key.as_bytes());
                put(bytes, value);
            }
        }
    }
}

fn put_number(bytes: &mut Vec<u8>, number: &Number) {
    if let Some(whole) = number.as_u64() {
        put_head(bytes, UNSIGNED, whole);
    } else if let Some(whole) = number.as_i64() {
        // −1 − n stands for n, so that every bit counts.
        put_head(bytes, NEGATIVE, !whole.cast_unsigned());
    } else {
        bytes.push(0xfb);
        bytes.extend_from_slice(&number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
    }
}

/// The shortest form of a major type with its argument.
fn put_head(bytes: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    let all = argument.to_be_bytes();
    match argument {
        0..=23 => bytes.push(major | all[7]),
        24..=0xff => bytes.extend_from_slice(&[major | 24, all[7]]),
        0x100..=0xffff => {
            bytes.push(major | 25);
            bytes.extend_from_slice(&all[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            bytes.push(major | 26);
            bytes.extend_from_slice(&all[4..]);
        }
        _ => {
            bytes.push(major | 27);
            bytes.extend_from_slice(&all);
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or("it ends too early")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1).map(|byte| byte[0])
    }

    /// Major type, additional information and argument of the next item; no argument where its end is marked.
    fn head(&mut self) -> Result<(u8, u8, Option<u64>), String> {
        let first = self.byte()?;
        let (major, info) = (first >> 5, first & 31);
        let argument = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => {
                let length = 1_usize << (info - 24);
                let bytes = self.take(length)?.iter();
                Some(bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            }
            INDEFINITE => None,
            _ => return Err("it has a head that is kept for later".into()),
        };
        Ok((major, info, argument))
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is deeper than {DEPTH_MAX}"));
        }
        let (major, info, argument) = self.head()?;
        Ok(match (major, argument) {
            (UNSIGNED, Some(number)) => number.into(),
            (NEGATIVE, Some(number)) => {
                let whole = i64::try_from(number).map_err(|_| "a number in it is too small")?;
                (!whole).into()
            }
            (TEXT | BYTES, length) => self.text(major, length)?.into(),
            (ARRAY, length) => {
                let mut list = Vec::new();
                while !self.is_at_end(length, list.len())? {
                    list.push(self.value(depth + 1)?);
                }
                list.into()
            }
            (MAP, length) => {
                let mut fields = Map::new();
                let mut read = 0;
                while !self.is_at_end(length, read)? {
                    let (major, _, length) = self.head()?;
                    if major != TEXT {
                        return Err("a name in it is no text".into());
                    }
                    let name = self.text(TEXT, length)?;
                    fields.insert(name, self.value(depth + 1)?);
                    read += 1;
                }
                fields.into()
            }
            // What a tag adds JSON cannot say; the value under it can do without.
            (TAG, Some(_)) => self.value(depth + 1)?,
            (7, Some(argument)) => simple(info, argument)?,
            _ => return Err("it has an item that makes no sense".into()),
        })
    }

    /// Whether a list or an object of which `read` items were read has no more. Nothing is set aside for the length
    /// that it says it has.
    fn is_at_end(&mut self, length: Option<u64>, read: usize) -> Result<bool, String> {
        match length {
            Some(length) => Ok(read as u64 >= length),
            None if self.bytes.first() == Some(&BREAK) => self.take(1).map(|_| true),
            None => Ok(false),
        }
    }

    fn text(&mut self, major: u8, length: Option<u64>) -> Result<String, String> {
        let utf8 = |bytes: &[u8]| {
            let text = str::from_utf8(bytes).map(str::to_owned);
            text.map_err(|_| "a text in it is no UTF-8".to_owned())
        };
        let length_of = |length: u64| usize::try_from(length).map_err(|error| error.to_string());
        if let Some(length) = length {
            return utf8(self.take(length_of(length)?)?);
        }
        let mut whole = String::new();
        while !self.is_at_end(None, 0)? {
            match self.head()? {
                (part, _, Some(length)) if part == major => {
                    whole.push_str(&utf8(self.take(length_of(length)?)?)?);
                }
                _ => return Err("a part of a text in it is none".into()),
            }
        }
        Ok(whole)
    }
}

fn simple(info: u8, argument: u64) -> Result<Value, String> {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    Ok(match (info, argument) {
        (_, 20) if info == 20 => false.into(),
        (_, 21) if info == 21 => true.into(),
        (22 | 23, _) => Value::Null,
        (25, bits) => float(half(bits)),
        (26, bits) => float(f32::from_bits(u32::try_from(bits).unwrap_or_default()).into()),
        (27, bits) => float(f64::from_bits(bits)),
        _ => return Err("it has a simple value that is not known".into()),
    })
}

/// RFC 8949, appendix D.
fn half(bits: u64) -> f64 {
    let exponent = (bits >> 10) & 0x1f;
    let fraction = f64::from(u16::try_from(bits & 0x3ff).unwrap_or_default());
    let size = match exponent {
        0 => fraction * (-24_f64).exp2(),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => {
            let exponent = i16::try_from(exponent).unwrap_or_default();
            (1024.0 + fraction) * f64::from(exponent - 25).exp2()
        }
    };
    if bits & 0x8000 == 0 { size } else { -size }
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
