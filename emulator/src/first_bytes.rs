//! What a client speaks, by the first bytes it sends: to say so where a port expects something else.

/// What comes to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// A TLS record.
    Tls,
    /// MQTT 3.1, of which the predecessor of 3.1.1 has the name.
    Mqtt31,
    /// The CONNECT of any other MQTT.
    Mqtt,
    Http,
    Other,
}

impl Spoken {
    pub(crate) fn of(first: &[u8]) -> Self {
        const METHODS: [&[u8]; 7] = [
            b"GET ", b"PUT ", b"POST", b"HEAD", b"DELE", b"OPTI", b"CONN",
        ];
        match first {
            // A handshake record of TLS 1.x (RFC 8446 §5.1).
            [0x16, 0x03, ..] | [0x16] => Self::Tls,
            [0x10, rest @ ..] if has_old_name(rest) => Self::Mqtt31,
            [0x10, ..] => Self::Mqtt,
            _ if METHODS.iter().any(|method| first.starts_with(method)) => Self::Http,
            _ => Self::Other,
        }
    }
}

/// Whether the remaining length of a packet and the old protocol name begin here.
fn has_old_name(rest: &[u8]) -> bool {
    let length_bytes = rest.iter().take(4).position(|byte| byte & 0x80 == 0);
    length_bytes
        .and_then(|last| rest.get(last + 1..))
        .is_some_and(|body| body.starts_with(b"\0\x06MQIsdp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_a_client_speaks() {
        for (first, expected) in [
            (&b"\x16\x03\x01\x02\x00"[..], Spoken::Tls),
            (b"\x10\x0d\0\x04MQTT\x04", Spoken::Mqtt),
            (b"\x10\x0f\0\x06MQIsdp\x03", Spoken::Mqtt31),
            (b"\x10\x80\x01\0\x06MQIsdp\x03", Spoken::Mqtt31),
            (b"GET /mqtt HTTP/1.1", Spoken::Http),
            (b"SSH-2.0", Spoken::Other),
            (b"", Spoken::Other),
        ] {
            assert_eq!(Spoken::of(first), expected, "{first:?}");
        }
    }
}
