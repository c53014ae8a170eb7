//! Greengrass discovery from servers that do not do what they should.

#![cfg(feature = "aws-discovery")]
#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use paquebot::aws::{Discovery, DiscoveryError, GreengrassGroup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

#[path = "support/support.rs"]
mod support;

use support::certs::Authority;
use support::fleet::soon;

/// Asks a server that says this, whatever it is asked, and ends the connection if it is to.
async fn discover(
    answer: Vec<u8>,
    ends: bool,
    deadline: Duration,
) -> (Result<Vec<GreengrassGroup>, DiscoveryError>, String) {
    let authority = Authority::new("paquebot test CA");
    let identity = authority.server();
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(tcp).await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        request.truncate(length);
        // Who is not listened to any more may not be able to say it all.
        let _ = stream.write_all(&answer).await;
        let _ = stream.flush().await;
        if ends {
            let _ = stream.shutdown().await;
        } else {
            let _ = stream.read(&mut [0; 1]).await;
        }
        String::from_utf8(request).unwrap()
    };
    let discovery = Discovery::new("localhost")
        .port(port)
        .ca_file(authority.certificate())
        .deadline(deadline);
    soon("it ends", async {
        tokio::join!(discovery.discover("pump"), serve)
    })
    .await
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_request_is_what_the_guide_says() {
    let (result, request) = discover(http("200 OK", r#"{"GGGroups":[]}"#), false, LONG).await;
    assert_eq!(result.unwrap(), []);
    assert!(
        request.starts_with("GET /greengrass/discover/thing/pump HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("\r\nhost: localhost\r\n"), "{request}");
}

#[tokio::test]
async fn an_answer_in_pieces_is_put_together() {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        8\r\n{\"GGGrou\r\n7\r\nps\":[]}\r\n0\r\n\r\n";
    let (result, _) = discover(answer.to_vec(), true, LONG).await;
    assert_eq!(result.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let (result, _) = discover(Vec::new(), false, Duration::from_secs(1)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, DiscoveryError::TimedOut(_)), "{error}");
    assert!(error.may_pass());
}

#[tokio::test]
async fn a_server_that_hangs_up_or_speaks_no_http_is_told_so() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec();
    for answer in [Vec::new(), b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), half] {
        let (result, _) = discover(answer, true, LONG).await;
        let error = result.unwrap_err();
        assert!(matches!(error, DiscoveryError::Http(_)), "{error}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n".to_vec();
    answer.resize(1_100_000, b' ');
    let (result, _) = discover(answer, false, LONG).await;
    let error = result.unwrap_err();
    assert!(matches!(error, DiscoveryError::TooLarge), "{error}");
}

#[tokio::test]
async fn words_that_make_no_sense_are_shown_as_they_can_be() {
    let (result, _) = discover(http("200 OK", "<html>"), false, LONG).await;
    let error = result.unwrap_err();
    assert!(matches!(error, DiscoveryError::Unreadable(_)), "{error}");
    let (result, _) = discover(http("503 Busy", "later\u{7}!"), false, LONG).await;
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the discovery service answered 503: later!"
    );
    assert!(error.may_pass());
}
