//! Links that come back resume their TLS sessions: a fleet that reconnects does not pay for each handshake in full.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use paquebot::mqtt::Version;
use paquebot::{Group, Link};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{HandshakeKind, ServerConfig};

#[path = "support/support.rs"]
mod support;

use support::certs::Authority;
use support::fleet::{drain, fleet, group, online, soon, start_in};

/// More than handshakes that the group has under way at once, and more than tickets of one connection.
const LINKS: usize = 40;

/// A server that takes everybody and counts the sessions that were resumed.
async fn server(authority: &Authority) -> (u16, Arc<AtomicUsize>) {
    let identity = authority.server();
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let resumed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&resumed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&count)));
        }
    });
    (port, resumed)
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    resumed: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
        resumed.fetch_add(1, Ordering::SeqCst);
    }
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
    let (port, resumed) = server(&authority).await;
    let fleet = fleet();
    let url = format!("mqtts://localhost:{port}");
    let builder = group(&fleet, &url, Version::V311).ca_file(authority.certificate());
    let group = builder.build().unwrap();
    // Each connection brings two tickets and uses one at the most: at least one a link is left.
    let first = connect_all(&group, 1).await;
    let before = resumed.load(Ordering::SeqCst);
    let second = connect_all(&group, 2).await;
    assert_eq!(resumed.load(Ordering::SeqCst) - before, LINKS);
    for link in first.iter().chain(&second) {
        soon("a link stops", link.stop()).await;
    }
    drain(&fleet).await;
}
