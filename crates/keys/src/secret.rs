//! Files that hold a secret: a PIN or a key. Refused when anybody else could read or change them.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

/// The largest secret file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The content of a secret file. It has no Debug, and is overwritten when dropped.
#[allow(missing_debug_implementations, reason = "a secret must not be printed")]
pub struct SecretFile {
    content: Zeroizing<Vec<u8>>,
    stamp: String,
}

/// Why a secret file is refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}: mount it, readable by this process's user")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not a regular file, or larger than any secret.
    #[error("{path} is no regular file of at most {MAX_BYTES} bytes: is it the right one?")]
    Shape {
        /// The file.
        path: PathBuf,
    },
    /// Others could read or change it.
    #[error(
        "{path} has mode {mode:04o} and owner {owner}: others could read or change it: `chmod 0600` it (0440 with the pod's fsGroup)"
    )]
    Lax {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The UID that owns it.
        owner: u32,
    },
    /// It holds nothing.
    #[error("{path} is empty: write the secret there")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl SecretFile {
    /// Reads a secret file; one line end at its end does not count. Blocks.
    ///
    /// The owner must be this process's user or root; others must have no access. A group may
    /// read, not write, when it is one of this process's own: that is how Kubernetes gives a
    /// volume to a user that is not root (`fsGroup`).
    ///
    /// # Errors
    /// See [`SecretFileError`].
    pub fn read(path: &Path) -> Result<Self, SecretFileError> {
        let failed = |source| SecretFileError::Read {
            path: path.to_owned(),
            source,
        };
        // A pipe would be waited for before it could be seen to be none of what is read.
        let open = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, open, Mode::empty())
            .map(File::from)
            .map_err(|error| failed(error.into()))?;
        // Asked of the open file: the name may point elsewhere by now.
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(SecretFileError::Shape {
                path: path.to_owned(),
            });
        }
        if !is_private(&metadata) {
            return Err(SecretFileError::Lax {
                path: path.to_owned(),
                mode: metadata.mode() & 0o7777,
                owner: metadata.uid(),
            });
        }
        let stamp = format!(
            "inode {} size {} modified {}.{:09} changed {}.{:09}",
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec()
        );
        let capacity = usize::try_from(metadata.len()).unwrap_or_default() + 1;
        // Reserved at once: growing would leave copies behind.
        let mut content = Zeroizing::new(Vec::with_capacity(capacity));
        file.take(MAX_BYTES)
            .read_to_end(&mut content)
            .map_err(failed)?;
        if content.ends_with(b"\n") {
            content.pop();
            if content.ends_with(b"\r") {
                content.pop();
            }
        }
        if content.is_empty() {
            return Err(SecretFileError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Self { content, stamp })
    }

    /// The secret itself.
    pub fn expose(&self) -> &[u8] {
        &self.content
    }

    /// Which file this was and when it was last changed: another after any change, and nothing
    /// about its content but the length.
    pub(crate) fn stamp(&self) -> &str {
        &self.stamp
    }
}

fn is_private(metadata: &Metadata) -> bool {
    let owner = metadata.uid();
    let mode = metadata.mode();
    let own_owner = owner == 0 || owner == rustix::process::geteuid().as_raw();
    let group_may_read = mode & 0o040 != 0;
    own_owner && mode & 0o037 == 0 && (!group_may_read || in_group(metadata.gid()))
}

fn in_group(group: u32) -> bool {
    group == rustix::process::getegid().as_raw()
        || rustix::process::getgroups()
            .is_ok_and(|groups| groups.iter().any(|own| own.as_raw() == group))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn with_mode(mode: u32, content: &str) -> Result<Vec<u8>, SecretFileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        SecretFile::read(file.path()).map(|secret| secret.expose().to_vec())
    }

    #[test]
    fn a_file_for_its_owner_alone_is_read_without_its_line_end() {
        assert_eq!(with_mode(0o600, "1234\n").unwrap(), b"1234");
        assert_eq!(with_mode(0o400, "12 34\r\n").unwrap(), b"12 34");
    }

    #[test]
    fn a_file_that_others_can_read_or_the_group_can_write_is_refused_with_its_mode() {
        for mode in [0o644, 0o604, 0o602, 0o660, 0o620, 0o610] {
            let error = with_mode(mode, "1234").unwrap_err().to_string();
            assert!(error.contains(&format!("{mode:04o}")), "{error}");
            assert!(error.contains("chmod 0600"), "{error}");
            assert!(!error.contains("1234"), "{error}");
        }
    }

    #[test]
    fn a_group_of_ours_may_read() {
        assert_eq!(with_mode(0o440, "1234").unwrap(), b"1234");
    }

    #[test]
    fn a_missing_an_empty_and_a_huge_file_are_each_named() {
        let missing = SecretFile::read(Path::new("/nonexistent/pin"))
            .err()
            .unwrap();
        assert!(missing.to_string().contains("/nonexistent/pin"));
        assert!(matches!(
            with_mode(0o600, "\n"),
            Err(SecretFileError::Empty { .. })
        ));
        let huge = "1".repeat(70_000);
        assert!(matches!(
            with_mode(0o600, &huge),
            Err(SecretFileError::Shape { .. })
        ));
        assert!(matches!(
            SecretFile::read(Path::new("/tmp")),
            Err(SecretFileError::Shape { .. })
        ));
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(matches!(
            SecretFile::read(&pipe),
            Err(SecretFileError::Shape { .. })
        ));
    }
}
