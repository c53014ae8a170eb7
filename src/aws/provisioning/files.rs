//! Certificate and key on disk: for their owner only, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};

/// Where a certificate and its private key are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    certificate: PathBuf,
    key: PathBuf,
    replaces: bool,
}

/// Why the files cannot be written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is one already.
    #[error(
        "{} is there already; move it away, or have it replaced with IdentityFiles::replacing", .0.display()
    )]
    Exists(PathBuf),
    /// Certificate and key have the same name.
    #[error("certificate and key are both to be {}", .0.display())]
    Same(PathBuf),
    /// The system refused.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl IdentityFiles {
    /// Two files that are not there yet, in directories that are.
    #[must_use]
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            replaces: false,
        }
    }

    /// Files that are there are replaced. Default: they are an error.
    #[must_use]
    pub const fn replacing(mut self) -> Self {
        self.replaces = true;
        self
    }

    /// The certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Its private key, in PEM.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// Whether both may be written, as far as can be known without writing them.
    pub(super) fn check(&self) -> Result<(), IdentityError> {
        if self.certificate == self.key {
            return Err(IdentityError::Same(self.key.clone()));
        }
        for path in [&self.certificate, &self.key] {
            if !self.replaces && fs::symlink_metadata(path).is_ok() {
                return Err(IdentityError::Exists(path.clone()));
            }
            // Written and removed again: a directory that is missing, or not ours, shows before a certificate is made.
            let trial = draft(path);
            create(&trial).map_err(|error| failed(path, error))?;
            let _ = fs::remove_file(trial);
        }
        Ok(())
    }

    /// Writes both, the key first: a certificate that is there has its key. Each appears whole or not at all, and can
    /// be read by its owner only.
    pub(super) fn write(&self, certificate: &str, key: &SecretString) -> Result<(), IdentityError> {
        let key = Draft::write(&self.key, key.expose_secret())?;
        let certificate = Draft::write(&self.certificate, certificate)?;
        key.place(self.replaces)?;
        if let Err(error) = certificate.place(self.replaces) {
            if !self.replaces {
                let _ = fs::remove_file(&self.key);
            }
            return Err(error);
        }
        Ok(())
    }
}

/// A file that is written and has not got its name yet. What is left of it goes away with it.
struct Draft<'a> {
    path: &'a Path,
    draft: PathBuf,
}

impl<'a> Draft<'a> {
    fn write(path: &'a Path, content: &str) -> Result<Self, IdentityError> {
        let draft = draft(path);
        let mut file = create(&draft).map_err(|error| failed(path, error))?;
        let this = Self { path, draft };
        file.write_all(content.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| failed(path, error))?;
        Ok(this)
    }

    fn place(&self, replaces: bool) -> Result<(), IdentityError> {
        let placed = if replaces {
            fs::rename(&self.draft, self.path)
        } else {
            // A link is refused where there is something, which a rename would put away.
            fs::hard_link(&self.draft, self.path)
        };
        placed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => IdentityError::Exists(self.path.to_owned()),
            _ => failed(self.path, error),
        })?;
        sync_directory(self.path);
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.draft);
    }
}

fn failed(path: &Path, error: io::Error) -> IdentityError {
    IdentityError::Write {
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

/// A name beside the file's own that nothing has.
fn draft(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}", fastrand::u64(..)));
    path.with_file_name(name)
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

/// So that the name outlives a power cut as well; not every system can.
fn sync_directory(path: &Path) {
    let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
    if let Ok(directory) = File::open(directory.unwrap_or(Path::new("."))) {
        let _ = directory.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_whole_for_their_owner_only_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = ["a.pem", "a.key"].map(|name| directory.path().join(name));
        let files = IdentityFiles::new(&certificate, &key);
        files.check().unwrap();
        files
            .write("certificate", &"key".to_owned().into())
            .unwrap();
        assert_eq!(fs::read_to_string(&certificate).unwrap(), "certificate");
        assert_eq!(fs::read_to_string(&key).unwrap(), "key");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        #[cfg(unix)]
        for path in [&certificate, &key] {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }

    #[test]
    fn what_is_there_stays_unless_it_is_to_be_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = ["a.pem", "a.key"].map(|name| directory.path().join(name));
        fs::write(&certificate, "old").unwrap();
        let files = IdentityFiles::new(&certificate, &key);
        let error = files.check().unwrap_err();
        assert!(matches!(&error, IdentityError::Exists(path) if *path == certificate));
        assert!(error.to_string().contains("replacing"));
        let error = files.write("new", &"key".to_owned().into()).unwrap_err();
        assert!(matches!(error, IdentityError::Exists(_)));
        assert_eq!(fs::read_to_string(&certificate).unwrap(), "old");
        assert!(!key.exists());
        let files = files.replacing();
        files.check().unwrap();
        files.write("new", &"key".to_owned().into()).unwrap();
        assert_eq!(fs::read_to_string(&certificate).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn files_that_cannot_be_are_known_before_a_certificate_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pem");
        let error = IdentityFiles::new(&path, &path).check().unwrap_err();
        assert!(matches!(error, IdentityError::Same(_)));
        let missing = directory.path().join("missing").join("a.key");
        let error = IdentityFiles::new(&path, missing).check().unwrap_err();
        assert!(matches!(error, IdentityError::Write { .. }));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
