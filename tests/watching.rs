//! K7: what is told to who watches. Prometheus reads it, the rules and the dashboard name what is there, and the rules wake
//! somebody up when they should: asked of promtool, with what real processes tell.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use serde_json::{Value, json};

use super::common::basebackup::Site;
use super::common::copiers::cached_program;
use super::common::sidecar::Sidecar;
use super::common::user::{User, said, succeeds};
use super::common::wait;
use super::common::walfs::Mount;
use super::common::world::{World, helper};

mod table;

const RULES: &str = "prometheus-alerts.yml";

fn promtool() -> std::process::Command {
    User::caller().command(cached_program("promtool/bin/promtool"))
}

/// promtool reads it, and has nothing to find fault with.
#[track_caller]
fn assert_readable(text: &str) {
    let mut check = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run promtool");
    let mut input = check.stdin.take().expect("it is piped");
    std::io::Write::write_all(&mut input, text.as_bytes()).expect("tell it");
    drop(input);
    let checked = check.wait_with_output().expect("wait for promtool");
    assert!(
        checked.status.success() && checked.stderr.is_empty(),
        "{}\n{text}",
        said(&checked)
    );
}

/// A line of a text: name, labels without braces, value.
fn samples(text: &str) -> impl Iterator<Item = (&str, &str, f64)> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        (
            name,
            labels.trim_end_matches('}'),
            value.parse().expect("a number"),
        )
    })
}

/// The value of a series; `None`: there is none.
fn value(text: &str, series: &str) -> Option<f64> {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}');
    let mut all = samples(text);
    let found = all.find(|(known, of, _)| *known == name && *of == labels);
    found.map(|(_, _, value)| value)
}

/// The names of all series of a text.
fn names(text: &str) -> BTreeSet<String> {
    samples(text).map(|(name, ..)| name.to_owned()).collect()
}

/// Every `walfs_...` in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_of_name(character));
    let words = words.filter(|word| word.starts_with("walfs_"));
    words.map(str::to_owned).collect()
}

fn settings(site: &Site<'_>) -> [(&'static str, String); 4] {
    [
        ("WALFS_BACKUP_FAST", "true".into()),
        ("PGHOST", site.world.path().join("pg").display().to_string()),
        ("PGUSER", "postgres".into()),
        ("WALFS_SCHEDULE_RETRY", "1s".into()),
    ]
}

/// An agent beside the server that tells of its `pg_wal`.
#[track_caller]
fn beside(site: &Site<'_>, arguments: &[&str]) -> Sidecar {
    let pg_wal = site.server.data().join("pg_wal").display().to_string();
    let settings = settings(site);
    let settings: Vec<_> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let listening = ["--listen", "127.0.0.1:0", "--pg-wal", &pg_wal];
    Sidecar::start(site.world, &settings, &[&listening[..], arguments].concat())
}

/// A server that is well: it archives by HTTP, has a backup, and all was read back.
fn well<'a>(world: &'a World, arguments: &[&str]) -> (Site<'a>, Sidecar) {
    let site = Site::local(world);
    let sidecar = beside(&site, arguments);
    site.backup("monday");
    let command = format!("curl -sf -T \"%p\" {}/wal/%f", sidecar.url());
    site.server.archive_with(&command);
    site.server.reload();
    site.server.query("CREATE TABLE t (id int)");
    site.server.archive_all();
    assert!(site.walfs("verify").status().expect("run walfs").success());
    (site, sidecar)
}

/// The metrics, once they are so; each look is kept for a while.
#[track_caller]
fn metrics_when(sidecar: &Sidecar, what: &str, is_so: impl Fn(&str) -> bool) -> String {
    wait::until(what, || {
        Some(sidecar.gets("/metrics", 200)).filter(|text| is_so(text))
    })
}

