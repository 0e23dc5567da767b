//! A certificate authority of our own, and servers that are reached by TLS only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::postgres::Postgres;
use super::user::{User, said};
use super::world::World;

/// What a certificate authority of our own has made.
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    pub fn new(world: &World) -> Authority {
        let dir = world.path().join(format!("ca-{:x}", fastrand::u32(..)));
        fs::create_dir(&dir).expect("make a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("open it");
        let authority = Authority { dir };
        authority.openssl(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=walfs-test -keyout ca.key -out ca.crt",
        );
        authority
    }

    fn openssl(&self, arguments: &str) {
        let mut openssl = Command::new("openssl");
        let output = openssl.args(arguments.split(' ')).current_dir(&self.dir).output();
        let output = output.expect("run openssl");
        assert!(output.status.success(), "openssl {arguments}: {}", said(&output));
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Key and certificate of a server, signed, in its data directory.
    pub fn sign_for(&self, address: &str, data: &Path) {
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={address} -keyout server.key -out server.csr"
        ));
        fs::write(self.dir.join("names"), format!("subjectAltName=IP:{address}\n")).expect("write a name");
        self.openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
        );
        for name in ["server.key", "server.crt"] {
            let file = data.join(name);
            fs::copy(self.dir.join(name), &file).expect("copy it");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("close it");
            User::postgres().own(&file);
        }
    }

    /// Has a server, which is not running, let in by TLS only who comes by this address, with a password.
    pub fn close(&self, server: &Postgres, address: &str) {
        self.sign_for(address, server.data());
        server.configure(&[("listen_addresses", address), ("ssl", "on")]);
        let access = "local all all trust\nhostssl all all 127.0.0.0/8 scram-sha-256\n";
        fs::write(server.data().join("pg_hba.conf"), access).expect("write pg_hba.conf");
    }

    /// A client's key and certificate, signed for a role, in files of the user's.
    pub fn sign_client(&self, role: &str) -> (PathBuf, PathBuf) {
        self.openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={role} -keyout client.key -out client.csr"
        ));
        fs::write(self.dir.join("names"), "basicConstraints=CA:FALSE\n").expect("write a name");
        self.openssl(
            "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out client.crt",
        );
        let files = ["client.crt", "client.key"].map(|name| self.dir.join(name));
        for file in &files {
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("close it");
            User::postgres().own(file);
        }
        files.into()
    }
}
