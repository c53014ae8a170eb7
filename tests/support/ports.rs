//! Free TCP ports of the loopback interface for servers that cannot be told to choose one.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// The lowest port tried: above what distributions give to services.
const LOWEST: u16 = 10_000;

/// A port on which nobody listens right now.
///
/// It lies below the range from which the system takes the ports of outgoing connections. Otherwise,
/// while a broker is down for a restart, one of the clients that keep trying to reach it could be given
/// the broker's own port for its end, connect to itself and keep the broker from coming back.
///
/// Another process may take the port before it is used: whoever uses it tries again with another one.
pub(crate) fn free_port() -> u16 {
    let highest = ephemeral_range_start()
        .saturating_sub(1)
        .max(LOWEST + 1_000);
    for _ in 0..1_000 {
        let span = u64::from(highest - LOWEST) + 1;
        // `RandomState` differs between processes and between calls: the standard library's randomness.
        let offset = RandomState::new().hash_one(0_u8) % span;
        let Some(port) = u16::try_from(offset)
            .ok()
            .and_then(|offset| LOWEST.checked_add(offset))
        else {
            continue;
        };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("found no free port between {LOWEST} and {highest} in 1000 tries");
}

/// Where the ports of outgoing connections begin; 32768 where the system does not say.
fn ephemeral_range_start() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}
