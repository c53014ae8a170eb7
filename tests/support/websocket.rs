//! The server's side of a WebSocket, as a test plays it: the request is read, accepted, and what comes then goes to an
//! embedded broker.

use futures_util::{SinkExt as _, StreamExt as _};
use paquebot_emulator::Broker;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

/// What the server reads of a request, up to the empty line; `None` when the client hangs up before that.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// The value of a request's header.
pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// Answers a request as it wishes.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: &str,
) -> WebSocketStream<S> {
    let key = derive_accept_key(header(request, "sec-websocket-key").unwrap().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {key}\r\nsec-websocket-protocol: mqtt\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    WebSocketStream::from_raw_socket(stream, Role::Server, None).await
}

/// Carries what comes to the broker and back, until either side ends.
pub(crate) async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    mut websocket: WebSocketStream<S>,
    broker: &Broker,
) {
    let mut pipe = broker.connect_pipe();
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            message = websocket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => pipe.write_all(&bytes).await.unwrap(),
                _ => return,
            },
            count = pipe.read(&mut buffer) => {
                let bytes = buffer[..count.unwrap_or(0)].to_vec();
                if bytes.is_empty() || websocket.send(Message::binary(bytes)).await.is_err() {
                    return;
                }
            }
        }
    }
}
