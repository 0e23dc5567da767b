//! Connection strings: `name=value` pairs and URIs, as libpq reads them (`conninfo_parse` and `conninfo_uri_parse_options` of
//! `fe-connect.c`).

/// Is it a connection string, and not the name of a database (`recognized_connection_string`)?
pub(super) fn is_conninfo(text: &str) -> bool {
    uri_rest(text).is_some() || text.contains('=')
}

/// Its parameters, in their order; the text of what is wrong with it otherwise, without its values.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    match uri_rest(text) {
        Some(rest) => uri(rest),
        None => pairs(text),
    }
}

fn uri_rest(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"))
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("a name has no \"=\" behind it")?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("{name:?} has no \"=\" behind it"));
        }
        let (value, after) = value(after.trim_start()).ok_or("a quoted value does not end")?;
        found.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(found)
}

/// A value, quoted or not, and what is behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut letters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            letter if !quoted && letter.is_whitespace() => return Some((value, &text[at..])),
            letter => value.push(letter),
        }
    }
    (!quoted).then_some((value, ""))
}

fn uri(rest: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let (place, query) = rest
        .split_once('?')
        .map_or((rest, None), |(place, query)| (place, Some(query)));
    let (authority, database) = place.split_once('/').map_or((place, ""), |split| split);
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |split| split);
    let (user, password) = user.split_once(':').map_or((user, ""), |split| split);
    let (hosts, ports): (Vec<_>, Vec<_>) = hosts.split(',').map(host_and_port).unzip();
    let listed = |list: &[&str]| match list.iter().all(|one| one.is_empty()) {
        true => String::new(),
        false => list.join(","),
    };
    let (hosts, ports) = (listed(&hosts), listed(&ports));
    let of_place = [
        ("user", user),
        ("password", password),
        ("host", &hosts),
        ("port", &ports),
        ("dbname", database),
    ];
    for (name, value) in of_place.into_iter().filter(|(_, value)| !value.is_empty()) {
        found.push((name.to_owned(), decoded(value)?));
    }
    for pair in query.into_iter().flat_map(|query| query.split('&')) {
        let (name, value) = pair
            .split_once('=')
            .ok_or("a parameter of the URI has no \"=\" behind its name")?;
        match (name, value) {
            // As a driver for Java writes it.
            ("ssl", "true") => found.push(("sslmode".to_owned(), "require".to_owned())),
            _ => found.push((decoded(name)?, decoded(value)?)),
        }
    }
    Ok(found)
}

/// `host:port`, where the host may be an address of IPv6 in brackets.
fn host_and_port(text: &str) -> (&str, &str) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return (host, rest.strip_prefix(':').unwrap_or_default());
    }
    text.split_once(':').map_or((text, ""), |split| split)
}

fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(
            byte.filter(|byte| *byte != 0)
                .ok_or("a \"%\" has no two digits behind it")?,
        );
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(text: &str, expected: &[(&str, &str)]) {
        let found = parse(text).unwrap();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn pairs_are_read() {
        reads("", &[]);
        reads(" host = a  port=5 ", &[("host", "a"), ("port", "5")]);
        reads(
            r"options='-c x=\'y z\'' user=a\ b",
            &[("options", "-c x='y z'"), ("user", "a b")],
        );
        reads("host='' dbname=ü", &[("host", ""), ("dbname", "ü")]);
        for wrong in ["host", "host=a port", "host='a", "a b=c", "=x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn uris_are_read() {
        reads("postgresql://", &[]);
        reads(
            "postgres://me:s%40y@[::1]:5433,other/my%20db?sslmode=disable&options=-c%20a%3Db",
            &[
                ("user", "me"),
                ("password", "s@y"),
                ("host", "::1,other"),
                ("port", "5433,"),
                ("dbname", "my db"),
                ("sslmode", "disable"),
                ("options", "-c a=b"),
            ],
        );
        reads(
            "postgresql:///db?host=/run&ssl=true",
            &[("dbname", "db"), ("host", "/run"), ("sslmode", "require")],
        );
        for wrong in ["postgresql://a?b", "postgresql://%zz/", "postgresql://%0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(is_conninfo("a=b") && is_conninfo("postgres://x") && !is_conninfo("database"));
    }
}
