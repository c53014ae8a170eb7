//! The targets of the session.

use bolero::check;
use paquebot_fuzz::session;
use paquebot_protocols::mqtt::Version;

#[test]
fn session_v4() {
    check!().for_each(|input: &[u8]| session(Version::V311, input));
}

#[test]
fn session_v5() {
    check!().for_each(|input: &[u8]| session(Version::V5, input));
}
