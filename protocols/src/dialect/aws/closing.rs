//! What it means when AWS IoT closes a connection without a word. It does so for whatever a policy does not allow, for
//! what is past a quota, and for a client whose identifier another one has taken.

use std::time::Duration;

use crate::dialect::{Closing, ClosingStage, LikelyCause};
use crate::mqtt::session::CloseReason;

/// What CONNACK says on MQTT 3.1.1 to a client that is not let in: not one of that version's own codes.
const NOT_ALLOWED: u8 = 7;

/// AWS IoT ends each WebSocket after a day ("AWS IoT Core quotas"); a minute for clocks that differ. Other connections
/// may last longer, and end for other reasons.
const AGE: std::ops::Range<Duration> =
    Duration::from_secs(24 * 3600 - 60)..Duration::from_secs(24 * 3600 + 60);

/// One connection may end because the server does. Clients that take a session from each other go on doing so.
const BRIEF_MIN: u32 = 2;

/// Connections in a row on which nothing that was sent was answered.
const FRUITLESS_MIN: u32 = 2;

pub(super) fn explain(closing: &Closing<'_>) -> Option<LikelyCause> {
    match closing.reason {
        CloseReason::Refused {
            wire_code: NOT_ALLOWED,
            ..
        }
        | CloseReason::Unanswered => Some(LikelyCause::ConnectNotAllowed),
        CloseReason::TransportClosed => match closing.stage {
            ClosingStage::Connecting => Some(LikelyCause::ConnectNotAllowed),
            ClosingStage::Subscribing => Some(LikelyCause::SubscribeNotAllowed),
            ClosingStage::Online if AGE.contains(&closing.lasted) => Some(LikelyCause::AgeLimit),
            ClosingStage::Online if closing.unanswered > 0 => {
                (closing.fruitless >= FRUITLESS_MIN).then_some(LikelyCause::PublishNotAllowed)
            }
            ClosingStage::Online => (closing.brief >= BRIEF_MIN).then_some(LikelyCause::TakenOver),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::ReasonCode;

    #[test]
    fn silence_is_explained_by_what_went_before_it() {
        use LikelyCause::{
            AgeLimit, ConnectNotAllowed, PublishNotAllowed, SubscribeNotAllowed, TakenOver,
        };
        let lost = CloseReason::TransportClosed;
        let refused = |wire_code, code| CloseReason::Refused {
            code,
            wire_code,
            reason_string: None,
            server_reference: None,
        };
        let seven = refused(7, ReasonCode::NOT_AUTHORIZED);
        let busy = refused(3, ReasonCode::SERVER_UNAVAILABLE);
        let (online, day) = (ClosingStage::Online, 24 * 3600);
        for (reason, stage, seconds, unanswered, fruitless, brief, cause) in [
            (
                &seven,
                ClosingStage::Connecting,
                0,
                0,
                0,
                0,
                Some(ConnectNotAllowed),
            ),
            (&busy, ClosingStage::Connecting, 0, 0, 0, 0, None),
            (
                &CloseReason::Unanswered,
                ClosingStage::Connecting,
                0,
                0,
                0,
                0,
                Some(ConnectNotAllowed),
            ),
            (
                &lost,
                ClosingStage::Subscribing,
                0,
                5,
                9,
                0,
                Some(SubscribeNotAllowed),
            ),
            (&lost, online, 1, 1, 1, 0, None),
            (&lost, online, 1, 1, 2, 0, Some(PublishNotAllowed)),
            // The server may have been killed.
            (&lost, online, 4, 0, 0, 1, None),
            (&lost, online, 4, 0, 0, 2, Some(TakenOver)),
            (&lost, online, 5, 0, 0, 0, None),
            (&lost, online, day, 3, 2, 0, Some(AgeLimit)),
            (&lost, online, 3 * day, 0, 0, 0, None),
            (&CloseReason::KeepAliveTimeout, online, 1, 1, 5, 0, None),
            (&CloseReason::Local, online, 1, 0, 0, 2, None),
        ] {
            let closing = Closing {
                reason,
                stage,
                lasted: Duration::from_secs(seconds),
                unanswered,
                fruitless,
                brief,
            };
            assert_eq!(explain(&closing), cause, "{closing:?}");
        }
    }
}
