//! The proxy of `lag.rs` in a process of its own, so that its CPU is not the benchmark's.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::lag;

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
    println!("{}", lag::proxy(server.parse().expect("an address"), one_way));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
