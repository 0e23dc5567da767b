//! Every connection parameter of libpq (PostgreSQL 13 to 18: `PQconninfoOptions` of `fe-connect.c`), and what becomes of it
//! here. None is ignored that would lead elsewhere, or be less safe, than with PostgreSQL's own tools: it is obeyed, or
//! refused with a sentence, or it has no effect on what walfs asks.

use std::collections::BTreeMap;

use super::Error;

/// What becomes of a parameter.
#[derive(Debug, Clone, Copy)]
enum Use {
    /// It means what it means to libpq.
    Obeyed,
    /// It says how something is done that is not done here.
    NoEffect,
    /// Only these values are taken, for this reason.
    Only(&'static [&'static str], &'static str),
}

use Use::{NoEffect, Obeyed, Only};

const GSS: &str = "walfs does not speak GSSAPI";
const UNPROVED: &str = "walfs cannot check it";
const OAUTH: &str = "walfs does not speak OAuth";

/// Name, variable of the environment, what becomes of it.
const PARAMETERS: [(&str, &str, Use); 54] = [
    ("service", "PGSERVICE", Obeyed),
    ("host", "PGHOST", Obeyed),
    ("hostaddr", "PGHOSTADDR", Obeyed),
    ("port", "PGPORT", Obeyed),
    ("dbname", "PGDATABASE", Obeyed),
    ("user", "PGUSER", Obeyed),
    ("password", "PGPASSWORD", Obeyed),
    ("passfile", "PGPASSFILE", Obeyed),
    ("options", "PGOPTIONS", Obeyed),
    ("application_name", "PGAPPNAME", Obeyed),
    ("fallback_application_name", "", Obeyed),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Obeyed),
    ("keepalives", "", Obeyed),
    ("keepalives_idle", "", Obeyed),
    ("keepalives_interval", "", Obeyed),
    ("keepalives_count", "", Obeyed),
    ("tcp_user_timeout", "", Obeyed),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Obeyed),
    ("channel_binding", "PGCHANNELBINDING", Obeyed),
    (
        "target_session_attrs",
        "PGTARGETSESSIONATTRS",
        Only(&["any", "read-write", "read-only"], "walfs knows these only"),
    ),
    // With TLS or without: the mode is looked at where it is known whether the way is a Unix socket, which has none.
    ("sslmode", "PGSSLMODE", Obeyed),
    (
        "sslnegotiation",
        "PGSSLNEGOTIATION",
        Only(&["postgres", "direct"], "walfs knows these only"),
    ),
    (
        "sslcertmode",
        "PGSSLCERTMODE",
        Only(&["disable", "allow"], UNPROVED),
    ),
    ("sslcompression", "PGSSLCOMPRESSION", NoEffect),
    ("sslcert", "PGSSLCERT", Obeyed),
    ("sslkey", "PGSSLKEY", Obeyed),
    // A key that needs it is refused.
    ("sslpassword", "", NoEffect),
    ("sslrootcert", "PGSSLROOTCERT", Obeyed),
    ("sslcrl", "PGSSLCRL", Obeyed),
    ("sslcrldir", "PGSSLCRLDIR", Obeyed),
    ("sslsni", "PGSSLSNI", Obeyed),
    ("sslkeylogfile", "", NoEffect),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Obeyed),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Obeyed),
    ("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"], GSS)),
    ("krbsrvname", "PGKRBSRVNAME", NoEffect),
    ("gsslib", "PGGSSLIB", NoEffect),
    ("gssdelegation", "PGGSSDELEGATION", NoEffect),
    ("requirepeer", "PGREQUIREPEER", Only(&[], UNPROVED)),
    ("require_auth", "PGREQUIREAUTH", Only(&[], UNPROVED)),
    (
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        Only(&["3.0"], "walfs speaks protocol 3.0"),
    ),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION", NoEffect),
    // Answers are asked for in bytes, or are ASCII.
    ("client_encoding", "PGCLIENTENCODING", NoEffect),
    (
        "replication",
        "",
        Only(
            &["false", "off", "no", "0"],
            "a backup is taken in an ordinary session",
        ),
    ),
    ("scram_client_key", "", Only(&[], "walfs takes passwords")),
    ("scram_server_key", "", Only(&[], "walfs takes passwords")),
    ("oauth_issuer", "", Only(&[], OAUTH)),
    ("oauth_client_id", "", Only(&[], OAUTH)),
    ("oauth_client_secret", "", Only(&[], OAUTH)),
    ("oauth_scope", "", Only(&[], OAUTH)),
    ("authtype", "", NoEffect),
    ("tty", "", NoEffect),
    ("requiressl", "", Only(&["0"], "sslmode=require says the same")),
    ("servicefile", "PGSERVICEFILE", Obeyed),
];

