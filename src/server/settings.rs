//! Where a server's settings are: files that it reads, wherever they lie, as it tells.

use std::path::PathBuf;

use super::{Error, Session, column};

/// A file that a setting names, or that settings come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFile {
    /// `config_file`, `hba_file`, `ident_file`, `include` for a file that one of them includes, or `ssl_key_file` and the
    /// like; [`SettingsFile::KEPT`].
    pub setting: String,
    /// Where it is; absolute.
    pub path: PathBuf,
}

impl SettingsFile {
    /// The setting of a file that no server names: walfs's own, by which a directory is kept.
    pub const KEPT: &'static str = "settings-dir";

    /// Are there settings in it? Certificates and keys are none.
    pub fn has_settings(&self) -> bool {
        matches!(
            self.setting.as_str(),
            "config_file" | "hba_file" | "ident_file" | "include" | Self::KEPT
        )
    }
}

/// What a server says of its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Files that it reads. The three main ones first, each file once.
    pub files: Vec<SettingsFile>,
    /// `log_directory`: absolute, or from the data directory.
    pub log_directory: PathBuf,
}

/// The three, and files of keys and certificates where they are used and named by an absolute path.
const NAMED: &str = "\
    SELECT name, setting FROM pg_catalog.pg_settings \
    WHERE name IN ('config_file', 'hba_file', 'ident_file') AND setting <> '' \
    UNION ALL SELECT name, setting FROM pg_catalog.pg_settings \
    WHERE name IN ('ssl_cert_file', 'ssl_key_file', 'ssl_ca_file', 'ssl_crl_file', 'ssl_dh_params_file') \
    AND setting LIKE '/%' AND pg_catalog.current_setting('ssl') = 'on' \
    UNION ALL SELECT 'include', sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL";

/// Settings that are not used, because a later file has another value, are in files as well; and a line of the other two
/// files may include a file (since 16). Not every role may look; each of these is a view and the function behind it.
const INCLUDED: [(u32, &str, &str, &str); 3] = [
    (
        13,
        "pg_file_settings",
        "pg_show_all_file_settings()",
        "sourcefile",
    ),
    (16, "pg_hba_file_rules", "pg_hba_file_rules()", "file_name"),
    (
        16,
        "pg_ident_file_mappings",
        "pg_ident_file_mappings()",
        "file_name",
    ),
];

impl Session {
    /// Asks where the settings are. A role that may not know is told of fewer files.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn settings(&self) -> Result<Settings, Error> {
        const WHAT: &str = "to tell of its settings";
        let log_directory: String = self
            .one(WHAT, "SELECT pg_catalog.current_setting('log_directory', true)")
            .await
            .unwrap_or_default();
        let mut settings = Settings {
            log_directory: log_directory.into(),
            ..Settings::default()
        };
        self.add_files(WHAT, NAMED, &mut settings).await?;
        for (since, view, function, file) in INCLUDED {
            let may = format!(
                "SELECT pg_catalog.has_table_privilege('pg_catalog.{view}', 'SELECT') \
                 AND pg_catalog.has_function_privilege('pg_catalog.{function}', 'EXECUTE')"
            );
            if self.major >= since && self.one(WHAT, &may).await? {
                let statement = format!(
                    "SELECT DISTINCT 'include', {file} FROM pg_catalog.{view} WHERE {file} IS NOT NULL"
                );
                self.add_files(WHAT, &statement, &mut settings).await?;
            }
        }
        Ok(settings)
    }

    async fn add_files(
        &self,
        what: &'static str,
        statement: &str,
        settings: &mut Settings,
    ) -> Result<(), Error> {
        for row in self.rows(what, statement).await? {
            let file = SettingsFile {
                setting: column(what, &row, 0)?,
                path: PathBuf::from(column::<String>(what, &row, 1)?),
            };
            let known = settings.files.iter().any(|known| known.path == file.path);
            if file.path.is_absolute() && !known {
                settings.files.push(file);
            }
        }
        Ok(())
    }
}
