//! By https, as to a cloud: the same promises, and a clear word about a server that cannot be trusted.

use std::fs;
use std::path::Path;

use super::rig::{Place, Rig, owned};
use crate::common::garage::Garage;
use crate::common::s3::{Logged, Operation, S3Server};
use crate::common::tls::Tls;
use crate::common::user::{User, said};
use crate::common::wal;
use crate::common::walfs::{Options, walfs};
use crate::common::world::World;

/// The server of the tests behind TLS, and a mount's options to reach it.
fn secured(world: &World, server: &S3Server) -> (Tls, Options) {
    let tls = tls_before(world, &server.endpoint());
    let archive = format!("s3://{}/cluster", server.bucket());
    let options = Options::s3(world, &archive, &tls.endpoint(), &owned(server.env()));
    (tls, options)
}

fn tls_before(world: &World, endpoint: &str) -> Tls {
    let address = endpoint.replace("http://", "").parse();
    Tls::before(address.expect("an address"), &world.owned_dir("tls"))
}

fn trusting(options: Options, certificate: &Path) -> Options {
    let public = certificate.with_extension("public");
    fs::copy(certificate, &public).expect("copy the certificate");
    options.env("SSL_CERT_FILE", public.to_str().expect("a path in UTF-8"))
}

/// The uploads of archived files.
fn uploads(rig: &Rig) -> Vec<Logged> {
    let such = |request: &Logged| request.operation == Operation::Put && request.key.contains("/wal/");
    rig.server().requests().into_iter().filter(such).collect()
}

/// W1, R3: "the store has the whole object and has itself verified a checksum of it". Inside TLS a body needs no signature
/// of its own; the server's check of its checksum is what it always is.
#[test]
fn w1_https_archives_and_restores() {
    let (world, server) = (World::new("secured"), S3Server::start());
    let (tls, options) = secured(&world, &server);
    let mount = trusting(options, tls.certificate()).mount();
    let rig = Rig {
        mount,
        place: Place::S3(server),
        world,
    };
    // The second begins before its name is known to be free: its last byte waits.
    for number in 1..=2 {
        let source = rig.sized_segment(number, wal::SEGMENT_BYTES, number);
        rig.archive(&source);
        assert_eq!(
            rig.mount.read(&source.name).expect("read it back"),
            source.content
        );
    }
    let uploads = uploads(&rig);
    assert_eq!(uploads.len(), 2);
    assert!(uploads.iter().all(|upload| upload.unsigned_body));
}

/// The same with a real server.
#[test]
fn w1_https_to_garage_archives_and_restores() {
    let world = World::new("secured");
    let garage = Garage::start(&world.path().join("garage"), false);
    let tls = tls_before(&world, &garage.endpoint());
    let archive = format!("s3://{}/cluster", garage.bucket());
    let options = Options::s3(&world, &archive, &tls.endpoint(), &garage.env());
    let mount = trusting(options, tls.certificate()).mount();
    let rig = Rig {
        mount,
        place: Place::Garage(garage),
        world,
    };
    let source = rig.segment(1, 1);
    rig.archive(&source);
    assert_eq!(
        rig.mount.read(&source.name).expect("read it back"),
        source.content
    );
}

/// By plain http nobody on the way can exchange a body: its hash is in the signature.
#[test]
fn by_http_bodies_are_signed() {
    let rig = Rig::s3(&[]);
    rig.archive(&rig.segment(1, 1));
    let uploads = uploads(&rig);
    assert_eq!(uploads.len(), 1);
    assert!(!uploads[0].unsigned_body);
}

/// A server whose certificate nobody vouches for is not asked again and again, and the operator hears what to do.
#[test]
fn an_unknown_certificate_is_refused_plainly() {
    let (world, server) = (World::new("secured"), S3Server::start());
    let (_tls, options) = secured(&world, &server);
    let message = said(&options.refused());
    assert!(message.contains("certificate"), "{message}");
    assert!(
        message.contains("HINT: ") && message.contains("SSL_CERT_FILE"),
        "{message}"
    );
    assert_eq!(server.requests().len(), 0, "nothing was sent");
}

/// `https://` written before a server that speaks http.
#[test]
fn https_to_a_server_without_it_is_refused_plainly() {
    let (world, server) = (World::new("secured"), S3Server::start());
    let archive = format!("s3://{}/cluster", server.bucket());
    let endpoint = server.endpoint().replace("http://", "https://");
    let options = Options::s3(&world, &archive, &endpoint, &owned(server.env()));
    let message = said(&options.refused());
    assert!(
        message.contains("HINT: ") && message.contains("http://"),
        "{message}"
    );
}

/// The same of commands that ask for the archive at once, without a look at the bucket.
#[test]
fn commands_refuse_an_unknown_certificate_plainly() {
    let (world, server) = (World::new("secured"), S3Server::start());
    let (tls, _) = secured(&world, &server);
    let archive = format!("s3://{}/cluster", server.bucket());
    let target = world.owned_dir("restored");
    for command in [
        ["restore", "LATEST", target.to_str().expect("a path in UTF-8")],
        ["wal-fetch", "000000010000000000000001", "fetched"],
    ] {
        let output = walfs(&world, &User::caller())
            .args(command)
            .args(["--archive", &archive, "--endpoint", &tls.endpoint()])
            .envs(
                server
                    .env()
                    .into_iter()
                    .filter(|(name, _)| !name.contains("ENDPOINT")),
            )
            .output()
            .expect("run walfs");
        let message = said(&output);
        assert!(!output.status.success(), "{message}");
        // R1: 1 would be "it is not there".
        assert!(
            command[0] != "wal-fetch" || output.status.code() != Some(1),
            "{message}"
        );
        assert!(
            message.contains("certificate") && message.contains("SSL_CERT_FILE"),
            "{message}"
        );
    }
}
