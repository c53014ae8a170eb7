//! The target is worth its time only as long as random courses get far.

use super::*;

/// Courses of a generator of its own (xorshift), so that the test is the same each time.
fn courses() -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(move || {
        let length = 200 + (state % 2_000) as usize;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .take(length)
        .collect()
    })
}

#[test]
fn random_courses_reach_every_event() {
    for version in [Version::V311, Version::V5] {
        let mut seen = std::collections::BTreeMap::<_, usize>::new();
        for course in courses().take(400) {
            for (name, count) in run(version, &course).seen {
                *seen.entry(name).or_default() += count;
            }
        }
        println!("{version}: {seen:?}");
        let both = [
            "Connected",
            "Online",
            "Closed",
            "Transmitted",
            "Unsent",
            "Delivered",
            "Rejected",
            "Expired",
            "Message",
            "Subscribed",
            "Unsubscribed",
        ];
        let only_v5 = ["AuthChallenge", "AuthenticationData", "Reauthenticated"];
        let only_v5 = only_v5.iter().filter(|_| version == Version::V5);
        for name in both.iter().chain(only_v5) {
            assert!(
                seen.get(name) >= Some(&5),
                "{version}: few {name}: {seen:?}"
            );
        }
    }
}
