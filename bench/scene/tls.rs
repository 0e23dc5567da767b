//! TLS before a server that has none, for pgBackRest, which speaks to S3 by https only.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::user::said;
use crate::common::wait;

/// socat between https and Garage's http.
#[derive(Debug)]
pub struct Tls {
    port: u16,
    process: Child,
}

impl Tls {
    /// With a certificate of its own, made now in `dir`.
    pub fn before(server: SocketAddr, dir: &Path) -> Tls {
        let pem = certificate(dir);
        // Free a moment ago, and nobody else here takes ports.
        let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = listener.expect("a free port").port();
        let listen = format!(
            "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={}",
            pem.display()
        );
        let target = format!("TCP:{server}");
        let mut socat = Command::new("socat");
        // Its usual pieces of 8 KiB would be what is measured.
        socat
            .args(["-b", "262144", &listen, &target])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let process = socat.spawn().expect("run socat\nHINT: .ci/needs bench");
        wait::until("socat to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        Tls { port, process }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // Its children end with their connections.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Key and certificate in one file.
fn certificate(dir: &Path) -> PathBuf {
    let (key, certificate, both) = (dir.join("key"), dir.join("certificate"), dir.join("both.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]);
    let made = openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("run openssl");
    assert!(made.status.success(), "openssl req: {}", said(&made));
    let read = |path: &Path| fs::read(path).expect("read what openssl has made");
    fs::write(&both, [read(&key), read(&certificate)].concat()).expect("write the certificate");
    both
}
