//! Values in PostgreSQL's configuration files (`GUC_scanstr` of guc-file.l): between quotes, with quotes and backslashes
//! doubled, and in octal what cannot stand in a line of text.

/// The value as a quoted string: one line of text, which PostgreSQL reads back byte for byte.
pub fn quoted(value: &[u8]) -> String {
    let mut text = String::from("'");
    for chunk in value.utf8_chunks() {
        text.extend(chunk.valid().chars().map(escaped));
        text.extend(chunk.invalid().iter().map(|byte| octal(*byte)));
    }
    text + "'"
}

fn escaped(c: char) -> String {
    match c {
        '\'' | '\\' => format!("{c}{c}"),
        '\0'..=' ' if c != ' ' => octal(c as u8),
        '\x7F' => octal(c as u8),
        _ => c.to_string(),
    }
}

fn octal(byte: u8) -> String {
    format!(r"\{byte:03o}")
}

/// Name of the setting in a line of a configuration file, in lower case; `None` for comments and empty lines.
pub fn name(line: &str) -> Option<String> {
    let line = line.trim_start();
    let letters = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.');
    let end = line.find(letters).unwrap_or(line.len());
    (end > 0).then(|| line[..end].to_ascii_lowercase())
}

/// Name, in lower case, and value of the setting in a line of a configuration file, as the server reads them.
pub fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value, _) = split(line)?;
    Some((name, value))
}

/// The same of a line on which nothing else stands; `None` also if a quote is open.
pub fn sole_assignment(line: &str) -> Option<(String, String)> {
    let (name, value, rest) = split(line)?;
    let rest = rest?.trim_start();
    (rest.is_empty() || rest.starts_with('#')).then_some((name, value))
}

/// Name, value, and what stands behind; `None` for that: the quote is open.
fn split(line: &str) -> Option<(String, String, Option<&str>)> {
    let name = name(line)?;
    let rest = line.trim_start()[name.len()..].trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let (value, rest) = match rest.strip_prefix('\'') {
        Some(quoted) => unquoted(quoted),
        None => {
            let ends = |c: char| c.is_whitespace() || c == '#';
            let (value, rest) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
            (value.to_owned(), Some(rest))
        }
    };
    Some((name, value, rest))
}

/// What stands before the closing quote, and behind it. Octal characters, which are of no concern to who reads settings, stay as
/// written.
fn unquoted(text: &str) -> (String, Option<&str>) {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => match chars.as_str().strip_prefix('\'') {
                Some(rest) => {
                    value.push('\'');
                    chars = rest.chars();
                }
                None => return (value, Some(chars.as_str())),
            },
            '\\' => value.extend(chars.next().map(|c| match c {
                'n' => '\n',
                't' => '\t',
                other => other,
            })),
            other => value.push(other),
        }
    }
    (value, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_one_line() {
        assert_eq!(quoted(b"plain"), "'plain'");
        assert_eq!(quoted(b"it's a \\"), r"'it''s a \\'");
        assert_eq!(quoted(b"two\nlines\xFF"), r"'two\012lines\377'");
    }

    #[test]
    fn names_are_found() {
        assert_eq!(name("  Restore_Command='x'"), Some("restore_command".into()));
        assert_eq!(
            name("recovery_target_time = ''"),
            Some("recovery_target_time".into())
        );
        assert_eq!(name("# restore_command"), None);
        assert_eq!(name(""), None);
    }

    #[test]
    fn values_are_read_as_the_server_reads_them() {
        let of = |line: &str| assignment(line).map(|(name, value)| format!("{name}: {value}"));
        for (line, expected) in [
            ("Port=5433 # of the copy", "port: 5433"),
            ("  port 5433", "port: 5433"),
            ("a = 'it''s \\\\ # here' # not here", "a: it's \\ # here"),
            ("include 'x.conf'", "include: x.conf"),
            ("a", "a: "),
            ("a = ''", "a: "),
            ("a='open", "a: open"),
        ] {
            assert_eq!(of(line).as_deref(), Some(expected), "{line}");
        }
        assert_eq!(
            of(&format!("x = {}", quoted(b"it's \\"))).as_deref(),
            Some("x: it's \\")
        );
        assert_eq!(of("# a = b"), None);
    }
}
