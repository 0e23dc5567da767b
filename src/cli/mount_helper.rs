//! What mount(8) says to the helper of a file system type, turned into arguments of `walfs mount`.
//!
//! The contract is util-linux's: `mount.walfs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`, and an exit code
//! of 0 only once the directory is mounted. Pure text: nothing is opened, looked up or mounted here.

use std::ffi::{OsStr, OsString};

/// Exit code: called in a wrong way, or not permitted.
pub const EXIT_USAGE: u8 = 1;

/// Exit code: the system failed (no memory, no fork).
pub const EXIT_SYSTEM: u8 = 2;

/// Exit code: the mount failed.
pub const EXIT_MOUNT: u8 = 32;

/// Options for mount(8), systemd or the kernel, which say nothing to walfs. Its mounts are always `nosuid`, `nodev`
/// and `noatime`.
const DROPPED: [&str; 21] = [
    "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "rw", "exec",
    "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "relatime", "async", "defaults",
];

/// Options without a value, and the flags of `walfs mount` they become.
const FLAGS: [(&str, &str); 4] = [
    ("create", "--create"),
    ("allow_other", "--allow-other"),
    ("ro", "--read-only"),
    ("path_style", "--path-style=always"),
];

/// Options with a value, and the flags of `walfs mount` they become.
const VALUES: [(&str, &str); 17] = [
    ("user", "--user"),
    ("setuid", "--user"),
    ("deadline", "--deadline"),
    ("read_deadline", "--read-deadline"),
    ("endpoint", "--endpoint"),
    ("region", "--region"),
    ("path_style", "--path-style"),
    ("profile", "--profile"),
    ("credentials_file", "--credentials-file"),
    ("cache_dir", "--cache-dir"),
    ("memory", "--memory"),
    ("cache_size", "--cache-size"),
    ("staging_dir", "--staging-dir"),
    ("staging_space", "--staging-space"),
    ("quiet_after", "--quiet-after"),
    ("compression", "--compression"),
    ("log_file", "--log-file"),
];

/// What mount(8) asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HelperCall {
    /// The archive.
    pub archive: OsString,
    /// Where to mount it.
    pub mountpoint: OsString,
    /// `-f`: do everything but mount.
    pub fake: bool,
    /// `-s`: unknown options are no error.
    pub sloppy: bool,
    /// `-v`: say more.
    pub verbose: bool,
    /// Flags for `walfs mount`, each with its value in one word, without archive and mount point.
    pub arguments: Vec<String>,
}

/// Why the call cannot be understood. All of them end with [`EXIT_USAGE`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Archive or mount point is missing, or there is a third word.
    #[error(
        "expected an archive and a mount point, found {found} words. HINT: mount -t walfs ARCHIVE MOUNTPOINT"
    )]
    Words {
        /// How many there were.
        found: usize,
    },
    /// A letter that the contract does not know, or one without its value.
    #[error("unknown or incomplete option {option:?}")]
    Letter {
        /// As it was typed.
        option: String,
    },
    /// Mounting in another namespace would have to happen here; it does not.
    #[error("-N is not supported. HINT: nsenter --mount=NAMESPACE mount -t walfs ARCHIVE MOUNTPOINT")]
    Namespace,
    /// An option in `-o` that walfs does not know.
    #[error("unknown mount option {option:?}. HINT: walfs has {}", known_names())]
    Unknown {
        /// As it was typed.
        option: String,
    },
    /// An option in `-o` that needs a value, or has an empty one.
    #[error("mount option {option:?} needs a value: {option}=...")]
    NoValue {
        /// Its name.
        option: String,
    },
    /// A quote in `-o` that is not closed.
    #[error("a quote is not closed in the mount options {options:?}")]
    Quote {
        /// The whole list.
        options: String,
    },
    /// The options are no text.
    #[error("the mount options {options:?} are not UTF-8")]
    Text {
        /// The whole list.
        options: OsString,
    },
}

/// Every option that means something to walfs.
fn known_names() -> String {
    let values = VALUES.iter().map(|(name, _)| format!("{name}="));
    let flags = FLAGS.iter().map(|(name, _)| (*name).to_owned());
    flags.chain(values).collect::<Vec<_>>().join(", ")
}