/// Which alerts fire after so many minutes in which everything stays as it was scraped, but for the time at which metrics are
/// written, and what fails, which fails once more in each minute.
fn firing(world: &World, scraped: &str, minutes: u32, more: &[Value]) -> BTreeSet<String> {
    let rules = fs::read_to_string(helper(RULES)).expect("read the rules");
    let (wanted, now) = (named(&rules), jiff::Timestamp::now().as_second() as f64);
    let mut series: Vec<Value> = more.to_vec();
    for (name, labels, value) in samples(scraped).filter(|(name, ..)| wanted.contains(*name)) {
        let (begin, step) = match name {
            // The clock of promtool begins at 0.
            "walfs_metrics_timestamp_seconds" => (value - now, 120),
            "walfs_failed_files_total" if value > 0.0 => (value, 2),
            _ if name.ends_with("_timestamp_seconds") => (value - now, 0),
            _ => (value, 0),
        };
        let comma = if labels.is_empty() { "" } else { "," };
        series.push(json!({
            "series": format!("{name}{{job=\"walfs\",instance=\"here\"{comma}{labels}}}"),
            "values": format!("{begin}+{step}x{}", minutes / 2 + 1),
        }));
    }
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    // promtool tells whether what is expected came: of each alert, that it does not fire.
    let asked = alerts.iter().map(|alert| {
        json!({
            "expr": format!("ALERTS{{alertstate=\"firing\",alertname=\"{alert}\"}}"),
            "eval_time": format!("{minutes}m"),
            "exp_samples": [],
        })
    });
    let asked = json!({
        "rule_files": [helper(RULES)],
        "evaluation_interval": "2m",
        "tests": [{
            "interval": "2m",
            "input_series": series,
            "promql_expr_test": asked.collect::<Vec<_>>(),
        }],
    });
    let file = world.owned_file("asked.yml", asked.to_string().as_bytes());
    let answer = promtool().args(["test", "rules"]).arg(&file).output();
    let said = said(&answer.expect("run promtool"));
    assert!(said.contains("SUCCESS") || said.contains("got:"), "{said}");
    let fires = |alert: &&&str| {
        let name = format!("alertname=\"{alert}\"");
        said.lines()
            .any(|line| line.contains("got:") && line.contains(&name))
    };
    alerts
        .iter()
        .filter(fires)
        .map(|alert| (*alert).to_owned())
        .collect()
}

fn set(alerts: &[&str]) -> BTreeSet<String> {
    alerts.iter().map(|alert| (*alert).to_owned()).collect()
}

