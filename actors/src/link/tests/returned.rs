//! What the session gives back keeps its place before what the queue handed on meanwhile.

use super::*;
use paquebot_protocols::backoff::Jitter;
use tokio::io::DuplexStream as Pipe;

/// What a server read and has not looked at.
struct Packets(Vec<u8>);

impl Packets {
    /// First byte, and the payload of a PUBLISH to `t`.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = *self.0.first()?;
        let length = usize::from(*self.0.get(1)?);
        assert!(length < 128);
        if self.0.len() < 2 + length {
            return None;
        }
        let packet: Vec<u8> = self.0.drain(..2 + length).collect();
        let payload = if first & 6 == 0 {
            &packet[5..]
        } else {
            &packet[7..]
        };
        Some((first, payload.to_vec()))
    }
}

async fn read_some(server: &mut DuplexStream, packets: &mut Packets) {
    loop {
        let mut buffer = vec![0; 65_536];
        match tokio::time::timeout(Duration::from_millis(200), server.read(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => packets.0.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

async fn accept(servers: &async_channel::Receiver<DuplexStream>) -> DuplexStream {
    let mut server = servers.recv().await.unwrap();
    let mut header = [0; 2];
    server.read_exact(&mut header).await.unwrap();
    let mut connect = vec![0; header[1].into()];
    server.read_exact(&mut connect).await.unwrap();
    server
}

struct Probe {
    link: LinkHandle,
    servers: async_channel::Receiver<Pipe>,
    server: Pipe,
    connack: Vec<u8>,
    metrics: Metrics,
}

/// A link whose fourth connection is a probe: its CONNECT was read, and CONNACK is to come.
async fn probe(version: Version, inflight_max: u16) -> Probe {
    let metrics = Metrics::new().unwrap();
    let (connect, servers) = async_channel::unbounded();
    let target = Target::Pipe(Arc::new(move || {
        let (near, far) = tokio::io::duplex(1 << 20);
        let sent = connect.try_send(far);
        sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(near)
    }));
    let mut spec = spec(OutboxConfig::default(), target, &metrics);
    spec.identity.version = version;
    let profile = Arc::get_mut(&mut spec.profile).unwrap();
    profile.session = Arc::new(SessionConfig {
        sets_aside: true,
        version,
        inflight_max,
        ..SessionConfig::default()
    });
    profile.session_expiry = Some(Duration::from_secs(1_000));
    profile.backoff = Arc::new(BackoffConfig {
        base: Duration::from_millis(1),
        max: Duration::from_millis(1),
        jitter: Jitter::None,
        ..BackoffConfig::default()
    });
    let (prepared, link) = PreparedLink::new(spec, Arbiter::current());
    actix::spawn(LinkTask::new(prepared));
    let connack = |present: u8| match version {
        Version::V311 => vec![0x20, 2, present, 0],
        // No retained messages.
        Version::V5 => vec![0x20, 5, present, 0, 2, 0x25, 0],
    };
    let mut server = accept(&servers).await;
    server.write_all(&connack(0)).await.unwrap();
    link.wait_for(|state| state == LinkState::Online).await;
    let stuck = message(QoS::AtLeastOnce, Bytes::from_static(b"st"));
    drop(link.publish_batch(vec![stuck]).await.unwrap());
    for closed in 1..=3 {
        let mut packets = Packets(Vec::new());
        read_some(&mut server, &mut packets).await;
        assert!(packets.0.ends_with(b"st"), "{closed}");
        drop(server);
        server = accept(&servers).await;
        if closed < 3 {
            server.write_all(&connack(1)).await.unwrap();
        }
    }
    Probe {
        link,
        servers,
        server,
        connack: connack(1),
        metrics,
    }
}

fn numbered(qos: QoS, number: usize) -> Rendered {
    message(qos, Bytes::copy_from_slice(&(number as u16).to_be_bytes()))
}

fn numbers(packets: &mut Packets) -> Vec<usize> {
    let mut all = Vec::new();
    while let Some((_, payload)) = packets.next() {
        let payload = &payload[payload.len() - 2..];
        all.push(usize::from(u16::from_be_bytes([payload[0], payload[1]])));
    }
    all
}

/// The message that the probe sends alone, read as a number.
const STUCK: usize = 0x7374;

#[actix::test]
async fn what_is_returned_of_one_batch_goes_before_the_next() {
    let Probe {
        link,
        mut server,
        connack,
        servers: _servers,
        metrics: _metrics,
    } = probe(Version::V311, 100).await;
    let backlog = (0..600)
        .map(|number| {
            let qos = if number == 0 {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            };
            numbered(qos, number)
        })
        .collect();
    let receipt = link.publish_batch(backlog).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    server.write_all(&connack).await.unwrap();
    let mut packets = Packets(Vec::new());
    read_some(&mut server, &mut packets).await;
    let early = numbers(&mut packets);
    server.write_all(&[0x40, 2, 0, 1]).await.unwrap();
    read_some(&mut server, &mut packets).await;
    let late = numbers(&mut packets);
    drop(receipt);
    let all: Vec<_> = early
        .into_iter()
        .chain(late)
        .filter(|number| *number != STUCK)
        .collect();
    assert_eq!(all.len(), 600);
    assert!(all.is_sorted(), "{all:?}");
}

#[actix::test]
async fn what_is_returned_goes_before_what_an_outcome_lets_go() {
    let Probe {
        link,
        mut server,
        connack,
        servers: _servers,
        metrics: _metrics,
    } = probe(Version::V5, 20).await;
    let backlog = (0..60)
        .map(|number| {
            let mut message = numbered(QoS::AtLeastOnce, number);
            message.retain = number == 0;
            message
        })
        .collect();
    let receipt = link.publish_batch(backlog).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let served = actix::spawn(async move {
        server.write_all(&connack).await.unwrap();
        let mut all = Vec::new();
        let mut packets = Packets(Vec::new());
        loop {
            let mut buffer = vec![0; 65_536];
            let read =
                tokio::time::timeout(Duration::from_millis(500), server.read(&mut buffer)).await;
            let Ok(Ok(count)) = read else {
                return all;
            };
            packets.0.extend_from_slice(&buffer[..count]);
            let mut acks = Vec::new();
            let mut rest = packets.0.as_slice();
            while rest.len() > 6 && rest.len() >= 2 + usize::from(rest[1]) {
                acks.extend_from_slice(&[0x40, 2, rest[5], rest[6]]);
                rest = &rest[2 + usize::from(rest[1])..];
            }
            server.write_all(&acks).await.unwrap();
            all.extend(numbers(&mut packets));
        }
    });
    let all = served.await.unwrap();
    receipt.await;
    let all: Vec<_> = all.into_iter().filter(|number| *number != STUCK).collect();
    // The first one is retained, which this server does not take.
    assert_eq!(all.len(), 59);
    assert!(all.is_sorted(), "{all:?}");
}