/// Parameters with their values; whoever sets one first wins.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    /// Its value, if it has one that says something.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// All that say something.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = self.0.iter().map(|(name, value)| (*name, value.as_str()));
        all.filter(|(_, value)| !value.is_empty())
    }

    /// Sets what is not set yet. `from` says where it stands, for people.
    ///
    /// # Errors
    /// [`Error::Settings`] for a parameter that libpq does not know, or a value that cannot be obeyed.
    pub(super) fn add(&mut self, name: &str, value: &str, from: &str) -> Result<(), Error> {
        let known = PARAMETERS.iter().find(|(known, ..)| *known == name);
        let (name, _, usage) = known.ok_or_else(|| Error::Settings {
            reason: format!("{from} has {name:?}, which is no connection parameter"),
        })?;
        if self.0.contains_key(name) {
            return Ok(());
        }
        if let Only(values, why) = usage
            && !value.is_empty()
            && !values.contains(&value)
        {
            let reason = format!(
                "{from} has {name}={value}, and {why}.\nHINT: take it out for walfs, or connect by the server's Unix \
                 socket with what a local session needs."
            );
            return Err(Error::Settings { reason });
        }
        self.0.insert(name, value.to_owned());
        Ok(())
    }

    /// Sets what is not set yet from the environment.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub(super) fn add_environment(&mut self, env: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
        for (name, variable, _) in PARAMETERS {
            if !variable.is_empty()
                && let Some(value) = env(variable)
            {
                self.add(name, &value, &format!("the variable {variable}"))?;
            }
        }
        // An old word for a mode; libpq heeds it if the mode is not said.
        if env("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            self.add("sslmode", "require", "the variable PGREQUIRESSL")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_is_obeyed_refused_or_without_effect() {
        for (name, variable, usage) in PARAMETERS {
            let mut parameters = Parameters::default();
            let added = parameters.add(name, "surprise", "the string");
            assert_eq!(added.is_err(), matches!(usage, Only(..)), "{name}");
            if let Only(values, _) = usage {
                let text = added.unwrap_err().to_string();
                assert!(text.contains(name) && text.contains("the string"), "{text}");
                for value in values {
                    parameters.add(name, value, "the string").unwrap();
                }
            }
            assert!(variable.is_empty() || variable.starts_with("PG"), "{variable}");
        }
        let unknown = Parameters::default().add("hots", "x", "the string");
        assert!(unknown.unwrap_err().to_string().contains("\"hots\""));
    }

    #[test]
    fn who_comes_first_wins() {
        let mut parameters = Parameters::default();
        parameters.add("host", "first", "").unwrap();
        let env = |name: &str| match name {
            "PGHOST" => Some("second".to_owned()),
            "PGPORT" => Some("7".to_owned()),
            "PGREQUIRESSL" => Some("1".to_owned()),
            _ => None,
        };
        parameters.add_environment(env).unwrap();
        let values = ["host", "port", "sslmode", "user"].map(|name| parameters.get(name));
        assert_eq!(values, [Some("first"), Some("7"), Some("require"), None]);
    }
}
