//! The target is worth its time only as long as random courses get far.

use super::*;
use crate::seeds::courses;

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
