//! A connection to a server that is further away than it is: every byte arrives later, none is held back for want of
//! bandwidth. A new connection waits for one round trip more, as for the handshake of TCP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The first argument of a benchmark that is to be the proxy, see [`Line::to`].
pub const ARGUMENT: &str = "--lag";

/// A proxy in a process of its own: its CPU is not the benchmark's. Ends when dropped, and when the benchmark dies.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    process: Child,
}

impl Line {
    /// Starts this program again as a proxy before `server`; its `main` must know [`ARGUMENT`].
    pub fn to(server: SocketAddr, round_trip: Duration) -> Line {
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        let one_way = (round_trip / 2).as_micros();
        command.args([ARGUMENT, &server.to_string(), &one_way.to_string()]);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run this program again");
        let mut said = String::new();
        BufReader::new(process.stdout.take().expect("a pipe"))
            .read_line(&mut said)
            .expect("read what the proxy says");
        let address = said.trim().parse().expect("the proxy says its address");
        Line { address, process }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the second process does: `[ARGUMENT, server, microseconds one way]`. Until its standard input ends.
pub fn serve(arguments: &[String]) {
    let [_, server, one_way, ..] = arguments else {
        panic!("{ARGUMENT} SERVER MICROSECONDS");
    };
    let one_way = Duration::from_micros(one_way.parse().expect("a number"));
    println!("{}", proxy(server.parse().expect("an address"), one_way));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Forwards connections to `server`, each byte `one_way` later in both directions. Returns where to connect to; ends
/// with the process.
fn proxy(server: SocketAddr, one_way: Duration) -> SocketAddr {
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
