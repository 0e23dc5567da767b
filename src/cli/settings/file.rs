//! The configuration file: TOML, of which each value is the text of one option.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ALIKE, Error, reference};

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The setting; of one below `[section]`, with the section before it.
    pub(super) name: String,
    /// Its value as the command line takes it.
    pub(super) value: String,
    /// The line, from 1.
    pub(super) line: usize,
}

/// Reads a file.
///
/// # Errors
/// [`Error::Read`], [`Error::Line`].
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, Error> {
    let content = reference::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&content).map_err(|(line, reason)| Error::Line {
        path: path.to_owned(),
        line,
        reason,
    })
}

/// The entries; or the line that is wrong, and why.
fn parse(content: &str) -> Result<Vec<Entry>, (usize, String)> {
    let line = |at: usize| content[..at].bytes().filter(|byte| *byte == b'\n').count() + 1;
    let table = DeTable::parse(content).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(content.len()));
        (line(at), error.message().to_owned())
    })?;
    let mut entries: Vec<Entry> = Vec::new();
    for (key, value) in table.get_ref() {
        let entry = |section: Option<&str>, key: &Spanned<_>, value: &Spanned<DeValue<'_>>| {
            let line = line(key.span().start);
            let key: &str = AsRef::<str>::as_ref(key.get_ref());
            let name = section.map_or_else(|| key.to_owned(), |section| format!("{section}-{key}"));
            match text(value.get_ref()) {
                Some(value) => Ok(Entry { name, value, line }),
                None => Err((
                    line,
                    format!("{name} has to be a text, a whole number, true or false"),
                )),
            }
        };
        match value.get_ref() {
            DeValue::Table(section) => {
                for (below, value) in section {
                    entries.push(entry(Some(AsRef::<str>::as_ref(key.get_ref())), below, value)?);
                }
            }
            _ => entries.push(entry(None, key, value)?),
        }
    }
    entries.sort_by_key(|entry| entry.line);
    for (index, entry) in entries.iter().enumerate() {
        if let Some(first) = entries[..index].iter().find(|first| first.name == entry.name) {
            let reason = format!("{} is set in line {} already", entry.name, first.line);
            return Err((entry.line, reason));
        }
    }
    Ok(entries)
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) if !text.contains(['\0', '\n']) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Boolean(answer) => Some(answer.to_string()),
        _ => None,
    }
}

impl Entry {
    /// Is there such a setting, and does it take this value?
    ///
    /// # Errors
    /// [`Error::Line`].
    pub(super) fn check(&self, path: &Path, known: &BTreeMap<String, Arg>) -> Result<(), Error> {
        let wrong = |reason| Error::Line {
            path: path.to_owned(),
            line: self.line,
            reason,
        };
        let Some(option) = known.get(&self.name) else {
            return Err(wrong(unknown(&self.name, known.keys())));
        };
        if let Some(value) = reference::resolve(&self.name, &self.value)? {
            // It may be a secret: it is not shown.
            let reason = || format!("{}: what is in {} cannot be its value", self.name, self.value);
            return refusal(option, &value).map_or(Ok(()), |_| Err(wrong(reason())));
        }
        refusal(option, &self.value).map_or(Ok(()), |reason| Err(wrong(format!("{}: {reason}", self.name))))
    }
}

/// The sentence on a name that no setting has.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let likeness = |known: &String| strsim::jaro_winkler(name, known);
    let written = name.replace('_', "-");
    let nearest = known.max_by(|one, other| {
        (**one == written)
            .cmp(&(**other == written))
            .then(likeness(one).total_cmp(&likeness(other)))
    });
    let hint = match nearest.filter(|nearest| likeness(nearest) > ALIKE) {
        Some(nearest) => format!("is it {nearest}?"),
        None => "`walfs config show` lists all settings".to_owned(),
    };
    format!("there is no setting {name:?}. HINT: {hint}")
}

/// Why the option does not take the value.
fn refusal(option: &Arg, value: &str) -> Option<String> {
    let alone = option.clone().required(false).global(false);
    let alone = alone
        .long("value")
        .short(None)
        .action(match option.get_action().takes_values() {
            true => option.get_action().clone(),
            false => clap::ArgAction::Set,
        });
    let parsed = Command::new("walfs")
        .no_binary_name(true)
        .disable_help_flag(true)
        .arg(alone)
        .try_get_matches_from([format!("--value={value}")]);
    let error = parsed.err()?;
    Some(match std::error::Error::source(&error) {
        Some(source) => source.to_string(),
        None => {
            let told = error.to_string();
            let first = told.split("\n\n").next().unwrap_or_default();
            let words = first.replace("error: ", "").replace(" for '--value <", " for <");
            words.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_may_stand_below_its_section() {
        let entries = parse("archive = 'x'\n[prune]\nkeep-last = 7\n\n[backup]\nfast = true\n").unwrap();
        let read: Vec<_> = entries
            .iter()
            .map(|entry| (entry.name.as_str(), entry.value.as_str(), entry.line))
            .collect();
        let expected = [
            ("archive", "x", 1),
            ("prune-keep-last", "7", 3),
            ("backup-fast", "true", 6),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_no_text_is_told_with_its_line() {
        for (content, line, word) in [
            ("a = 'x'\nb = [1]\n", 2, "b has to be"),
            ("\nb = 1.5", 2, "b has to be"),
            ("b = 2026-11-30", 1, "b has to be"),
            ("b = '''1\n2'''", 1, "b has to be"),
            ("a = 'x'\nb = ", 2, ""),
            ("prune-grace = '1m'\n[prune]\ngrace = '2m'", 3, "line 1 already"),
            ("[a.b]\nc = 1", 1, "a-b has to be"),
        ] {
            let (at, reason) = parse(content).unwrap_err();
            assert!(at == line && reason.contains(word), "{content:?}: {at}: {reason}");
        }
    }
}
