//! TLS before a server that has none: https as it is between a database and a cloud.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::user::said;
use crate::common::wait;

/// socat between https and a server's http.
#[derive(Debug)]
pub struct Tls {
    port: u16,
    certificate: PathBuf,
    process: Child,
}

impl Tls {
    /// With a certificate of its own, made now in `dir`.
    pub fn before(server: SocketAddr, dir: &Path) -> Tls {
        let certificate = dir.join("certificate");
        let pem = make_certificate(dir, &certificate);
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
        let process = socat.spawn().expect("run socat\nHINT: .ci/needs test");
        wait::until("socat to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        Tls {
            port,
            certificate,
            process,
        }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// `https://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What a client must trust.
    pub fn certificate(&self) -> &Path {
        &self.certificate
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
fn make_certificate(dir: &Path, certificate: &Path) -> PathBuf {
    let (key, both) = (dir.join("key"), dir.join("both.pem"));
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
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        // Not one that could sign others, as which it would be refused to be a server's own.
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    let made = openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(certificate)
        .output()
        .expect("run openssl");
    assert!(made.status.success(), "openssl req: {}", said(&made));
    let read = |path: &Path| fs::read(path).expect("read what openssl has made");
    fs::write(&both, [read(&key), read(certificate)].concat()).expect("write the certificate");
    both
}
