//! Users: who a name is, and becoming that user for good.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use super::{Error, c_string};

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// Of this process.
    pub fn of_this_process() -> Self {
        // SAFETY: neither has preconditions, and neither can fail.
        unsafe {
            Self {
                uid: libc::geteuid(),
                gid: libc::getegid(),
            }
        }
    }
}

/// An entry of the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name; the number's digits for a number without an entry.
    pub name: String,
    /// User and primary group.
    pub owner: Owner,
    /// Home directory; `/` for a number without an entry.
    pub home: PathBuf,
}

/// Finds a user by name or by number. A number without an entry (usual in containers) is its own group.
///
/// # Errors
/// [`Error::NoSuchUser`]; [`Error::System`] if the user database cannot be read.
pub fn lookup_user(name_or_uid: &str) -> Result<User, Error> {
    let name = c_string(name_or_uid)?;
    if let Some(user) = entry(|found, text, size, result| {
        // SAFETY: all pointers come from `entry`, which keeps them alive and sized; the name is terminated.
        unsafe { libc::getpwnam_r(name.as_ptr(), found, text, size, result) }
    })? {
        return Ok(user);
    }
    let uid: u32 = name_or_uid.parse().map_err(|_| Error::NoSuchUser {
        name: name_or_uid.to_owned(),
    })?;
    let known = entry(|found, text, size, result| {
        // SAFETY: all pointers come from `entry`, which keeps them alive and sized.
        unsafe { libc::getpwuid_r(uid, found, text, size, result) }
    })?;
    Ok(known.unwrap_or_else(|| User {
        name: uid.to_string(),
        owner: Owner { uid, gid: uid },
        home: PathBuf::from("/"),
    }))
}

/// Asks one of the `getpw..._r` functions, with more room for the texts each time it says ERANGE.
fn entry(
    ask: impl Fn(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> Result<Option<User>, Error> {
    let mut texts = vec![0; 1024];
    loop {
        // SAFETY: all-zero bytes are a valid `passwd`: numbers, and null pointers that nobody follows.
        let mut found: libc::passwd = unsafe { std::mem::zeroed() };
        let mut result = ptr::null_mut();
        match ask(&raw mut found, texts.as_mut_ptr(), texts.len(), &raw mut result) {
            // How "no such user" is spelled differs between name services.
            0 | libc::ENOENT | libc::ESRCH if result.is_null() => return Ok(None),
            0 => {
                // SAFETY: the call succeeded, so the name is a terminated string inside `texts`, which is alive.
                let name = unsafe { CStr::from_ptr(found.pw_name) }
                    .to_string_lossy()
                    .into_owned();
                // SAFETY: as for the name.
                let home = unsafe { CStr::from_ptr(found.pw_dir) };
                let home = PathBuf::from(OsStr::from_bytes(home.to_bytes()));
                return Ok(Some(User {
                    name,
                    owner: Owner {
                        uid: found.pw_uid,
                        gid: found.pw_gid,
                    },
                    home,
                }));
            }
            libc::ERANGE if texts.len() < 1 << 20 => texts.resize(texts.len() * 4, 0),
            libc::EINTR => {}
            code => {
                let source = io::Error::from_raw_os_error(code);
                return Err(Error::at("look up a user in", Path::new("/etc/passwd"), source));
            }
        }
    }
}

/// Becomes this user, with the user's groups and no others, for good and in all threads. Without effect if the process
/// is that user already.
///
/// The kernel then refuses this user's other processes to look into this one's memory and `/proc` directory (it is not
/// "dumpable" any more), which keeps the store's credentials from them; leave it so.
///
/// # Errors
/// [`Error::NoSuchUser`]; [`Error::System`] if the process may not; [`Error::StillPrivileged`] if it could be undone.
/// After any of them the process must end: it may be half one user and half another.
pub fn drop_privileges(user: &str) -> Result<(), Error> {
    let User { name, owner, .. } = lookup_user(user)?;
    if owner.uid == Owner::of_this_process().uid {
        return if can_become_root(owner.uid) {
            Err(Error::StillPrivileged { uid: owner.uid })
        } else {
            Ok(())
        };
    }
    become_user(&c_string(&name)?, owner)
        .map_err(|source| Error::at("become user", Path::new(&name), source))?;
    if is_final(owner) {
        Ok(())
    } else {
        Err(Error::StillPrivileged { uid: owner.uid })
    }
}

/// Groups first: afterwards there is no right left to change them.
fn become_user(name: &CString, Owner { uid, gid }: Owner) -> io::Result<()> {
    let check = |status: libc::c_int| {
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: a terminated string and a number.
    check(unsafe { libc::initgroups(name.as_ptr(), gid) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// Are all of the ids the user's, and is there no way back?
fn is_final(owner: Owner) -> bool {
    let (mut uids, mut gids) = ([0; 3], [0; 3]);
    let [real, effective, saved] = &mut uids;
    // SAFETY: three places for one number each.
    let uids_known = unsafe { libc::getresuid(real, effective, saved) } == 0;
    let [real, effective, saved] = &mut gids;
    // SAFETY: three places for one number each.
    let gids_known = unsafe { libc::getresgid(real, effective, saved) } == 0;
    let ours = uids_known && gids_known && uids == [owner.uid; 3] && gids == [owner.gid; 3];
    ours && !can_become_root(owner.uid)
}

/// For one who is meant to be root that is no question.
fn can_become_root(uid: u32) -> bool {
    // SAFETY: a plain number. If it succeeds the process is root again, and the caller is told to end it.
    uid != 0 && unsafe { libc::setuid(0) } == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number() {
        let root = User {
            name: "root".into(),
            owner: Owner { uid: 0, gid: 0 },
            home: "/root".into(),
        };
        assert_eq!(lookup_user("root").unwrap(), root);
        assert_eq!(lookup_user("0").unwrap(), root);
    }

    #[test]
    fn number_without_entry_is_its_own_group() {
        let user = lookup_user("3999999999").unwrap();
        assert_eq!(
            user,
            User {
                name: "3999999999".into(),
                owner: Owner {
                    uid: 3_999_999_999,
                    gid: 3_999_999_999
                },
                home: "/".into(),
            }
        );
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(matches!(
            lookup_user("no such user"),
            Err(Error::NoSuchUser { .. })
        ));
        assert!(matches!(lookup_user(""), Err(Error::NoSuchUser { .. })));
        assert!(lookup_user("ro\0ot").is_err());
    }

    #[test]
    fn becoming_oneself_changes_nothing() {
        let me = Owner::of_this_process();
        drop_privileges(&me.uid.to_string()).unwrap();
        assert_eq!(Owner::of_this_process(), me);
    }
}
