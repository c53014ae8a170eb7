//! Connections of the contestants that are bare sockets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Failure;
use crate::work::Work;

/// A connection, plain or TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// CONNECT of MQTT 3.1.1: clean session, keep alive off, client identifier `raw`.
const CONNECT: &[u8] = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x03raw";

/// Connects to the one address of `work` and waits for CONNACK.
pub(crate) async fn connect(work: &Work) -> Result<Box<dyn Stream>, Failure> {
    let address = *work.addresses.first().ok_or("no address")?;
    match &work.ca_file {
        None => Ok(Box::new(connect_tcp(address).await?)),
        Some(ca_file) => {
            let connector = tls_connector(ca_file)?;
            Ok(Box::new(connect_tls(address, &connector).await?))
        }
    }
}

/// A plain connection after CONNACK.
pub(crate) async fn connect_tcp(address: SocketAddr) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    handshake(&mut stream).await?;
    Ok(stream)
}

/// A TLS connection after CONNACK.
pub(crate) async fn connect_tls(
    address: SocketAddr,
    connector: &TlsConnector,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::from(address.ip());
    let mut stream = connector.connect(name, stream).await?;
    handshake(&mut stream).await?;
    Ok(stream)
}

/// Trusts the authority in `ca_file` and nobody else.
pub(crate) fn tls_connector(ca_file: &Path) -> Result<TlsConnector, Failure> {
    Ok(TlsConnector::from(tls_config(ca_file)?))
}

/// The same, as rumqttc wants it.
pub(crate) fn tls_config(ca_file: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file)?)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// CONNECT and its answer.
pub(crate) async fn handshake(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<(), Failure> {
    stream.write_all(CONNECT).await?;
    stream.flush().await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await?;
    if connack == [0x20, 2, 0, 0] {
        Ok(())
    } else {
        Err(format!("the peer answered {connack:?} to CONNECT").into())
    }
}
