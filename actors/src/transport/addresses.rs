//! The addresses of a name, tried as RFC 8305 (*Happy Eyeballs*) has it: the next one begins when one has failed or has not
//! answered for a moment, and those before it go on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ConnectError, Endpoint, Stage};

/// How long an address has for itself before the next one is tried too: RFC 8305, section 8, *Connection Attempt Delay*.
const HEAD_START: Duration = Duration::from_millis(250);

/// Addresses of a name that are tried at once: each is a socket, and a fleet has many links.
const AT_ONCE_MAX: usize = 8;

/// Connects to the first address that answers. Each has `limit`.
pub(super) async fn connect(
    endpoint: &Endpoint,
    addresses: Vec<SocketAddr>,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    if let [address] = *addresses {
        return connect_one(endpoint, address, limit).await;
    }
    let mut waiting = families_in_turn(addresses).into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut last = None;
    loop {
        if under_way.len() < AT_ONCE_MAX
            && let Some(address) = waiting.next()
        {
            under_way.push(connect_one(endpoint, address, limit));
        }
        let ended = if waiting.len() > 0 && under_way.len() < AT_ONCE_MAX {
            timeout(HEAD_START, under_way.next()).await
        } else {
            Ok(under_way.next().await)
        };
        match ended {
            Ok(Some(Ok(stream))) => return Ok(stream),
            Ok(Some(Err(error))) => last = Some(error),
            // None is left.
            Ok(None) => break,
            // One more has its turn.
            Err(_) => {}
        }
    }
    Err(last.unwrap_or_else(|| ConnectError::Dns {
        host: endpoint.host().to_owned(),
        source: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
    }))
}

/// Connects to one address.
pub(super) async fn connect_one(
    endpoint: &Endpoint,
    address: SocketAddr,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Batches are written whole, so Nagle's algorithm could only delay them.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(source)) => Err(ConnectError::Tcp { address, source }),
        Err(_) => Err(ConnectError::Timeout {
            host: endpoint.to_string(),
            stage: Stage::Tcp,
            limit,
        }),
    }
}

/// The resolver's order, but IPv6 and IPv4 in turn: it is a whole family that a network has no way for.
fn families_in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let count = addresses.len();
    let is_first_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let is_first = |address: &SocketAddr| address.is_ipv6() == is_first_v6;
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut in_turn = Vec::with_capacity(count);
    while in_turn.len() < count {
        in_turn.extend(first.next());
        in_turn.extend(second.next());
    }
    in_turn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns_and_the_resolver_says_which_is_first() {
        for (found, tried) in [
            (
                &["1.1.1.1:1", "1.1.1.2:1"][..],
                &["1.1.1.1:1", "1.1.1.2:1"][..],
            ),
            (
                &["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"],
                &["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"],
            ),
            (
                &["1.1.1.1:1", "[::1]:1", "[::2]:1"],
                &["1.1.1.1:1", "[::1]:1", "[::2]:1"],
            ),
            (&[], &[]),
        ] {
            assert_eq!(families_in_turn(addresses(found)), addresses(tried));
        }
    }

    /// An address where nobody answers, not even with a refusal: a listener whose backlog is full.
    #[cfg(target_os = "linux")]
    struct BlackHole {
        address: SocketAddr,
        _listener: tokio::net::TcpListener,
        _filling: Vec<std::net::TcpStream>,
    }

    #[cfg(target_os = "linux")]
    impl BlackHole {
        fn new() -> Self {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
            let listener = socket.listen(1).unwrap();
            let address = listener.local_addr().unwrap();
            let mut filling = Vec::new();
            let patience = Duration::from_millis(300);
            while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, patience) {
                filling.push(stream);
            }
            Self {
                address,
                _listener: listener,
                _filling: filling,
            }
        }
    }

    #[cfg(target_os = "linux")]
    async fn connected(addresses: Vec<SocketAddr>, limit: Duration) -> SocketAddr {
        let endpoint = Endpoint::new("ship.test", 1883).unwrap();
        let connecting = connect(&endpoint, addresses, limit);
        // Far beyond what it takes and far below the limit.
        let stream = timeout(Duration::from_secs(60), connecting).await;
        stream.unwrap().unwrap().peer_addr().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[actix::test]
    async fn the_address_behind_three_black_holes_is_reached_long_before_they_time_out() {
        let hole = BlackHole::new();
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = live.local_addr().unwrap();
        let mut addresses = vec![hole.address; 3];
        addresses.push(live);
        let hours = Duration::from_secs(3600);
        assert_eq!(connected(addresses, hours).await, live);
    }

    #[cfg(target_os = "linux")]
    #[actix::test]
    async fn more_black_holes_than_are_tried_at_once_give_their_places_back_in_the_end() {
        let hole = BlackHole::new();
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = live.local_addr().unwrap();
        let mut addresses = vec![hole.address; AT_ONCE_MAX];
        addresses.push(live);
        assert_eq!(connected(addresses, 9 * HEAD_START).await, live);
    }

    #[cfg(target_os = "linux")]
    #[actix::test]
    async fn when_no_address_answers_the_last_one_says_why() {
        let hole = BlackHole::new();
        let endpoint = Endpoint::new("ship.test", 1883).unwrap();
        // Taken, and nobody listens there.
        let taken = tokio::net::TcpSocket::new_v4().unwrap();
        taken.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let refusing = taken.local_addr().unwrap();
        let addresses = vec![refusing, hole.address];
        let limit = Duration::from_millis(50);
        let error = connect(&endpoint, addresses, limit).await.unwrap_err();
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
        let error = connect(&endpoint, vec![refusing; 3], limit).await;
        assert!(matches!(error.unwrap_err(), ConnectError::Tcp { .. }));
    }
}
