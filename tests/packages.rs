//! What a package is made of beside the binary: manual pages, completions, the example of a configuration.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::common::copiers::cached_program;
use super::common::user::{User, succeeds};
use super::common::walfs::{BINARY, walfs};
use super::common::world::{World, helper};

/// The commands that `walfs --help` lists.
fn commands(world: &World) -> BTreeSet<String> {
    let help = succeeds(walfs(world, &User::caller()).arg("-h"));
    let (_, below) = help.split_once("Commands:\n").expect("commands");
    let lines = below.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names = names.filter(|name| !name.is_empty() && *name != "help");
    names.map(str::to_owned).collect()
}

#[test]
fn each_command_has_a_manual_page_that_man_shows() {
    let world = World::new("man");
    let pages = world.path().join("pages");
    fs::create_dir(&pages).expect("make a directory");
    // A page that is a link, to what is not to be written.
    let kept = world.owned_file("kept", b"kept");
    symlink(&kept, pages.join("walfs.1")).expect("make a link");
    succeeds(walfs(&world, &User::caller()).arg("man").arg(&pages));
    assert_eq!(fs::read(&kept).expect("read"), b"kept");

    let commands = commands(&world);
    assert!(
        commands.contains("prune") && commands.contains("completions"),
        "{commands:?}"
    );
    for command in &commands {
        let page = pages.join(format!("walfs-{command}.1"));
        assert!(page.exists(), "{} is missing", page.display());
    }
    for hidden in ["man", "mount-helper", "help"] {
        assert!(!pages.join(format!("walfs-{hidden}.1")).exists());
    }
    for page in fs::read_dir(&pages)
        .expect("list")
        .map(|page| page.expect("a page").path())
    {
        let mut man = User::caller().command("man");
        man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page);
        let shown = succeeds(&mut man);
        let name = page
            .file_stem()
            .expect("a name")
            .to_str()
            .expect("text")
            .to_owned();
        for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", &name] {
            assert!(shown.contains(part), "no {part} in {name}: {shown}");
        }
    }
    let prune = succeeds(
        User::caller()
            .command("man")
            .arg("-l")
            .arg(pages.join("walfs-prune.1")),
    );
    assert!(
        prune.contains("--keep-last") && prune.contains("WALFS_PRUNE_KEEP_LAST"),
        "{prune}"
    );

    let nowhere = walfs(&world, &User::caller())
        .arg("man")
        .arg(world.path().join("nowhere"))
        .output();
    assert_eq!(nowhere.expect("run walfs").status.code(), Some(1));
}

#[test]
fn bash_completes_commands_and_options() {
    let world = World::new("complete");
    let program = world.public_program(Path::new(BINARY));
    let directory = program.parent().expect("a directory");
    // What bash does at TAB: it calls the function with the words, and takes COMPREPLY.
    let completed = |words: &[&str]| {
        let script = r#"PATH="$1:$PATH"; shift; . <(walfs completions bash)
            complete -p walfs >/dev/null || exit
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _walfs walfs "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[@]}""#;
        let mut bash = User::caller().command("bash");
        bash.args(["--norc", "-c", script, "bash"])
            .arg(directory)
            .args(words);
        succeeds(&mut bash).trim().to_owned()
    };
    assert_eq!(completed(&["walfs", "pru"]), "prune");
    assert_eq!(completed(&["walfs", "prune", "--keep-la"]), "--keep-last");
    assert_eq!(completed(&["walfs", "config", "sh"]), "show");
    let all = completed(&["walfs", ""]);
    let offered: BTreeSet<&str> = all.split(' ').collect();
    assert!(
        commands(&world)
            .iter()
            .all(|command| offered.contains(command.as_str())),
        "{all}"
    );
    assert!(
        !offered.contains("mount-helper") && !offered.contains("man"),
        "{all}"
    );
}

#[test]
fn completions_are_there_for_four_shells_and_no_other() {
    let world = World::new("shells");
    for (shell, word) in [
        ("bash", "complete -F _walfs"),
        ("zsh", "#compdef walfs"),
        ("fish", "complete -c walfs"),
        ("elvish", "edit:completion"),
    ] {
        let script = succeeds(walfs(&world, &User::caller()).args(["completions", shell]));
        assert!(
            script.contains(word) && script.contains("keep-last"),
            "{shell}: {script}"
        );
    }
    let other = walfs(&world, &User::caller())
        .args(["completions", "tcsh"])
        .output();
    assert_eq!(other.expect("run walfs").status.code(), Some(2));
}

