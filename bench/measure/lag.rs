//! A connection to a server that is further away than it is: every byte arrives later, none is held back for want of
//! bandwidth. A new connection waits for one round trip more, as for the handshake of TCP.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Forwards connections to `server`, each byte `one_way` later in both directions. Returns where to connect to; ends
/// with the process.
pub(crate) fn proxy(server: SocketAddr, one_way: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let address = listener.local_addr().expect("the address of a listener");
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("take a connection");
            thread::spawn(move || connect(&client, server, one_way));
        }
    });
    address
}

fn connect(client: &TcpStream, server: SocketAddr, one_way: Duration) {
    thread::sleep(2 * one_way);
    // A server that is gone: the client sees its connection end.
    if let Ok(server) = TcpStream::connect(server) {
        forward(client, &server, one_way);
        forward(&server, client, one_way);
    }
}

/// One direction of one connection.
fn forward(from: &TcpStream, to: &TcpStream, one_way: Duration) {
    let mut from = from.try_clone().expect("share a connection");
    let mut to = to.try_clone().expect("share a connection");
    to.set_nodelay(true).expect("send at once");
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if sender
                .send((Instant::now() + one_way, buffer[..read].to_vec()))
                .is_err()
            {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // The other side may have gone already.
        let _ = to.shutdown(Shutdown::Write);
    });
}
