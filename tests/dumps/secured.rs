//! A server that lets in by TLS only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use super::rig::Rig;
use crate::common::authority::Authority;
use crate::common::user::{User, said};

/// A server behind TLS, and where it is.
struct Secured {
    rig: Rig,
    authority: Authority,
    address: String,
    /// Where no certificates are.
    home: PathBuf,
}

impl Secured {
    #[track_caller]
    fn new(name: &str) -> Secured {
        let mut rig = Rig::local(name);
        rig.fill("app", 100);
        rig.sql(
            "app",
            "ALTER ROLE postgres PASSWORD 'hush'; CREATE ROLE certified SUPERUSER LOGIN",
        );
        let authority = Authority::new(&rig.world);
        let address = format!("127.{}.{}.7", fastrand::u8(1..), fastrand::u8(..));
        authority.close(&rig.server, &address);
        rig.server.restart();
        let home = rig.world.owned_dir("home");
        Secured {
            rig,
            authority,
            address,
            home,
        }
    }

    /// Dumps with these parameters of the connection in the environment.
    #[track_caller]
    fn dump(&self, parameters: &[(&str, &str)]) -> Output {
        let mut dump = self.rig.walfs("dump");
        dump.env("PGHOST", &self.address)
            .env("PGPASSWORD", "hush")
            .env("HOME", &self.home)
            .envs(parameters.iter().copied());
        dump.args(["--json", "app"]).output().expect("run walfs")
    }

    #[track_caller]
    fn is_dumped(&self, parameters: &[(&str, &str)]) {
        let output = self.dump(parameters);
        assert!(output.status.success(), "{parameters:?}: {}", said(&output));
    }

    /// Is refused, before pg_dump is run, with these words.
    #[track_caller]
    fn is_refused(&self, parameters: &[(&str, &str)], words: &[&str]) {
        let output = self.dump(parameters);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{parameters:?}: {told}");
        assert!(!told.contains("hush") && !told.contains("pg_dump"), "{told}");
        for word in words {
            assert!(told.contains(word), "{parameters:?}, {word:?}: {told}");
        }
    }
}

/// A5, S5: as `psql` would be let in, with the same parameters.
#[test]
fn a5_a_server_that_lets_in_by_tls_only_is_dumped() {
    let secured = Secured::new("dumps-tls");
    let root = secured.authority.certificate().display().to_string();
    let root = root.as_str();
    let full = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", root)];
    secured.is_dumped(&full);
    secured.is_dumped(&[]);
    secured.is_dumped(&[("PGSSLMODE", "allow")]);
    secured.is_dumped(&[("PGSSLMODE", "require"), ("PGCHANNELBINDING", "require")]);
    // By a file where libpq looks for it.
    let usual = secured.home.join(".postgresql");
    User::postgres().make_dir(&usual);
    fs::copy(root, usual.join("root.crt")).expect("copy it");
    secured.is_dumped(&[("PGSSLMODE", "verify-ca")]);
    assert_eq!(secured.rig.versions("app").len(), 1);
    assert!(secured.rig.restored("app") == secured.rig.told("app"));
}

#[test]
fn s5_a_server_that_is_not_who_it_should_be_gets_no_password() {
    let secured = Secured::new("dumps-tls-other");
    let root = secured.authority.certificate().display().to_string();
    let other = Authority::new(&secured.rig.world)
        .certificate()
        .display()
        .to_string();
    for mode in ["require", "verify-ca", "verify-full"] {
        let parameters = [("PGSSLMODE", mode), ("PGSSLROOTCERT", other.as_str())];
        secured.is_refused(&parameters, &["peer certificate", "HINT: sslrootcert"]);
    }
    // Without TLS nothing is let in, so neither is by prefer.
    secured.is_refused(
        &[("PGSSLROOTCERT", other.as_str())],
        &["peer certificate", "no encryption"],
    );
    // Another host's name.
    let elsewhere = [
        ("PGHOST", "localhost"),
        ("PGHOSTADDR", secured.address.as_str()),
        ("PGSSLROOTCERT", root.as_str()),
    ];
    secured.is_refused(
        &[&elsewhere[..], &[("PGSSLMODE", "verify-full")]].concat(),
        &["NotValidForName", "HINT: sslrootcert"],
    );
    secured.is_dumped(&[&elsewhere[..], &[("PGSSLMODE", "verify-ca")]].concat());
    secured.is_refused(
        &[("PGSSLMODE", "disable")],
        &["no encryption", "HINT: the server wants TLS"],
    );
    secured.is_refused(
        &[("PGSSLMODE", "verify-full")],
        &["no authority is known", "HINT: sslrootcert"],
    );
}

#[test]
fn s5_a_certificate_of_the_client_lets_in() {
    let mut secured = Secured::new("dumps-tls-client");
    let data = secured.rig.server.data().to_owned();
    fs::copy(secured.authority.certificate(), data.join("ca.crt")).expect("copy it");
    User::postgres().own(&data.join("ca.crt"));
    secured.rig.server.configure(&[("ssl_ca_file", "ca.crt")]);
    let access = "local all all trust\nhostssl all certified 127.0.0.0/8 cert\n";
    fs::write(data.join("pg_hba.conf"), access).expect("write pg_hba.conf");
    secured.rig.server.restart();
    let (certificate, key) = secured.authority.sign_client("certified");
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let parameters = [
        ("PGUSER", "certified"),
        ("PGSSLCERT", certificate.as_str()),
        ("PGSSLKEY", key.as_str()),
    ];
    secured.is_dumped(&parameters);
    secured.is_refused(&parameters[..1], &["certified"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("open it");
    secured.is_refused(&parameters, &["mode 644", "HINT: chmod 600"]);
}
