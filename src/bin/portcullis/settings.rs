//! Where the database, the tenant and the secret come from: flag, then environment, then file.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use portcullis::audit::{Audit, AuditKeysBuilder, JournalSettings};
use portcullis::presence::PresenceSettings;
use portcullis::{AuditKeys, Database, Governance, Secret, TenantId};
use serde::Deserialize;

use crate::arguments::Arguments;
use crate::fault::Fault;

const DATABASE: [&str; 2] = ["PORTCULLIS_DATABASE_URL", "DATABASE_URL"];
const TENANT: &str = "PORTCULLIS_TENANT";
const SECRET: &str = "PORTCULLIS_AUDIT_SECRET";
const KEYS: &str = "PORTCULLIS_AUDIT_KEYS";
const CONFIG: &str = "PORTCULLIS_CONFIG";
const DEFAULT_FILE: &str = "portcullis.toml";
/// No configuration is longer; a device or a disk image given by mistake is not read to its end.
const LONGEST_FILE: u64 = 1 << 20;

/// The configuration file. An unknown name is an error: a typo must not fall back to a default.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    database: Option<String>,
    tenant: Option<String>,
    audit_secret: Option<String>,
    audit_keys: Option<String>,
    #[serde(default)]
    anchors: Vec<String>,
}

/// What was given. The secrets in it are not shown.
pub(crate) struct Settings {
    database: Option<String>,
    tenant: TenantId,
    audit_keys: Option<String>,
    file: File,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

impl Settings {
    pub(crate) fn gather(arguments: &Arguments) -> Result<Self, Fault> {
        if let Some(url) = &arguments.database
            && has_password(url)
        {
            return Err(Fault::new(
                "--database has a password in it, which other users of this machine can read; put the URL into PORTCULLIS_DATABASE_URL or the configuration file, or the password into ~/.pgpass",
            ));
        }
        let file = read_file(arguments.config.as_deref())?;
        let tenant = arguments.tenant.clone();
        let tenant = tenant
            .or_else(|| variable(TENANT))
            .or_else(|| file.tenant.clone());
        let tenant = match tenant {
            Some(tenant) => TenantId::parse(tenant).map_err(Fault::during("read the tenant"))?,
            None => TenantId::single(),
        };
        let database = arguments.database.clone();
        let database = database
            .or_else(|| DATABASE.iter().find_map(|name| variable(name)))
            .or_else(|| file.database.clone());
        Ok(Self {
            database,
            tenant,
            audit_keys: arguments.audit_keys.clone(),
            file,
        })
    }

    pub(crate) fn database(&self) -> Result<Database, Fault> {
        self.database.as_deref().map(Database::url).ok_or_else(|| {
            Fault::new(
                "no database is named; set PORTCULLIS_DATABASE_URL, or give --database postgres://user@host/name",
            )
        })
    }

    pub(crate) fn keys(&self) -> Result<AuditKeys, Fault> {
        let listed = |list: &str| {
            let keys = AuditKeys::builder()
                .list(list)
                .and_then(AuditKeysBuilder::build);
            keys.map_err(Fault::during("read the audit keys"))
        };
        let in_environment = variable(KEYS).or_else(|| variable(SECRET)).is_some();
        match (&self.audit_keys, &self.file) {
            (Some(list), _) => listed(list),
            _ if in_environment => AuditKeys::from_env().map_err(Fault::during("read the secret")),
            (
                None,
                File {
                    audit_keys: Some(list),
                    ..
                },
            ) => listed(list),
            (
                None,
                File {
                    audit_secret: Some(text),
                    ..
                },
            ) => {
                let secret = Secret::parse(text).map_err(Fault::during("read audit_secret"))?;
                Ok(AuditKeys::single(secret))
            }
            _ => AuditKeys::from_env().map_err(Fault::during("read the secret")),
        }
    }

    /// The trail, without the gates. Only `drain` touches journals.
    pub(crate) async fn audit(&self) -> Result<Audit, Fault> {
        self.audit_with(JournalSettings::off()).await
    }

    pub(crate) async fn audit_with(&self, journal: JournalSettings) -> Result<Audit, Fault> {
        let keys = self.keys()?;
        Audit::open_with(&self.database()?, keys, self.tenant.clone(), journal)
            .await
            .map_err(Fault::during("open the database"))
    }

    /// All gates. Who asks for them shuts them down.
    pub(crate) async fn governance(&self) -> Result<Governance, Fault> {
        self.governance_with(PresenceSettings::default()).await
    }

    pub(crate) async fn governance_with(
        &self,
        presence: PresenceSettings,
    ) -> Result<Governance, Fault> {
        Governance::builder(self.database()?, self.keys()?)
            .tenant(self.tenant.clone())
            .journal(JournalSettings::off())
            .presence(presence)
            .connect()
            .await
            .map_err(Fault::during("open the database"))
    }

    /// The anchors that the configuration file names.
    pub(crate) fn anchors(&self) -> &[String] {
        &self.file.anchors
    }

    pub(crate) const fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a URL names a password, in its authority or among its parameters.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let userinfo = authority.rsplit_once('@').map_or("", |(user, _)| user);
    userinfo.contains(':')
        || parameters
            .split('&')
            .any(|pair| pair.starts_with("password="))
}

fn read_file(given: Option<&Path>) -> Result<File, Fault> {
    let asked = given
        .map(Path::to_owned)
        .or_else(|| variable(CONFIG).map(PathBuf::from));
    let path = asked.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    if asked.is_none() && !path.exists() {
        return Ok(File::default());
    }
    let shown = path.display();
    let unreadable = |error| {
        Fault::new(format!(
            "the configuration file {shown} cannot be read: {error}"
        ))
    };
    let opened = fs::File::open(&path).map_err(unreadable)?;
    let mode = mode_of(&opened).map_err(unreadable)?;
    let mut text = String::new();
    opened
        .take(LONGEST_FILE)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    // The parser's message would quote the line, and with it a secret.
    let file: File = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| {
            text.get(..span.start).map_or(0, |before| before.matches('\n').count() + 1)
        });
        Fault::new(format!(
            "the configuration file {shown} is wrong at line {line}; it may have database, tenant, audit_secret and audit_keys, each a string in quotes, and anchors, a list of them"
        ))
    })?;
    let secret = file.audit_secret.is_some() || file.database.as_deref().is_some_and(has_password);
    if secret && mode.is_some_and(|mode| mode & 0o077 != 0) {
        return Err(Fault::new(format!(
            "the configuration file {shown} holds a secret and can be read by others; run: chmod 600 {shown}"
        )));
    }
    Ok(file)
}

#[cfg(unix)]
fn mode_of(file: &fs::File) -> std::io::Result<Option<u32>> {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().map(|metadata| Some(metadata.mode()))
}

#[cfg(not(unix))]
fn mode_of(_file: &fs::File) -> std::io::Result<Option<u32>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::has_password;

    #[test]
    fn a_password_is_recognised_wherever_a_url_may_have_one() {
        for url in [
            "postgres://app:secret@localhost/app",
            "postgres://localhost/app?user=app&password=x",
            "postgres://app:@localhost/app",
            "app:pa/ss@localhost/app",
        ] {
            assert!(has_password(url), "{url}");
        }
        for url in [
            "postgres://app@localhost:5432/app",
            "postgres://localhost:5432/app",
            "postgres://localhost/app?host=/run/postgresql",
        ] {
            assert!(!has_password(url), "{url}");
        }
    }
}
