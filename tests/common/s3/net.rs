//! Connections of the test server: accepting them, and ending them in the ways a broken network does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::front::Front;

/// How a connection is to end; shared between the one who decides it and the one who owns the socket.
#[derive(Debug)]
pub(crate) struct Link {
    reset: AtomicBool,
    cut: AtomicBool,
    /// The server has been stopped.
    stopped: Arc<AtomicBool>,
}

impl Link {
    /// When the connection ends, the peer shall see a reset, not an orderly close.
    pub(crate) fn reset(&self) {
        self.reset.store(true, SeqCst);
    }

    /// End the connection as soon as everything written so far has been sent.
    pub(crate) fn cut(&self) {
        self.cut.store(true, SeqCst);
    }

    /// Has the server been stopped since this connection began?
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }
}

/// A socket that ends as its [`Link`] says.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    link: Arc<Link>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.link.reset.load(SeqCst) || self.link.stopped() {
            // Fails only on a socket that is gone already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    /// hyper calls this once its own buffer is empty: the one moment when it is known what the peer will get.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.link.cut.load(SeqCst) {
            true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            false => Pin::new(&mut self.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A port that stays this server's also while nobody listens on it.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    /// Bound, never listening: connections are refused, and nobody else can take the port.
    _reserved: TcpSocket,
}

impl Port {
    /// A free port of the loopback interface.
    pub(crate) fn reserve() -> io::Result<Self> {
        let reserved = shared_socket("127.0.0.1:0".parse().expect("an address"))?;
        Ok(Self {
            address: reserved.local_addr()?,
            _reserved: reserved,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to listen. Needs the context of a runtime.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        shared_socket(self.address)?.listen(1024)
    }
}

fn shared_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves until `stop` is sent or dropped; then nobody listens and all connections have been reset.
pub(crate) async fn run(front: Arc<Front>, listener: TcpListener, mut stop: oneshot::Receiver<()>) {
    let stopped = Arc::new(AtomicBool::new(false));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => break,
            Ok((stream, _)) = listener.accept() => {
                let link = Link { reset: false.into(), cut: false.into(), stopped: Arc::clone(&stopped) };
                connections.spawn(serve(Arc::clone(&front), stream, Arc::new(link)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    stopped.store(true, SeqCst);
    drop(listener);
    connections.shutdown().await;
}

async fn serve(front: Arc<Front>, stream: TcpStream, link: Arc<Link>) {
    // Without it a small answer waits 40 ms for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let wire = TokioIo::new(Wire {
        stream,
        link: Arc::clone(&link),
    });
    let service = service_fn(|request| Arc::clone(&front).serve(Arc::clone(&link), request));
    // An error here is a client that went away, or a fault that was asked for.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(wire, service)
        .await;
}
