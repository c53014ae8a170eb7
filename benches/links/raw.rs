//! What a program without a library would do.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::process::{Figures, Reading, opening, sending};
use crate::wire;

/// Connects under way at once.
pub(crate) const CONNECTS_MAX: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// One task for each connection: opens it, waits for CONNACK, then for whatever comes.
pub(crate) fn idle(links: usize, addresses: &[String], ca: Option<&str>) -> Figures {
    let connector = ca.map(connector);
    block_on(async {
        let permits = Arc::new(Semaphore::new(CONNECTS_MAX));
        let open = Rc::new(Cell::new(0));
        let all_open = Rc::new(Notify::new());
        let started = Reading::now();
        for link in 0..links {
            let address = addresses[link % addresses.len()].clone();
            let (connector, permits) = (connector.clone(), Arc::clone(&permits));
            let (open, all_open) = (Rc::clone(&open), Rc::clone(&all_open));
            tokio::task::spawn_local(async move {
                // Boxed, so that the task does not keep the room for it.
                let opened = Box::pin(async move {
                    let _permit = permits.acquire().await.unwrap();
                    let stream = TcpStream::connect(&address).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    match connector {
                        None => Ok(greet(stream, link).await),
                        Some(connector) => {
                            let name = ServerName::try_from("localhost").unwrap();
                            let stream = connector.connect(name, stream).await.unwrap();
                            Err(Box::new(greet(stream, link).await))
                        }
                    }
                });
                let stream: Result<TcpStream, Box<TlsStream<TcpStream>>> = opened.await;
                open.set(open.get() + 1);
                if open.get() == links {
                    all_open.notify_one();
                }
                drop((open, all_open));
                match stream {
                    Ok(mut stream) => while read(&mut stream).await > 0 {},
                    Err(mut stream) => while read(&mut stream).await > 0 {},
                }
            });
        }
        all_open.notified().await;
        let online = Reading::now();
        tokio::time::sleep(Duration::from_millis(300)).await;
        opening(links, &started, &online, &Reading::now())
    })
}

/// One `write` for each message, one message on each connection in turn.
pub(crate) fn turn(links: usize, addresses: &[String]) -> Figures {
    block_on(async {
        let mut streams = Vec::with_capacity(links);
        for link in 0..links {
            let stream = TcpStream::connect(&addresses[link % addresses.len()]);
            let stream = stream.await.unwrap();
            stream.set_nodelay(true).unwrap();
            streams.push(greet(stream, link).await);
        }
        let packet = wire::publish();
        let started = Reading::now();
        let turns = turns(links);
        for _ in 0..turns {
            for stream in &streams {
                loop {
                    match stream.try_write(&packet) {
                        Ok(count) => break assert_eq!(count, packet.len()),
                        Err(_) => stream.writable().await.unwrap(),
                    }
                }
            }
        }
        sending(turns * links, &started, &Reading::now())
    })
}

/// How often each link gets a message, so that every run sends about as many.
pub(crate) fn turns(links: usize) -> usize {
    (200_000 / links).max(2)
}

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, link: usize) -> S {
    let connect = wire::connect(&format!("raw-{link:06}"));
    stream.write_all(&connect).await.unwrap();
    assert_eq!(read(&mut stream).await, 4, "CONNACK");
    stream
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> usize {
    poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            Pin::new(&mut *stream)
                .poll_read(cx, &mut buffer)
                .map(|result| result.map_or(0, |()| buffer.filled().len()))
        })
    })
    .await
}

fn connector(ca: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, future)
}
