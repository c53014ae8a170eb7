//! What is behind the TLS of the ports that carry more than MQTT: the application protocol tells it.

use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::http::{self, HttpFront};
use crate::connection::{Accepted, serve};
use crate::listener::Front;
use crate::policy::Peer;
use crate::remarks::{Explanation, Who};

/// The port that AWS has at 443: MQTT with a certificate or an authorizer, WebSocket, HTTPS.
#[derive(Debug)]
pub(crate) struct SharedPort(pub(crate) Arc<HttpFront>);

impl Front for SharedPort {
    fn serve(
        self: Arc<Self>,
        stream: TlsStream<TcpStream>,
        mut peer: Peer,
        accepted: Accepted,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        match protocol.as_deref() {
            Some(b"x-amzn-mqtt-ca") if peer.principal.is_none() => {
                let why = Explanation::new(
                    "AWS: the application protocol x-amzn-mqtt-ca is for client certificates",
                    "it showed no client certificate",
                );
                let remarks = &accepted.shared.remarks;
                remarks.tell(&Who::peer(&peer), "its connection is closed", &why);
                Box::pin(async {})
            }
            Some(b"x-amzn-mqtt-ca") => Box::pin(serve(Box::new(stream), Arc::new(peer), accepted)),
            Some(b"mqtt") => {
                // The authorizer decides, whatever the certificate says.
                peer.principal = None;
                Box::pin(serve(Box::new(stream), Arc::new(peer), accepted))
            }
            _ => Box::pin(http::serve_http(
                Arc::clone(&self.0),
                stream,
                peer,
                accepted,
            )),
        }
    }
}

/// The port that AWS has at 8443: HTTPS.
#[derive(Debug)]
pub(crate) struct HttpPort(pub(crate) Arc<HttpFront>);

impl Front for HttpPort {
    fn serve(
        self: Arc<Self>,
        stream: TlsStream<TcpStream>,
        peer: Peer,
        accepted: Accepted,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(http::serve_http(
            Arc::clone(&self.0),
            stream,
            peer,
            accepted,
        ))
    }
}
