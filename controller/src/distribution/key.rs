//! The secret that all controllers share: [`Key`], read from a file that only its owner may read.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

/// The shortest secret, bytes.
pub const MIN_BYTES: usize = 32;
/// The longest secret that is read, bytes.
const MAX_BYTES: u64 = 4_096;

/// A secret that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("--key-file {}: can't be read: {source}; make one: head -c 32 /dev/urandom | base64 > key; chmod 600 key", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others may read it.
    #[error("--key-file {}: is open to other users (mode {mode:o}); chmod 600 it", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is too short to be a secret, or too long to be one.
    #[error("--key-file {}: has {bytes} bytes; a secret has {MIN_BYTES} to {MAX_BYTES}", path.display())]
    Length {
        /// Which.
        path: PathBuf,
        /// What it has.
        bytes: u64,
    },
}

/// What controllers prove to each other that they know.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Reads the file; white space at its end does not count.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let unread = |source| KeyError::Read { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(unread)?;
        let mode = found.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode });
        }
        if found.len() > MAX_BYTES {
            return Err(KeyError::Length { path: path.to_owned(), bytes: found.len() });
        }
        let bytes = std::fs::read(path).map_err(unread)?;
        let secret = bytes.trim_ascii_end();
        if secret.len() < MIN_BYTES {
            return Err(KeyError::Length { path: path.to_owned(), bytes: secret.len() as u64 });
        }
        Ok(Self::of(secret))
    }

    /// Of a secret of any length: its BLAKE2s hash.
    pub fn of(secret: &[u8]) -> Self {
        let mut key = [0; 32];
        // The resolver that is built in has this hash.
        if let Some(mut hash) = DefaultResolver.resolve_hash(&HashChoice::Blake2s) {
            hash.input(secret);
            hash.result(&mut key);
        }
        Self(key)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_private_and_long_enough() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(Key::read(&path).unwrap_err().to_string().contains("urandom"));
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Key::read(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Key::read(&path).unwrap(), Key::of(b"0123456789abcdef0123456789abcdef"));
        assert_ne!(Key::of(b"a").0, Key::of(b"b").0);
        assert_ne!(Key::of(b"a").0, [0; 32]);
        std::fs::write(&path, "short").unwrap();
        assert!(Key::read(&path).unwrap_err().to_string().contains("has 5 bytes"));
    }
}
