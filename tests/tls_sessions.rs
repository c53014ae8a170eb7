//! Links that come back resume their TLS sessions: a fleet that reconnects does not pay for each handshake in full. A
//! session stands for the identity that began it, and is resumed by no other.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::{Arc, Mutex};

use paquebot::mqtt::Version;
use paquebot::{Group, Link};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{HandshakeKind, RootCertStore, ServerConfig};

#[path = "support/support.rs"]
mod support;

use support::certs::{Authority, Identity};
use support::fleet::{drain, fleet, group, online, soon, start_in};

/// More than handshakes that the group has under way at once, and more than tickets of one connection.
const LINKS: usize = 40;

/// How a connection began: whether it resumed a session, and with which client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Handshake {
    is_resumed: bool,
    certificate: Option<CertificateDer<'static>>,
}

type Handshakes = Arc<Mutex<Vec<Handshake>>>;

/// A server that takes everybody whose certificate is the authority's, and whoever has none.
async fn server(authority: &Authority) -> (u16, Handshakes) {
    let identity = authority.server();
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes());
    roots.add(root.unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated();
    let config = ServerConfig::builder()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handshakes = Handshakes::default();
    let seen = Arc::clone(&handshakes);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&seen)));
        }
    });
    (port, handshakes)
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, seen: Handshakes) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    seen.lock().unwrap().push(Handshake {
        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        certificate: chain
            .first()
            .map(|certificate| certificate.clone().into_owned()),
    });
    let mut buffer = [0; 512];
    // CONNECT is smaller than a record, so that one read has it.
    if stream.read(&mut buffer).await? == 0 {
        return Ok(());
    }
    stream.write_all(&[0x20, 2, 0, 0]).await?;
    stream.flush().await?;
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

fn resumed(handshakes: &Handshakes) -> usize {
    let handshakes = handshakes.lock().unwrap();
    handshakes.iter().filter(|one| one.is_resumed).count()
}

async fn connect_all(group: &Group, wave: usize) -> Vec<Link> {
    let start = |index| start_in(group, &format!("d{wave}-{index}"));
    let links: Vec<Link> = (0..LINKS).map(start).collect();
    for link in &links {
        online(link).await;
    }
    links
}

#[tokio::test]
async fn links_that_connect_together_each_resume_a_session_of_those_before() {
    let authority = Authority::new("paquebot test CA");
    let (port, handshakes) = server(&authority).await;
    let fleet = fleet();
    let url = format!("mqtts://localhost:{port}");
    let builder = group(&fleet, &url, Version::V311).ca_file(authority.certificate());
    let group = builder.build().unwrap();
    // Each connection brings two tickets and uses one at the most: at least one a link is left.
    let first = connect_all(&group, 1).await;
    let before = resumed(&handshakes);
    let second = connect_all(&group, 2).await;
    assert_eq!(resumed(&handshakes) - before, LINKS);
    for link in first.iter().chain(&second) {
        soon("a link stops", link.stop()).await;
    }
    drain(&fleet).await;
}

#[tokio::test]
async fn a_second_client_certificate_does_not_resume_the_first_ones_session() {
    let authority = Authority::new("paquebot test CA");
    let (port, handshakes) = server(&authority).await;
    let (first, second) = (authority.client("first"), authority.client("second"));
    let der = |identity: &Identity| {
        CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()
    };
    let fleet = fleet();
    let url = format!("mqtts://localhost:{port}");
    let builder = group(&fleet, &url, Version::V311).ca_file(authority.certificate());
    let group = builder
        .client_certificate(&first.certificate, &first.key)
        .build()
        .unwrap();
    // The third link with the group's certificate has sessions of those before it to resume.
    let links = [start_in(&group, "a"), start_in(&group, "b")];
    for link in &links {
        online(link).await;
    }
    let third = start_in(&group, "c");
    online(&third).await;
    // A link with a certificate of its own has the group's settings, and none of its sessions.
    let own = group.device("d").unwrap();
    let own = own
        .client_certificate(&second.certificate, &second.key)
        .unwrap();
    let own = own.start().unwrap();
    online(&own).await;
    let seen = handshakes.lock().unwrap().clone();
    let expected = |is_resumed, identity| Handshake {
        is_resumed,
        certificate: Some(der(identity)),
    };
    assert_eq!(
        seen[2],
        expected(true, &first),
        "there was something to resume"
    );
    assert_eq!(seen[3], expected(false, &second));
    for link in links.iter().chain([&third, &own]) {
        soon("a link stops", link.stop()).await;
    }
    drain(&fleet).await;
}
