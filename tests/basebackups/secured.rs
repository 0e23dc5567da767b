use crate::common::authority::Authority;
use crate::common::basebackup::Site;
use crate::common::user::said;
use crate::common::world::World;

/// B1: a server that lets in by TLS only is backed up all the same, and another one in its place is not asked anything.
#[test]
fn b1_a_server_that_lets_in_by_tls_only_is_backed_up() {
    let world = World::new("backup-tls");
    let mut site = Site::local(&world);
    site.server.query("ALTER ROLE postgres PASSWORD 'hush'");
    let authority = Authority::new(&world);
    let address = format!("127.{}.{}.8", fastrand::u8(1..), fastrand::u8(..));
    authority.close(&site.server, &address);
    site.server.restart();
    let backup = |name: &str, root: &Authority| {
        let mut backup = site.walfs("backup");
        backup
            .env("PGHOST", &address)
            .env("PGPASSWORD", "hush")
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", root.certificate());
        backup.args(["--fast", name]).output().expect("run walfs")
    };
    let output = backup("secured", &authority);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(site.state("secured").as_deref(), Some("complete"));
    let output = backup("misled", &Authority::new(&world));
    let told = said(&output);
    assert!(
        output.status.code() == Some(1) && told.contains("HINT: sslrootcert"),
        "{told}"
    );
    assert_eq!(site.state("misled"), None);
}
