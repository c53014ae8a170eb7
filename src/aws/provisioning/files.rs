//! Certificate and key on disk: for their owner only, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use paquebot_actors::{ClientCertificate, check_client_certificate, pending_certificate};
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
        r#source: Arc<io::Error>,
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
    ///
    /// Two files cannot change at once: the new certificate waits beside the old one, as `….next`, until its key is in its
    /// place. Should the process end in between, the next link that uses the files finds a pair that does not fit, and
    /// finishes the switch. Other programs have to be kept from the files meanwhile.
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
        // An attempt that was stopped half-way is finished: its pair is the one that is there.
        let _ = check_client_certificate(&ClientCertificate {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        });
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

    /// Writes both, so that each can be read by its owner only. Wherever it is stopped, whoever opens the pair then finds
    /// the one that was there or this one, as [`pending_certificate`] says.
    pub(super) fn write(&self, certificate: &str, key: &SecretString) -> Result<(), IdentityError> {
        for step in Switch::begin(self, certificate, key)?.steps() {
            step()?;
        }
        Ok(())
    }
}

/// A pair that is written beside the one that is there.
struct Switch<'a> {
    files: &'a IdentityFiles,
    content: &'a str,
    certificate: Draft<'a>,
    key: Draft<'a>,
    pending: PathBuf,
}

type Step<'a> = Box<dyn FnOnce() -> Result<(), IdentityError> + 'a>;

impl<'a> Switch<'a> {
    fn begin(
        files: &'a IdentityFiles,
        content: &'a str,
        key: &SecretString,
    ) -> Result<Self, IdentityError> {
        Ok(Self {
            files,
            content,
            key: Draft::write(&files.key, key.expose_secret())?,
            certificate: Draft::write(&files.certificate, content)?,
            pending: pending_certificate(&files.certificate),
        })
    }

    /// After each of them the pair is one that can be opened.
    fn steps(&self) -> [Step<'_>; 3] {
        [
            Box::new(|| self.announce()),
            Box::new(|| self.place_key()),
            Box::new(|| self.place_certificate()),
        ]
    }

    /// The certificate waits for its key. One that waits there already is of an earlier attempt.
    fn announce(&self) -> Result<(), IdentityError> {
        let draft = &self.certificate.draft;
        fs::rename(draft, &self.pending).map_err(|error| failed(&self.pending, error))?;
        sync_directory(&self.pending);
        Ok(())
    }

    fn place_key(&self) -> Result<(), IdentityError> {
        let placed = self.key.place(self.files.replaces);
        if placed.is_err() {
            let _ = fs::remove_file(&self.pending);
        }
        placed
    }

    fn place_certificate(&self) -> Result<(), IdentityError> {
        let path = self.files.certificate.as_path();
        let placed = place(&self.pending, path, self.files.replaces);
        let placed = placed.or_else(|error| match fs::read(path) {
            // Somebody who opened the pair meanwhile did it.
            Ok(there) if there == self.content.as_bytes() => Ok(()),
            _ => Err(error),
        });
        if placed.is_err() && !self.files.replaces {
            // What is there is somebody else's, and has nothing to do with this key.
            let _ = fs::remove_file(&self.pending);
            let _ = fs::remove_file(&self.files.key);
        }
        placed
    }
}

/// Gives a file that is written its name.
fn place(draft: &Path, path: &Path, replaces: bool) -> Result<(), IdentityError> {
    let placed = if replaces {
        fs::rename(draft, path)
    } else {
        // A link is refused where there is something, which a rename would put away.
        fs::hard_link(draft, path).map(|()| drop(fs::remove_file(draft)))
    };
    placed.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => IdentityError::Exists(path.to_owned()),
        _ => failed(path, error),
    })?;
    sync_directory(path);
    Ok(())
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
        place(&self.draft, self.path, replaces)
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

    /// A pair that fits, of a name.
    fn pair(name: &str) -> (String, SecretString) {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap().pem();
        (certificate, key.serialize_pem().into())
    }

    #[test]
    fn wherever_a_switch_is_stopped_the_old_pair_is_there_or_the_new_one() {
        for (replaces, stopped_after) in [true, false]
            .map(|r| (0..4).map(move |n| (r, n)))
            .into_iter()
            .flatten()
        {
            let directory = tempfile::tempdir().unwrap();
            let [certificate, key] = ["a.pem", "a.key"].map(|name| directory.path().join(name));
            let mut files = IdentityFiles::new(&certificate, &key);
            let (old, new) = (pair("old"), pair("new"));
            if replaces {
                files.write(&old.0, &old.1).unwrap();
                files = files.replacing();
            }
            let switch = Switch::begin(&files, &new.0, &new.1).unwrap();
            for step in switch.steps().into_iter().take(stopped_after) {
                step().unwrap();
            }
            // The end of a process runs no destructors.
            std::mem::forget(switch);

            let opened = check_client_certificate(&ClientCertificate {
                certificate: certificate.clone(),
                key: key.clone(),
            });
            let is_switched = stopped_after >= 2;
            assert_eq!(opened.is_ok(), replaces || is_switched, "{opened:?}");
            let expected = if is_switched { &new } else { &old };
            if opened.is_ok() {
                assert_eq!(fs::read_to_string(&certificate).unwrap(), expected.0);
                assert_eq!(
                    fs::read_to_string(&key).unwrap(),
                    expected.1.expose_secret()
                );
            }
            // And the next attempt finds a pair, or nothing in its way.
            match files.check() {
                Ok(()) => {
                    let next = pair("next");
                    files.write(&next.0, &next.1).unwrap();
                    assert_eq!(fs::read_to_string(&certificate).unwrap(), next.0);
                    assert_eq!(fs::read_to_string(&key).unwrap(), next.1.expose_secret());
                    assert!(!pending_certificate(&certificate).exists());
                }
                Err(error) => {
                    assert!(!replaces && is_switched, "{error}");
                    assert!(matches!(error, IdentityError::Exists(_)), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_switch_that_somebody_else_finishes_is_finished() {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = ["a.pem", "a.key"].map(|name| directory.path().join(name));
        let files = IdentityFiles::new(&certificate, &key).replacing();
        let new = pair("new");
        let switch = Switch::begin(&files, &new.0, &new.1).unwrap();
        let [announce, place_key, place_certificate] = switch.steps();
        announce().unwrap();
        place_key().unwrap();
        // A link that looks at its files meanwhile.
        fs::rename(pending_certificate(&certificate), &certificate).unwrap();
        place_certificate().unwrap();
        assert_eq!(fs::read_to_string(&certificate).unwrap(), new.0);
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
