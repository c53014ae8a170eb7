//! The other end: a server that answers and does nothing else.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use paquebot_emulator::CertificateAuthority;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::wire::answer;

/// Loopback addresses to spread the connections over.
const ADDRESSES: u8 = 4;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// The server as a child process; it ends when it is dropped.
pub(crate) struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) tcp: Vec<String>,
    /// The CA file, then the addresses.
    pub(crate) tls: Vec<String>,
    _files: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::generate().unwrap();
        let identity = authority.server(["localhost"]).unwrap();
        let ca = files.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        std::fs::write(files.path().join("cert.pem"), &identity.certificate_pem).unwrap();
        std::fs::write(files.path().join("key.pem"), &identity.private_key_pem).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("peer")
            .arg(files.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut addresses = || -> Vec<String> {
            let line = lines.next().unwrap().unwrap();
            line.split(' ').map(str::to_owned).collect()
        };
        let tcp = addresses();
        let mut tls = vec![ca.display().to_string()];
        tls.extend(addresses());
        Self {
            stdin: child.stdin.take(),
            child,
            tcp,
            tls,
            _files: files,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is its sign to leave.
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// The child process.
pub(crate) fn run(arguments: &[String]) {
    let acceptor = acceptor(Path::new(&arguments[0]));
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        for acceptor in [None, Some(acceptor)] {
            let mut addresses = Vec::new();
            for host in 1..=ADDRESSES {
                let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, host), 0))
                    .await
                    .unwrap();
                addresses.push(listener.local_addr().unwrap().to_string());
                tokio::task::spawn_local(listen(listener, acceptor.clone()));
            }
            println!("{}", addresses.join(" "));
        }
        std::future::pending::<()>().await;
    });
}

fn acceptor(files: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(files.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(files.join("key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn listen(listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let acceptor = acceptor.clone();
        tokio::task::spawn_local(async move {
            match acceptor {
                None => serve(stream).await,
                Some(acceptor) => {
                    if let Ok(stream) = Box::pin(acceptor.accept(stream)).await {
                        serve(stream).await;
                    }
                }
            }
        });
    }
}

/// Answers one client until it leaves.
pub(crate) async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut rest = Vec::new();
    loop {
        let answers = poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                Pin::new(&mut stream)
                    .poll_read(cx, &mut buffer)
                    .map(|result| {
                        let input = buffer.filled();
                        (result.is_ok() && !input.is_empty()).then(|| answer(&mut rest, input))
                    })
            })
        })
        .await;
        match answers {
            None => return,
            Some(answers) if answers.is_empty() => {}
            Some(answers) => {
                if stream.write_all(&answers).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        }
    }
}
