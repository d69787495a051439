//! Which PIN file a token has refused, remembered across restarts of the process: a container that
//! is started again and again must not spend a try of the PIN each time.
//!
//! What is written down is which file it was (inode, size, times), not what was in it: a new PIN
//! is a new file or a changed one.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::secret::SecretFile;

/// The memory for one token; none without a directory.
pub(super) struct Memory(Option<PathBuf>);

impl Memory {
    pub(super) fn new(directory: Option<&Path>, token: &str) -> Self {
        // A token's serial number and label may hold anything.
        let name: String = token.bytes().map(|byte| format!("{byte:02x}")).collect();
        Self(directory.map(|directory| directory.join(format!("refused-pin-{name}"))))
    }

    /// Whether it was this file, unchanged, that the token refused.
    pub(super) fn holds(&self, pin: &SecretFile) -> bool {
        self.0
            .as_ref()
            .and_then(|path| fs::read_to_string(path).ok())
            .is_some_and(|stamp| stamp == pin.stamp())
    }

    pub(super) fn remember(&self, pin: &SecretFile) {
        let Some(path) = &self.0 else { return };
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(pin.stamp().as_bytes()));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "a refused PIN cannot be remembered across restarts");
        }
    }

    pub(super) fn forget(&self) {
        if let Some(path) = &self.0 {
            // Most often there is nothing to forget.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pin(directory: &Path, content: &str) -> SecretFile {
        let path = directory.join("pin");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        SecretFile::read(&path).unwrap()
    }

    #[test]
    fn a_refused_file_is_known_until_it_changes_and_its_content_is_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let wrong = pin(directory.path(), "4711-wrong");
        let memory = Memory::new(Some(directory.path()), "serial/label");
        assert!(!memory.holds(&wrong));
        memory.remember(&wrong);
        assert!(Memory::new(Some(directory.path()), "serial/label").holds(&wrong));
        assert!(!Memory::new(Some(directory.path()), "another/label").holds(&wrong));
        let written = fs::read_to_string(memory.0.clone().unwrap()).unwrap();
        assert!(!written.contains("4711"), "{written}");
        assert!(!memory.holds(&pin(directory.path(), "4711-longer")));
        memory.forget();
        assert!(!memory.holds(&wrong));
    }

    #[test]
    fn without_a_directory_nothing_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let wrong = pin(directory.path(), "wrong");
        let memory = Memory::new(None, "serial/label");
        memory.remember(&wrong);
        assert!(!memory.holds(&wrong));
    }
}
