//! Listeners: TCP, TLS, threads, starting and stopping.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use paquebot_emulator::mqtt::{QoS, ReasonCode, Version};
use paquebot_emulator::{Broker, CertificateAuthority, Identity, ServerTls, StartError, TlsError};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::*;

const FREE_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cross_from_tcp_to_pipe_and_back() {
    let broker = Broker::builder()
        .tcp(FREE_PORT)
        .tcp(FREE_PORT)
        .start()
        .await
        .unwrap();
    let addresses: Vec<SocketAddr> = broker.addresses(false).collect();
    assert_eq!(addresses.len(), 2);
    assert_eq!(broker.tcp_address(), Some(addresses[0]));
    assert_eq!(broker.tls_address(), None);
    let mut pipe = Client::connect(&broker, "pipe", Version::V311).await;
    pipe.subscribe("to/pipe", QoS::AtMostOnce).await;
    for address in addresses {
        let stream = TcpStream::connect(address).await.unwrap();
        let client = Client::new(stream, Version::V5);
        let (mut client, connack) = client.introduce(connect_packet("tcp", Version::V5)).await;
        assert_eq!(connack.reason_code, ReasonCode::SUCCESS);
        client.subscribe("to/tcp", QoS::AtMostOnce).await;
        client.publish("to/pipe", "there").await;
        assert_eq!(pipe.receive_text().await, "there");
        pipe.publish("to/tcp", "back").await;
        assert_eq!(client.receive_text().await, "back");
        client.disconnect().await;
    }
}

async fn dial(
    broker: &Broker,
    trusted_pem: &str,
    identity: Option<&Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(trusted_pem.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(identity.private_key_pem.as_bytes());
            config
                .with_client_auth_cert(vec![chain.unwrap()], key.unwrap())
                .unwrap()
        }
    };
    let stream = TcpStream::connect(broker.tls_address().unwrap()).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
}

#[tokio::test]
async fn tls_serves_clients_that_trust_the_authority() {
    let authority = CertificateAuthority::generate().unwrap();
    let identity = authority.server(["localhost", "127.0.0.1"]).unwrap();
    let tls = ServerTls::from_identity(&identity).unwrap();
    let broker = Broker::builder().tls(FREE_PORT, tls).start().await.unwrap();
    for version in BOTH {
        let stream = dial(&broker, authority.pem(), None).await.unwrap();
        let client = Client::new(stream, version);
        let (mut client, _) = client.introduce(connect_packet("a", version)).await;
        client.subscribe("t", QoS::AtLeastOnce).await;
        broker.publish(topic("t"), vec![b'x'; 300_000], QoS::AtLeastOnce, false);
        assert_eq!(client.receive_publish().await.payload.len(), 300_000);
        client.disconnect().await;
    }
    let stranger = CertificateAuthority::generate().unwrap();
    assert!(dial(&broker, stranger.pem(), None).await.is_err());
}

#[tokio::test]
async fn a_client_certificate_can_be_required() {
    let authority = CertificateAuthority::generate().unwrap();
    let identity = authority.server(["localhost"]).unwrap();
    let tls = ServerTls::from_identity(&identity)
        .unwrap()
        .require_client_certificate(authority.pem())
        .unwrap();
    let broker = Broker::builder().tls(FREE_PORT, tls).start().await.unwrap();
    let known = authority.client("device-1").unwrap();
    let stream = dial(&broker, authority.pem(), Some(&known)).await.unwrap();
    let client = Client::new(stream, Version::V5);
    client.introduce(connect_packet("a", Version::V5)).await;

    let stranger = CertificateAuthority::generate()
        .unwrap()
        .client("device-1")
        .unwrap();
    for identity in [None, Some(&stranger)] {
        // In TLS 1.3 the client is ready before the server has looked at its certificate.
        if let Ok(stream) = dial(&broker, authority.pem(), identity).await {
            Client::new(stream, Version::V5).expect_closed().await;
        }
    }
    assert_eq!(broker.stats().connects_accepted, 1);
}

