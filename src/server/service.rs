//! Services: connection parameters under a name, in `pg_service.conf` (`parseServiceInfo` of `fe-connect.c`).
//!
//! ```text
//! # comment
//! [main]
//! host=/var/run/postgresql
//! port=5433
//! ```
//! The file is the one that PGSERVICEFILE names, or `~/.pg_service.conf`; what is not in it is looked for in the system's,
//! in the directory that PGSYSCONFDIR names or where distributions have it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Error;
use super::parameters::Parameters;

/// Where distributions have libpq look (`pg_config --sysconfdir`).
const SYSTEM_DIRECTORIES: [&str; 3] = [
    "/etc/postgresql-common",
    "/etc/sysconfig/pgsql",
    "/usr/local/pgsql/etc",
];

/// A file that is longer is none.
const MOST_BYTES: u64 = 1 << 20;

/// Sets what is not set yet from the service of this name.
///
/// # Errors
/// [`Error::Settings`]: there is none, or its definition is wrong.
pub(super) fn add(
    parameters: &mut Parameters,
    name: &str,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<(), Error> {
    let named = parameters
        .get("servicefile")
        .map(str::to_owned)
        .or_else(|| env("PGSERVICEFILE"));
    let own = named
        .clone()
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env("HOME")?).join(".pg_service.conf")));
    let directories = env("PGSYSCONFDIR").map_or_else(
        || SYSTEM_DIRECTORIES.map(PathBuf::from).to_vec(),
        |directory| vec![PathBuf::from(directory)],
    );
    let system = directories
        .iter()
        .map(|directory| directory.join("pg_service.conf"));
    let files: Vec<PathBuf> = own.into_iter().chain(system).collect();
    for (number, file) in files.iter().enumerate() {
        let text = match text(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && (number > 0 || named.is_none()) => {
                continue;
            }
            Err(error) => return Err(wrong(file, &error.to_string())),
        };
        let found = find(&text, name).map_err(|reason| wrong(file, &reason))?;
        if let Some(lines) = found {
            let from = format!("the service {name} in {}", file.display());
            let mut add = |(name, value): &(&str, &str)| parameters.add(name, value, &from);
            return lines.iter().try_for_each(&mut add);
        }
    }
    let looked: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Err(Error::Settings {
        reason: format!("there is no service {name:?} in {}", looked.join(", ")),
    })
}

fn text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn wrong(file: &Path, reason: &str) -> Error {
    Error::Settings {
        reason: format!("the service file {} cannot be used: {reason}", file.display()),
    }
}

/// The parameters of the section of this name, if it is there.
fn find<'a>(text: &'a str, name: &str) -> Result<Option<Vec<(&'a str, &'a str)>>, String> {
    let mut found: Option<Vec<_>> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            found = (section.strip_suffix(']') == Some(name)).then(Vec::new);
        } else if let Some(parameters) = &mut found {
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| format!("line {number} has no \"=\""))?;
            if name == "service" || name == "servicefile" || line.starts_with("ldap") {
                return Err(format!(
                    "line {number} leads to another place, which is not followed"
                ));
            }
            parameters.push((name, value));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_section_is_read_to_its_end() {
        let text = "# a\n[one]\nhost=a\n\n  port=5\n# x=y\n[two]\nhost=b\nuser=c=d\n[one]\nhost=late";
        assert_eq!(find(text, "one"), Ok(Some(vec![("host", "a"), ("port", "5")])));
        assert_eq!(find(text, "two"), Ok(Some(vec![("host", "b"), ("user", "c=d")])));
        assert_eq!(find(text, "three"), Ok(None));
        for wrong in ["[a]\nhost", "[a]\nservice=b", "[a]\nldap://x/y=z"] {
            assert!(find(wrong, "a").is_err(), "{wrong}");
        }
        // What is wrong elsewhere is not looked at.
        assert_eq!(
            find("[b]\nnonsense\n[a]\nhost=x", "a"),
            Ok(Some(vec![("host", "x")]))
        );
    }

    #[test]
    fn ones_own_file_comes_before_the_systems() {
        let root = tempfile::tempdir().unwrap();
        let (own, system) = (root.path().join("own"), root.path().join("pg_service.conf"));
        fs::write(&own, "[both]\nhost=own\n").unwrap();
        fs::write(
            &system,
            "[both]\nhost=system\n[one]\nhost=one\nsurprise=1\n[two]\nhost=two\n",
        )
        .unwrap();
        let environment = |file: PathBuf| {
            let directory = root.path().display().to_string();
            move |name: &str| match name {
                "PGSERVICEFILE" => Some(file.display().to_string()),
                "PGSYSCONFDIR" => Some(directory.clone()),
                _ => None,
            }
        };
        let host = |name: &str, file: &Path| {
            let mut parameters = Parameters::default();
            add(&mut parameters, name, &environment(file.to_owned()))?;
            Ok::<_, Error>(parameters.get("host").map(str::to_owned))
        };
        assert_eq!(host("both", &own).unwrap().as_deref(), Some("own"));
        assert_eq!(host("two", &own).unwrap().as_deref(), Some("two"));
        for (name, file, expected) in [
            ("three", &own, "no service \"three\""),
            ("one", &own, "\"surprise\""),
            ("two", &root.path().join("gone"), "gone"),
        ] {
            let error = host(name, file).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
