//! An HTTP proxy that opens tunnels.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// A proxy that connects every name to this machine; gives its port and the requests that come.
#[track_caller]
pub(crate) fn proxy() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.unwrap_or_else(|error| panic!("no port for a proxy: {error}"));
    let address = listener.local_addr();
    let address = address.unwrap_or_else(|error| panic!("the proxy has no address: {error}"));
    let (sender, requests) = channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // A client that goes away is none of the others' business.
            let _ = open_tunnel(stream, &sender);
        }
    });
    (address.port(), requests)
}

fn open_tunnel(mut stream: TcpStream, requests: &Sender<String>) -> io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        request.extend(byte);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let port = request.split([':', ' ']).nth(2);
    let port: u16 = port
        .and_then(|port| port.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    let _ = requests.send(request);
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut back, mut to) = (server.try_clone()?, stream.try_clone()?);
    thread::spawn(move || io::copy(&mut back, &mut to));
    thread::spawn(move || io::copy(&mut stream, &mut server));
    Ok(())
}