#[test]
fn bad_certificates_are_named() {
    let authority = CertificateAuthority::generate().unwrap();
    let one = authority.server(["localhost"]).unwrap();
    let other = authority.server(["localhost"]).unwrap();
    let result = ServerTls::from_pem(&one.certificate_pem, &other.private_key_pem);
    assert!(matches!(result, Err(TlsError::Unusable(_))));
    let result = ServerTls::from_pem("nothing", &one.private_key_pem);
    assert!(matches!(result, Err(TlsError::NoCertificate { .. })));
    let result = ServerTls::from_pem(&one.certificate_pem, "nothing");
    assert!(matches!(result, Err(TlsError::BadPem { .. })));
    let tls = ServerTls::from_identity(&one).unwrap();
    assert!(tls.require_client_certificate("").is_err());
    assert!(matches!(
        authority.server(["not a name\u{0}ü"]),
        Err(TlsError::NotMade(_))
    ));
}

#[tokio::test]
async fn addresses_that_others_reach_are_refused_unless_allowed() {
    let everywhere = ([0, 0, 0, 0], 0);
    let error = Broker::builder().tcp(everywhere).start().await.unwrap_err();
    assert!(matches!(error, StartError::NotLoopback { .. }));
    assert!(error.to_string().contains("allow_remote"));
    let broker = Broker::builder()
        .tcp(everywhere)
        .allow_remote(true)
        .start()
        .await
        .unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let broker = Broker::builder().tcp(FREE_PORT).start().await.unwrap();
    let taken = broker.tcp_address().unwrap();
    let error = Broker::builder().tcp(taken).start().await.unwrap_err();
    assert!(matches!(error, StartError::AddressInUse { address } if address == taken));
}

#[tokio::test]
async fn a_stop_closes_everything() {
    let broker = Broker::builder().tcp(FREE_PORT).start().await.unwrap();
    let address = broker.tcp_address().unwrap();
    let mut five = Client::connect(&broker, "five", Version::V5).await;
    let mut three = Client::connect(&broker, "three", Version::V311).await;
    let mut silent = Client::new(broker.connect_pipe(), Version::V5);
    broker.stop().await;
    five.expect_dismissed(ReasonCode::SERVER_SHUTTING_DOWN)
        .await;
    three.expect_closed().await;
    silent.expect_closed().await;
    assert!(TcpStream::connect(address).await.is_err());
    Client::new(broker.connect_pipe(), Version::V5)
        .expect_closed()
        .await;
    assert_eq!(broker.stats().connections, 0);
}

#[tokio::test]
async fn dropping_the_last_handle_stops_the_server() {
    let broker = broker().await;
    let other = broker.clone();
    let mut client = Client::connect(&broker, "a", Version::V5).await;
    drop(broker);
    client.expect_nothing().await;
    drop(other);
    client
        .expect_dismissed(ReasonCode::SERVER_SHUTTING_DOWN)
        .await;
}

#[tokio::test]
async fn a_listener_can_stop_accepting() {
    let broker = Broker::builder().tcp(FREE_PORT).start().await.unwrap();
    let faults = broker.faults();
    faults.stop_accepting();
    let stream = TcpStream::connect(broker.tcp_address().unwrap())
        .await
        .unwrap();
    let mut client = Client::new(stream, Version::V311);
    let connect = connect_packet("a", Version::V311);
    client
        .send(paquebot_emulator::mqtt::Packet::Connect(Box::new(connect)))
        .await;
    let unanswered = tokio::time::timeout(Duration::from_millis(200), client.receive()).await;
    assert!(unanswered.is_err());
    assert_eq!(broker.stats().connects_accepted, 0);
    faults.resume_accepting();
    assert_eq!(client.receive().await.name(), "CONNACK");
}

#[test]
fn a_server_runs_on_its_own_thread() {
    let broker = Broker::builder().tcp(FREE_PORT).start_on_thread().unwrap();
    let address = broker.tcp_address().unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a")
        .unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let stats = broker
        .wait_for_blocking(|stats| stats.connections == 1, PATIENCE)
        .unwrap();
    assert_eq!(stats.connects_accepted, 1);
    broker
        .wait_for_blocking(|stats| stats.connections == 2, Duration::from_millis(1))
        .unwrap_err();
    broker.stop();
    assert_eq!(stream.read(&mut connack).unwrap(), 0);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_failed_start_on_a_thread_is_reported() {
    let everywhere = ([0, 0, 0, 0], 0);
    let error = Broker::builder()
        .tcp(everywhere)
        .start_on_thread()
        .unwrap_err();
    assert!(matches!(error, StartError::NotLoopback { .. }));
}