#[test]
fn k7_prometheus_reads_what_mount_agent_status_and_file_tell() {
    let world = World::new("metrics");
    let directory = world.owned_dir("textfile");
    let file = directory.join("walfs.prom");
    let path = file.to_str().expect("a path of text");
    let (site, sidecar) = well(&world, &["--metrics-file", path, "--schedule-verify", "24h"]);
    let last = site.server.switch_wal();
    site.server.wait_archived(&last);
    assert_eq!(sidecar.asks("GET", &format!("/wal/{last}"), &[], b"").0, 200);
    assert_eq!(sidecar.asks("PUT", &format!("/wal/{last}"), &[], b"x").0, 503);
    sidecar.gets("/nothing", 400);
    let told = metrics_when(&sidecar, "a verification", |text| {
        value(text, "walfs_verify_findings").is_some()
    });
    assert_readable(&told);
    let is = |series: &str| value(&told, series);
    assert_eq!(is("walfs_archive_readable"), Some(1.0), "{told}");
    assert!(is("walfs_archived_files_total") >= Some(2.0), "{told}");
    // Beside segments there may be small files.
    let archived = is("walfs_archived_bytes_total");
    assert!(archived >= Some(f64::from(2 << 20)), "{told}");
    assert_eq!(is("walfs_failed_files_total"), Some(1.0), "{told}");
    assert!(is("walfs_read_bytes_total") >= Some(f64::from(1 << 20)), "{told}");
    for (route, method, status) in [("/wal", "GET", 200), ("/wal", "PUT", 503), ("other", "GET", 400)] {
        let series =
            format!("walfs_http_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{status}\"}}");
        assert_eq!(is(&series), Some(1.0), "{series}: {told}");
    }
    for operation in ["put", "get", "list"] {
        let count = format!("walfs_store_request_duration_seconds_count{{operation=\"{operation}\"}}");
        assert!(is(&count) > Some(0.0), "{count}: {told}");
        assert!(
            told.contains(&format!(
                "walfs_store_request_duration_seconds_bucket{{operation=\"{operation}\",le=\"+Inf\"}}"
            )),
            "{told}"
        );
    }
    let age = is("walfs_recoverable_age_seconds{timeline=\"1\"}").expect("an age");
    assert!((0.0..120.0).contains(&age), "{told}");
    let version = format!("walfs_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(is(&version), Some(1.0), "{told}");
    // Prometheus gives these labels to what it reads.
    for (name, labels, _) in samples(&told) {
        let is_taken = |label: &str| labels.split(',').any(|of| of.starts_with(&format!("{label}=")));
        assert!(!is_taken("job") && !is_taken("instance"), "{name}{{{labels}}}");
    }
    // The file, which all may read; nothing lies beside it.
    let kept = fs::read_to_string(&file).expect("the file");
    assert_readable(&kept);
    assert_eq!(
        fs::metadata(&file).expect("the file").permissions().mode() & 0o7777,
        0o644
    );
    assert_eq!(fs::read_dir(&directory).expect("list").count(), 1);
    sidecar.stop();
    // The same names say the same in the mount, and by the command.
    let mount = Mount::local(&world);
    let in_mount = mount.told("metrics.prom");
    let printed = succeeds(site.walfs("status").arg("--metrics"));
    for text in [&in_mount, &printed] {
        assert_readable(text);
        assert!(value(text, "walfs_metrics_timestamp_seconds").is_some(), "{text}");
        let types = |text: &str| -> BTreeSet<String> {
            let lines = text.lines().filter(|line| line.starts_with("# "));
            lines.map(str::to_owned).collect()
        };
        let foreign: Vec<_> = types(text)
            .into_iter()
            .filter(|line| !types(&told).contains(line))
            .filter(|line| !line.contains(" walfs_open_writes "))
            .collect();
        assert_eq!(foreign, Vec::<String>::new());
    }
}

#[test]
fn k7_s6_metrics_are_written_whole_and_over_nothing_else() {
    let world = World::new("metrics-file");
    let site = Site::local(&world);
    site.backup("monday");
    let directory = world.owned_dir("textfile");
    let cache = world.owned_dir("cache");
    let write = |name: &str| {
        let mut status = site.walfs("status");
        status.env("XDG_CACHE_HOME", &cache);
        status.arg("--metrics-file").arg(directory.join(name));
        status.output().expect("run walfs")
    };
    let archive = world.archive();
    let file = directory.join("walfs.prom");
    for _ in 0..2 {
        let written = write("walfs.prom");
        assert!(written.status.success(), "{}", said(&written));
        let text = fs::read_to_string(&file).expect("the file");
        assert_readable(&text);
        assert_eq!(value(&text, "walfs_archive_readable"), Some(1.0), "{text}");
    }
    // What is not of metrics, and what is behind a link, stays.
    let kept = world.owned_file("kept", b"kept");
    fs::write(directory.join("notes"), "notes").expect("write");
    symlink(&kept, directory.join("link")).expect("make a link");
    symlink(&file, directory.join("to-metrics")).expect("make a link");
    for name in ["notes", "link", "to-metrics", "."] {
        let refused = write(name);
        assert_eq!(refused.status.code(), Some(1), "{name}: {}", said(&refused));
        assert!(said(&refused).contains("textfile"), "{}", said(&refused));
    }
    assert_eq!(fs::read(&kept).expect("read"), b"kept");
    assert_eq!(
        fs::read_to_string(directory.join("notes")).expect("read"),
        "notes"
    );
    assert_eq!(fs::read_dir(&directory).expect("list").count(), 4);
    // With the archive away that is what is told.
    let away = site.world.path().join("away");
    fs::rename(&archive, &away).expect("take it away");
    let told = write("walfs.prom");
    assert_eq!(told.status.code(), Some(1), "{}", said(&told));
    let text = fs::read_to_string(&file).expect("the file");
    assert_eq!(value(&text, "walfs_archive_readable"), Some(0.0), "{text}");
    assert_readable(&text);
}

#[test]
fn k7_alerts_fire_when_they_should_and_name_what_there_is() {
    let world = World::new("alerts");
    let rules = fs::read_to_string(helper(RULES)).expect("read the rules");
    succeeds(promtool().args(["check", "rules"]).arg(helper(RULES)));
    let (site, sidecar) = well(&world, &["--schedule-verify", "2s"]);
    let healthy = metrics_when(&sidecar, "nothing to wait", |text| {
        value(text, "walfs_pg_wal_waiting_files") == Some(0.0)
            && value(text, "walfs_verify_findings") == Some(0.0)
            && value(text, "walfs_job_last_duration_seconds{command=\"verify\"}").is_some()
    });
    assert_eq!(firing(&world, &healthy, 40, &[]), set(&[]));
    let old = ["WalfsBackupOld", "WalfsRecoverableOld"];
    assert_eq!(firing(&world, &healthy, 27 * 60, &[]), set(&old));
    let older = ["WalfsBackupOld", "WalfsRecoverableOld", "WalfsVerificationOld"];
    assert_eq!(firing(&world, &healthy, 9 * 24 * 60, &[]), set(&older));
    let down = json!({"series": "up{job=\"walfs\",instance=\"here\"}", "values": "0+0x30"});
    assert_eq!(firing(&world, "", 30, &[down]), set(&["WalfsDown"]));
    let dead = healthy.replace("walfs_metrics_timestamp_seconds", "walfs_start_timestamp_seconds");
    let stale = json!({
        "series": "walfs_metrics_timestamp_seconds{job=\"walfs\",instance=\"here\"}",
        "values": "0+0x30",
    });
    assert_eq!(firing(&world, &dead, 30, &[stale]), set(&["WalfsMetricsOld"]));
    sidecar.stop();

    // Archiving fails, and WAL comes on; a job fails; an object is damaged, and found.
    let hook = ["--schedule-backup", "10s", "--hook-before", "exit 1"];
    let sidecar = beside(&site, &hook);
    let object = fs::read_dir(world.archive().join("wal"))
        .expect("list")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "lz4"))
        .min()
        .expect("a segment");
    let mut content = fs::read(&object).expect("read it");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&object, content).expect("damage it");
    let found = site.walfs("verify").output().expect("run walfs");
    assert_eq!(found.status.code(), Some(1), "{}", said(&found));
    site.server.archive_with("false");
    site.server.reload();
    let many = "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1 << 19))) FROM generate_series(1, 256)";
    site.server.query(many);
    let bad = metrics_when(&sidecar, "all that is wrong", |text| {
        value(text, "walfs_pg_wal_waiting_files") > Some(64.0)
            && value(text, "walfs_pg_wal_full_in_seconds").is_some()
            && value(text, "walfs_verify_findings") > Some(0.0)
            && value(text, "walfs_job_failed_tries{command=\"backup\"}") > Some(0.0)
    });
    assert_readable(&bad);
    let expected = [
        "WalfsArchivingStands",
        "WalfsDamaged",
        "WalfsJobFails",
        "WalfsPgWalDiskFills",
        "WalfsTroubles",
    ];
    assert_eq!(firing(&world, &bad, 40, &[]), set(&expected), "{bad}");
    // What is brought and refused, again and again.
    for _ in 0..2 {
        sidecar.asks("PUT", "/wal/000000010000000000000099", &[], b"x");
    }
    let refused = metrics_when(&sidecar, "refusals", |text| {
        value(text, "walfs_failed_files_total") == Some(2.0)
    });
    let fired = firing(&world, &refused, 40, &[]);
    assert!(fired.contains("WalfsArchivingFails"), "{fired:?}");
    sidecar.stop();

    // Rules, dashboard and the table name nothing that does not exist.
    succeeds(site.walfs("files").arg("etc").arg(world.owned_dir("etc")));
    let mount = Mount::local(&world);
    let texts = [bad, healthy, mount.told("metrics.prom")];
    let told: BTreeSet<String> = texts.iter().flat_map(|text| names(text)).collect();
    let table = fs::read_to_string(helper("README.md")).expect("read the table");
    let listed: BTreeSet<String> = table
        .lines()
        .filter(|line| line.starts_with("| `walfs_"))
        .flat_map(|line| named(line.split(" | ").next().expect("names")))
        .collect();
    let types: BTreeSet<String> = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, types);
    let missing = |wanted: BTreeSet<String>| -> Vec<String> {
        wanted.into_iter().filter(|name| !told.contains(name)).collect()
    };
    assert_eq!(missing(named(&rules)), Vec::<String>::new());
    let dashboard = fs::read_to_string(helper("grafana-dashboard.json")).expect("read the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("queries"));
    let queries: Vec<&str> = queries
        .map(|query| query["expr"].as_str().expect("a query"))
        .collect();
    assert!(queries.len() > 20);
    assert_eq!(missing(named(&queries.join("\n"))), Vec::<String>::new());
    // Each is a query that Prometheus understands: as a rule, promtool reads it.
    let recorded: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| {
            let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
            json!({"record": format!("query_{number}"), "expr": query})
        })
        .collect();
    let recorded = json!({"groups": [{"name": "dashboard", "rules": recorded}]});
    let file = world.owned_file("dashboard.yml", recorded.to_string().as_bytes());
    succeeds(promtool().args(["check", "rules"]).arg(&file));
}
