//! The target of the store.

use bolero::check;
use paquebot_fuzz::recover;

#[test]
fn store_recovery() {
    check!().for_each(|input: &[u8]| recover(input));
}