#[test]
fn example_of_a_configuration_is_right() {
    let world = World::new("example");
    let example = fs::read_to_string(helper("main.toml")).expect("read the example");
    // What is commented out, too: the settings have the names that walfs knows.
    let all = example.replace("\n#credentials", "\ncredentials");
    let all = all
        .replace("\n#region", "\nregion")
        .replace("\n#endpoint", "\nendpoint");
    assert_ne!(all, example);
    for content in [&example, &all] {
        let file = world.owned_file("main.toml", content.as_bytes());
        let mut check = walfs(&world, &User::postgres());
        check.arg("--config").arg(&file);
        succeeds(check.args(["config", "check"]));
    }
}

/// What stands in a manifest is a configuration, and the archive command is the one that walfs prints.
#[test]
fn manifest_of_the_agent_has_a_configuration_and_a_command_of_walfs() {
    let world = World::new("manifest-agent");
    let manifest = fs::read_to_string(helper("kubernetes/agent.yaml")).expect("read");
    let (_, below) = manifest.split_once("main.toml: |\n").expect("a configuration");
    let (configuration, _) = below.split_once("---").expect("another document");
    let configuration = configuration.replace("\n    ", "\n");
    // With what is commented out, too.
    let all = configuration
        .replace("#start", "start")
        .replace("#restore", "restore");
    let file = world.owned_file("main.toml", all.trim().as_bytes());
    let mut show = walfs(&world, &User::caller());
    let shown = succeeds(show.arg("--config").arg(&file).args(["config", "show"]));
    assert!(
        shown.contains("schedule-backup")
            && shown.contains("127.0.0.1:5000")
            && shown.contains("restore-first"),
        "{shown}"
    );
    let mut print = walfs(&world, &User::caller());
    let printed = succeeds(print.args(["postgres-config", "--http", "http://127.0.0.1:5000"]));
    let line = printed
        .lines()
        .find_map(|line| line.strip_prefix("archive_command = '"));
    let command = line
        .expect("a command")
        .trim_end_matches('\'')
        .replace("$(", "$$(");
    assert!(
        manifest.contains(&format!("- archive_command={command}\n")),
        "{command}"
    );
}

/// A program of the Python environment in the cache.
fn checker(name: &str) -> Command {
    User::caller().command(cached_program(&format!("schemas/bin/{name}")))
}

/// No cluster and no Docker is needed: names and types are those of the schemas.
#[test]
fn manifests_of_kubernetes_and_of_compose_keep_to_their_schemas() {
    let manifests = fs::read_dir(helper("kubernetes")).expect("list the manifests");
    for manifest in manifests.map(|entry| entry.expect("a manifest").path()) {
        // The oldest version that has sidecars without being asked to, and the newest one known.
        for version in ["1.29", "1.37"] {
            let mut validate = checker("kubernetes-validate");
            validate
                .args(["--quiet", "--strict", "-k", version])
                .arg(&manifest);
            assert_eq!(succeeds(&mut validate), "");
        }
        let world = World::new("manifest");
        let wrong = fs::read_to_string(&manifest)
            .expect("read")
            .replace("serviceName", "servicename");
        let wrong = world.owned_file("wrong.yaml", wrong.as_bytes());
        let output = checker("kubernetes-validate")
            .args(["--quiet", "--strict"])
            .arg(wrong)
            .output();
        assert!(!output.expect("run kubernetes-validate").status.success());
    }
    for file in ["compose.yaml", "sidecar.yaml"] {
        let mut validate = checker("check-jsonschema");
        validate.args(["-q", "--builtin-schema", "vendor.compose-spec"]);
        assert_eq!(succeeds(validate.arg(helper("docker").join(file))), "");
    }
    // With what is commented out for a restore.
    let manifest = fs::read_to_string(helper("kubernetes/agent.yaml")).expect("read");
    let probed = manifest.replace("#startupProbe", "startupProbe");
    assert_ne!(probed, manifest);
    let world = World::new("probed");
    let probed = world.owned_file("agent.yaml", probed.as_bytes());
    let mut validate = checker("kubernetes-validate");
    validate.args(["--quiet", "--strict", "-k", "1.29"]).arg(probed);
    assert_eq!(succeeds(&mut validate), "");
}

#[test]
fn dockerfile_is_one_without_known_mistakes() {
    // All but one: of a version that is named here Debian has a later one soon, and only that.
    let mut hadolint = checker("hadolint");
    hadolint.args(["--no-color", "--ignore", "DL3008"]);
    assert_eq!(succeeds(hadolint.arg(helper("docker/Dockerfile"))), "");
}