/// Reads the arguments that follow the helper's name.
///
/// # Errors
/// The first thing that is wrong; unknown options only without `-s`, wherever that stands.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<HelperCall, Error> {
    let mut call = HelperCall::default();
    let mut words = Vec::new();
    let mut options = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.to_str().and_then(|text| text.strip_prefix('-')) {
            Some(letters) if !letters.is_empty() => {
                options.extend(read_letters(letters, &mut arguments, &mut call)?);
            }
            _ => words.push(argument),
        }
    }
    let found = words.len();
    let [archive, mountpoint] = <[OsString; 2]>::try_from(words).map_err(|_| Error::Words { found })?;
    (call.archive, call.mountpoint) = (archive, mountpoint);
    // Only now it is known whether `-s` was there.
    for option in options {
        call.arguments.extend(translate(&option, call.sloppy)?);
    }
    Ok(call)
}

/// Reads what follows one `-`: letters, of which the last may have a value, in the same word or in the next.
/// Gives the options of `-o`.
fn read_letters(
    letters: &str,
    more: &mut impl Iterator<Item = OsString>,
    call: &mut HelperCall,
) -> Result<Vec<String>, Error> {
    for (index, letter) in letters.char_indices() {
        let rest = &letters[index + letter.len_utf8()..];
        let incomplete = || Error::Letter {
            option: format!("-{letters}"),
        };
        match letter {
            's' => call.sloppy = true,
            'f' => call.fake = true,
            'v' => call.verbose = true,
            // There is no mtab any more.
            'n' => {}
            'N' => return Err(Error::Namespace),
            'o' | 't' => {
                let value = if rest.is_empty() {
                    more.next()
                } else {
                    Some(OsString::from(rest))
                };
                let value = value.ok_or_else(incomplete)?;
                return if letter == 'o' {
                    split(&value)
                } else {
                    Ok(Vec::new())
                };
            }
            _ => return Err(incomplete()),
        }
    }
    Ok(Vec::new())
}

/// Splits at commas. `\,` and `\\` stand for the letter itself, and so does a comma between double quotes.
fn split(list: &OsStr) -> Result<Vec<String>, Error> {
    let text = list.to_str().ok_or_else(|| Error::Text {
        options: list.to_owned(),
    })?;
    let mut options = vec![String::new()];
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let escaped = (letter == '\\')
            .then(|| letters.next_if(|next| matches!(next, ',' | '\\')))
            .flatten();
        match letter {
            ',' if !quoted => options.push(String::new()),
            '"' => quoted = !quoted,
            _ => options
                .last_mut()
                .expect("starts with one")
                .push(escaped.unwrap_or(letter)),
        }
    }
    if quoted {
        return Err(Error::Quote {
            options: text.to_owned(),
        });
    }
    Ok(options)
}

