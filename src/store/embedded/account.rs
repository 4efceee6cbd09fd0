//! Which operating-system account Postgres runs as.
//!
//! Postgres refuses to run as root, so a root process drops to the account that owns the
//! directory, else to `postgres`, else to `nobody`. An ordinary process runs it as itself.

pub(super) use crate::store::user::current_uid;

use super::EmbeddedError;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A user and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// The account to drop to for a cluster in `dir`, or `None` to stay as we are.
    pub(super) fn for_directory(dir: &Path) -> Result<Option<Self>, EmbeddedError> {
        if current_uid() != Some(0) {
            return Ok(None);
        }
        // An existing cluster decides, so that installing a `postgres` account later does not
        // lock us out of one made as `nobody`.
        for path in [dir.join("data"), dir.to_owned()] {
            if let Ok(found) = fs::symlink_metadata(&path)
                && found.uid() != 0
            {
                return Ok(Some(Self {
                    uid: found.uid(),
                    gid: found.gid(),
                }));
            }
        }
        let passwd = Path::new("/etc/passwd");
        let accounts = fs::read_to_string(passwd).map_err(EmbeddedError::io("reading", passwd))?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| named(&accounts, name))
            .map(Some)
            .ok_or(EmbeddedError::NoAccount)
    }

    /// Whether this account can pass through the directory `dir`.
    pub(super) fn can_enter(self, dir: &Path) -> bool {
        fs::metadata(dir).is_ok_and(|found| found.is_dir() && self.may_execute(&found))
    }

    fn may_execute(self, found: &Metadata) -> bool {
        let bit = if found.uid() == self.uid {
            0o100
        } else if found.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        found.mode() & bit != 0
    }
}

/// The unprivileged account `name` in the text of `/etc/passwd`.
fn named(accounts: &str, name: &str) -> Option<Account> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some(Account { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::{Account, named};

    #[test]
    fn an_account_is_read_from_passwd_unless_it_is_root() {
        let text = "root:x:0:0::/:/bin/sh\npostgres:x:101:104:a:/:/bin/sh\nnobody:x:0:0::/:\n";
        let postgres = Account { uid: 101, gid: 104 };
        assert_eq!(named(text, "postgres"), Some(postgres));
        assert_eq!(
            named(text, "nobody"),
            None,
            "an alias of root is no account"
        );
        assert_eq!(named(text, "post"), None);
    }
}
