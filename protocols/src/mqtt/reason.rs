//! Reason codes, and which packet of MQTT 5 may carry which.

use super::Sender;
use super::properties::table::Carrier;

/// A reason code of MQTT 5 (§2.4), or the wire value of an MQTT 3.1.1 return code where a packet of
/// that version carries one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ReasonCode(pub u8);

macro_rules! reason_codes {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl ReasonCode {
            $(#[doc = concat!("`", stringify!($value), "`: ", $text, ".")]
            pub const $name: Self = Self($value);)*

            /// The specification's name of the code in MQTT 5; `None` for a value it does not define.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

reason_codes! {
    SUCCESS = 0x00, "success";
    GRANTED_QOS_1 = 0x01, "granted QoS 1";
    GRANTED_QOS_2 = 0x02, "granted QoS 2";
    DISCONNECT_WITH_WILL = 0x04, "disconnect with will message";
    NO_MATCHING_SUBSCRIBERS = 0x10, "no matching subscribers";
    NO_SUBSCRIPTION_EXISTED = 0x11, "no subscription existed";
    CONTINUE_AUTHENTICATION = 0x18, "continue authentication";
    REAUTHENTICATE = 0x19, "re-authenticate";
    UNSPECIFIED_ERROR = 0x80, "unspecified error";
    MALFORMED_PACKET = 0x81, "malformed packet";
    PROTOCOL_ERROR = 0x82, "protocol error";
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, "implementation specific error";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "unsupported protocol version";
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "client identifier not valid";
    BAD_USER_NAME_OR_PASSWORD = 0x86, "bad user name or password";
    NOT_AUTHORIZED = 0x87, "not authorized";
    SERVER_UNAVAILABLE = 0x88, "server unavailable";
    SERVER_BUSY = 0x89, "server busy";
    BANNED = 0x8a, "banned";
    SERVER_SHUTTING_DOWN = 0x8b, "server shutting down";
    BAD_AUTHENTICATION_METHOD = 0x8c, "bad authentication method";
    KEEP_ALIVE_TIMEOUT = 0x8d, "keep alive timeout";
    SESSION_TAKEN_OVER = 0x8e, "session taken over";
    TOPIC_FILTER_INVALID = 0x8f, "topic filter invalid";
    TOPIC_NAME_INVALID = 0x90, "topic name invalid";
    PACKET_IDENTIFIER_IN_USE = 0x91, "packet identifier in use";
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, "packet identifier not found";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "receive maximum exceeded";
    TOPIC_ALIAS_INVALID = 0x94, "topic alias invalid";
    PACKET_TOO_LARGE = 0x95, "packet too large";
    MESSAGE_RATE_TOO_HIGH = 0x96, "message rate too high";
    QUOTA_EXCEEDED = 0x97, "quota exceeded";
    ADMINISTRATIVE_ACTION = 0x98, "administrative action";
    PAYLOAD_FORMAT_INVALID = 0x99, "payload format invalid";
    RETAIN_NOT_SUPPORTED = 0x9a, "retain not supported";
    QOS_NOT_SUPPORTED = 0x9b, "QoS not supported";
    USE_ANOTHER_SERVER = 0x9c, "use another server";
    SERVER_MOVED = 0x9d, "server moved";
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9e, "shared subscriptions not supported";
    CONNECTION_RATE_EXCEEDED = 0x9f, "connection rate exceeded";
    MAXIMUM_CONNECT_TIME = 0xa0, "maximum connect time";
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xa1, "subscription identifiers not supported";
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xa2, "wildcard subscriptions not supported";
}

impl ReasonCode {
    /// Whether the code reports a failure in MQTT 5: 0x80 and above.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// Who may send the code in this packet of MQTT 5: `None` if nobody may.
    pub(crate) const fn sender_in(self, carrier: Carrier) -> Option<Sender> {
        match carrier {
            Carrier::ConnAck => match self.0 {
                0x00 | 0x80..=0x8a | 0x8c | 0x90 | 0x95 | 0x97 | 0x99..=0x9d | 0x9f => {
                    Some(Sender::Server)
                }
                _ => None,
            },
            Carrier::PubAck | Carrier::PubRec => match self.0 {
                0x00 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99 => Some(Sender::Either),
                // "No matching subscribers" is a server's word only (Tables 3-4 and 3-5).
                0x10 => Some(Sender::Server),
                _ => None,
            },
            Carrier::PubRel | Carrier::PubComp => match self.0 {
                0x00 | 0x92 => Some(Sender::Either),
                _ => None,
            },
            Carrier::SubAck => match self.0 {
                0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91 | 0x97 | 0x9e | 0xa1 | 0xa2 => {
                    Some(Sender::Server)
                }
                _ => None,
            },
            Carrier::UnsubAck => match self.0 {
                0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8f | 0x91 => Some(Sender::Server),
                _ => None,
            },
            Carrier::Disconnect => match self.0 {
                0x04 => Some(Sender::Client),
                0x00 | 0x80..=0x83 | 0x90 | 0x93..=0x99 => Some(Sender::Either),
                0x87 | 0x89 | 0x8b | 0x8d..=0x8f | 0x9a..=0xa2 => Some(Sender::Server),
                // Table 3-10 leaves "bad authentication method" out; Table 2-6 and §4.12.1 give it
                // to DISCONNECT, so that a failed re-authentication can say why.
                0x8c => Some(Sender::Either),
                _ => None,
            },
            Carrier::Auth => match self.0 {
                0x00 => Some(Sender::Server),
                0x18 => Some(Sender::Either),
                0x19 => Some(Sender::Client),
                _ => None,
            },
            Carrier::Connect
            | Carrier::Will
            | Carrier::Publish
            | Carrier::Subscribe
            | Carrier::Unsubscribe => None,
        }
    }

    /// The MQTT 5 code that means what an MQTT 3.1.1 CONNACK return code means.
    #[must_use]
    pub const fn from_connect_return_code(code: u8) -> Self {
        match code {
            0 => Self::SUCCESS,
            1 => Self::UNSUPPORTED_PROTOCOL_VERSION,
            2 => Self::CLIENT_IDENTIFIER_NOT_VALID,
            3 => Self::SERVER_UNAVAILABLE,
            4 => Self::BAD_USER_NAME_OR_PASSWORD,
            // 7 is AWS IoT's own.
            5 | 7 => Self::NOT_AUTHORIZED,
            _ => Self::UNSPECIFIED_ERROR,
        }
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (0x{:02x})", self.0),
            None => write!(f, "0x{:02x}", self.0),
        }
    }
}

impl std::fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