/// The flag for one option; `None` if it is not for walfs.
fn translate(option: &str, sloppy: bool) -> Result<Option<String>, Error> {
    let (name, value) = option
        .split_once('=')
        .map_or((option, None), |(name, value)| (name, Some(value)));
    let known =
        |table: &[(&str, &'static str)]| table.iter().find(|entry| entry.0 == name).map(|entry| entry.1);
    match value {
        _ if is_dropped(name, value) => Ok(None),
        Some("") => Err(Error::NoValue {
            option: name.to_owned(),
        }),
        Some(value) if known(&VALUES).is_some() => Ok(known(&VALUES).map(|flag| format!("{flag}={value}"))),
        None if known(&FLAGS).is_some() => Ok(known(&FLAGS).map(str::to_owned)),
        None if known(&VALUES).is_some() => Err(Error::NoValue {
            option: name.to_owned(),
        }),
        _ if sloppy => Ok(None),
        _ => Err(Error::Unknown {
            option: option.to_owned(),
        }),
    }
}

/// `user` alone is mount(8)'s, `user=NAME` is ours. `x-` and `X-` are anybody's but ours.
fn is_dropped(name: &str, value: Option<&str>) -> bool {
    let foreign = name.is_empty() || name.starts_with("x-") || name.starts_with("X-") || name == "comment";
    foreign || (value.is_none() && DROPPED.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<HelperCall, Error> {
        parse(words.iter().map(OsString::from))
    }

    fn arguments(options: &str) -> Result<Vec<String>, Error> {
        parsed(&["a", "/m", "-o", options]).map(|call| call.arguments)
    }

    #[test]
    fn call_as_mount_makes_it() {
        let call = parsed(&[
            "s3://bucket/prefix",
            "/mnt/walfs",
            "-sv",
            "-n",
            "-o",
            "rw,region=eu",
            "-t",
            "walfs",
        ]);
        let expected = HelperCall {
            archive: "s3://bucket/prefix".into(),
            mountpoint: "/mnt/walfs".into(),
            fake: false,
            sloppy: true,
            verbose: true,
            arguments: vec!["--region=eu".into()],
        };
        assert_eq!(call.unwrap(), expected);
    }

    #[test]
    fn order_and_spelling_do_not_matter() {
        let call = parsed(&["-fo", "ro", "a", "-oallow_other", "/m", "-twalfs"]).unwrap();
        assert!(call.fake && !call.sloppy);
        assert_eq!(call.arguments, ["--read-only", "--allow-other"]);
    }

    #[test]
    fn line_of_fstab() {
        let options = "noauto,_netdev,nofail,x-systemd.before=postgresql.service,comment=a b,user=postgres,deadline=40s";
        assert_eq!(arguments(options).unwrap(), ["--user=postgres", "--deadline=40s"]);
        assert_eq!(
            arguments("rw,user,nosuid,nodev,noatime,defaults").unwrap(),
            [""; 0]
        );
        assert_eq!(arguments("").unwrap(), [""; 0]);
    }

    #[test]
    fn every_option_has_its_flag() {
        for (name, flag) in VALUES {
            assert_eq!(arguments(&format!("{name}=v")).unwrap(), [format!("{flag}=v")]);
        }
        for (name, flag) in FLAGS {
            assert_eq!(arguments(name).unwrap(), [flag]);
        }
    }

    /// A flag of `walfs mount` that does not exist, or lacks its value, would be found out only by mounting.
    #[test]
    fn every_flag_is_one_of_walfs_mount() {
        use clap::CommandFactory;
        let command = super::super::Cli::command();
        let mount = command.find_subcommand("mount").unwrap();
        let takes_value = |long: &str| {
            let mut known = mount.get_arguments();
            let argument = known.find(|argument| argument.get_long() == long.strip_prefix("--"));
            argument
                .unwrap_or_else(|| panic!("no {long}"))
                .get_action()
                .takes_values()
        };
        for (_, flag) in VALUES {
            assert!(takes_value(flag), "{flag}");
        }
        for (_, flag) in FLAGS {
            let (long, value) = flag
                .split_once('=')
                .map_or((flag, None), |(long, value)| (long, Some(value)));
            assert_eq!(takes_value(long), value.is_some(), "{flag}");
        }
    }

    #[test]
    fn commas_backslashes_and_quotes() {
        assert_eq!(
            arguments(r"cache_dir=/a\,b\\c\d,ro").unwrap(),
            [r"--cache-dir=/a,b\c\d", "--read-only"]
        );
        assert_eq!(
            arguments(r#"cache_dir="/a,b",ro"#).unwrap(),
            ["--cache-dir=/a,b", "--read-only"]
        );
        assert!(matches!(
            arguments(r#"cache_dir="/a,b"#),
            Err(Error::Quote { .. })
        ));
        assert_eq!(
            arguments("endpoint=http://h:1/?a=b").unwrap(),
            ["--endpoint=http://h:1/?a=b"]
        );
    }

    /// A value cannot become a second argument, nor a flag.
    #[test]
    fn values_stay_values() {
        assert_eq!(
            arguments("region=--allow-other").unwrap(),
            ["--region=--allow-other"]
        );
    }

    #[test]
    fn unknown_options_are_errors_unless_sloppy() {
        assert_eq!(
            arguments("speed=11"),
            Err(Error::Unknown {
                option: "speed=11".into()
            })
        );
        assert_eq!(
            arguments("remount"),
            Err(Error::Unknown {
                option: "remount".into()
            })
        );
        assert_eq!(
            parsed(&["a", "/m", "-o", "remount,ro", "-s"]).unwrap().arguments,
            ["--read-only"]
        );
    }

    #[test]
    fn missing_values_are_errors() {
        assert_eq!(
            arguments("region"),
            Err(Error::NoValue {
                option: "region".into()
            })
        );
        assert_eq!(
            arguments("user="),
            Err(Error::NoValue {
                option: "user".into()
            })
        );
    }

    #[test]
    fn wrong_calls() {
        assert_eq!(parsed(&["a"]), Err(Error::Words { found: 1 }));
        assert_eq!(parsed(&["a", "/m", "c"]), Err(Error::Words { found: 3 }));
        assert_eq!(
            parsed(&["a", "/m", "-x"]),
            Err(Error::Letter { option: "-x".into() })
        );
        assert_eq!(
            parsed(&["a", "/m", "-o"]),
            Err(Error::Letter { option: "-o".into() })
        );
        assert_eq!(parsed(&["a", "/m", "-N", "7"]), Err(Error::Namespace));
    }
}
