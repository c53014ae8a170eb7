//! Bare sockets on many links.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::cannot;
use super::stream::{connect_tcp, connect_tls, tls_connector};
use crate::Failure;
use crate::contestant::Endless;
use crate::links::{CONNECTS_MAX, Connecting, address};
use crate::work::{Task, Work, publish_frame};

/// Connects and keeps one task a link, which waits for what the peer may send; all share one buffer.
pub(crate) async fn idle(work: &Work) -> Endless {
    let Task::Idle { links } = work.task else {
        return Err(cannot(work));
    };
    let connecting = Connecting::start()?;
    let limit = Arc::new(Semaphore::new(CONNECTS_MAX));
    let connected = Arc::new(Semaphore::new(0));
    let scratch = Rc::new(RefCell::new(vec![0; 4 << 10]));
    let connector = work.ca_file.as_deref().map(tls_connector).transpose()?;
    for index in 0..links {
        let address = address(work, index)?;
        let permit = Arc::clone(&limit).acquire_owned().await?;
        let (connected, scratch) = (Arc::clone(&connected), Rc::clone(&scratch));
        match connector.clone() {
            None => tokio::task::spawn_local(async move {
                let stream = Box::pin(connect_tcp(address)).await?;
                drop(permit);
                connected.add_permits(1);
                read_for_ever(stream, &scratch).await
            }),
            Some(connector) => tokio::task::spawn_local(async move {
                let stream = Box::pin(connect_tls(address, &connector)).await?;
                drop(permit);
                connected.add_permits(1);
                read_for_ever(stream, &scratch).await
            }),
        };
    }
    let _all = connected.acquire_many(u32::try_from(links)?).await?;
    connecting.report(links).await?;
    std::future::pending().await
}

/// Connects, then writes one message to each socket in turn.
pub(crate) async fn turns(work: &Work, links: usize) -> Endless {
    let mut streams = connect_all(work, links).await?;
    let frame = publish_frame(0, 64).bytes;
    loop {
        for stream in &mut streams {
            stream.write_all(&frame).await?;
        }
    }
}

async fn connect_all(work: &Work, links: usize) -> Result<Vec<TcpStream>, Failure> {
    let (mut connects, mut streams) = (JoinSet::new(), Vec::with_capacity(links));
    for index in 0..links {
        let address = address(work, index)?;
        connects.spawn_local(connect_tcp(address));
        if connects.len() == CONNECTS_MAX
            && let Some(stream) = connects.join_next().await
        {
            streams.push(stream??);
        }
    }
    while let Some(stream) = connects.join_next().await {
        streams.push(stream??);
    }
    Ok(streams)
}

/// Waits without a buffer of its own: the shared one is borrowed while bytes are there.
async fn read_for_ever<S: AsyncRead + Unpin>(
    mut stream: S,
    scratch: &RefCell<Vec<u8>>,
) -> Result<(), Failure> {
    loop {
        let read = poll_fn(|context| {
            let mut scratch = scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut stream).poll_read(context, &mut buffer))?;
            Poll::Ready(Ok::<_, Failure>(buffer.filled().len()))
        });
        if read.await? == 0 {
            return Err("the peer closed the connection".into());
        }
    }
}
