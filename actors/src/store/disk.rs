//! What the log needs of a file system, so that tests can have one that fails and forgets.

use std::fmt::Debug;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::shared::segment_number;

/// The file whose lock says that a process has the store open.
pub(super) const LOCK: &str = "lock";

/// Bytes of the longest text of such a file.
const LOCK_BYTES_MAX: u64 = 20;

/// A directory of files.
pub(super) trait Disk: Send + Sync + Debug {
    /// Makes a file that is not there yet.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to read only.
    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of all files, and of links and directories too.
    fn list(&self) -> io::Result<Vec<String>>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file; one of the new name goes away.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes what was created, removed and renamed durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// An open file.
pub(super) trait DiskFile: Send + Sync + Debug {
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on, as far as the file goes, and says how far.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`. If it fails, some of them may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system's.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// The directory of this path for a store; made, for its owner only, if it is not there. One that is there has to be
    /// empty or a store's, and keeps its mode.
    pub(super) fn make(path: PathBuf) -> Result<Self, StoreError> {
        let error = |action| {
            let path = path.clone();
            move |error| StoreError::io(action, &path, error)
        };
        match fs::metadata(&path) {
            Ok(found) if !found.is_dir() => {
                let is_file = io::Error::new(
                    io::ErrorKind::NotADirectory,
                    "it is a file, not a directory",
                );
                return Err(error("use")(is_file));
            }
            Ok(found) => {
                let directory = Self { path };
                directory.is_to_be_used()?;
                warn_of_readers(&directory.path, &found);
                return Ok(directory);
            }
            // Whatever else is wrong, making it says so.
            Err(_) => {}
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(error("make the directory"))?;
        #[cfg(unix)]
        if let Some(parent) = path
            .canonicalize()
            .map_err(error("make the directory"))?
            .parent()
        {
            // A directory that a power loss takes away takes everything along. Some file systems cannot sync one.
            drop(File::open(parent).and_then(|parent| parent.sync_all()));
        }
        Ok(Self { path })
    }

    /// The directory of this path, which has to be there and to be a store's.
    pub(super) fn existing(path: PathBuf) -> Result<Self, StoreError> {
        let directory = Self { path };
        match directory.contents()? {
            Contents::Store => Ok(directory),
            Contents::Nothing | Contents::Others => Err(StoreError::NoStore {
                directory: directory.path,
            }),
        }
    }

    /// Fails if there is something else in the directory than a store. Its mode would not save it from being mixed up.
    fn is_to_be_used(&self) -> Result<(), StoreError> {
        match self.contents()? {
            Contents::Nothing | Contents::Store => Ok(()),
            Contents::Others => Err(StoreError::OtherFiles {
                directory: self.path.clone(),
            }),
        }
    }

    fn contents(&self) -> Result<Contents, StoreError> {
        let names = self.list();
        let names =
            names.map_err(|error| StoreError::io("read the directory", &self.path, error))?;
        let has_segments = names.iter().any(|name| segment_number(name).is_some());
        let lock = names.iter().any(|name| name == LOCK);
        // Other programs have files of this name too; a store's says which process has it.
        let text = if lock { self.lock_text()? } else { None };
        let is_store = text.as_ref().is_some_and(|text| !text.is_empty());
        if has_segments || is_store {
            return Ok(Contents::Store);
        }
        // Where a file system begins there may be that; a lock without text was left by a process that was killed then.
        let is_nothing = |name: &String| name == "lost+found" || (name == LOCK && text.is_some());
        if names.iter().all(is_nothing) {
            Ok(Contents::Nothing)
        } else {
            Ok(Contents::Others)
        }
    }

    /// What the lock of a store says: digits, or nothing yet. None if it says something else.
    fn lock_text(&self) -> Result<Option<String>, StoreError> {
        let mut text = Vec::new();
        let file = match self.file(LOCK, OpenOptions::new().read(true)) {
            Err(other) if is_no_file(&other) => return Ok(None),
            file => file,
        };
        let file = file.map_err(|error| StoreError::io("read", &self.path.join(LOCK), error))?;
        match file.take(LOCK_BYTES_MAX).read_to_end(&mut text) {
            // Only Unix lets others read what a process has locked.
            Err(_) if !cfg!(unix) => return Ok(Some("0".to_owned())),
            read => read.map_err(|error| StoreError::io("read", &self.path.join(LOCK), error))?,
        };
        let text = String::from_utf8(text).ok();
        Ok(text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())))
    }

    pub(super) fn file(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        }
        let path = self.path.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other(NoFile));
        }
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(NoFile));
        }
        Ok(file)
    }
}

/// A link, a directory or something else where a file of the store's should be.
#[derive(Debug, thiserror::Error)]
#[error("it is not a file")]
struct NoFile;

/// Whether something that is no file has the name, as opposed to an error of the file system.
pub(super) fn is_no_file(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NoFile>())
}

/// What a directory holds.
enum Contents {
    Nothing,
    Store,
    Others,
}

/// Says so if others can see the names and sizes of the files. What is in them only their owner can read.
fn warn_of_readers(path: &Path, found: &Metadata) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let mode = format!("{mode:03o}");
            tracing::warn!(directory = %path.display(), mode, "the store's directory is open to others; its files are not, but mode 700 is better");
        }
    }
    #[cfg(not(unix))]
    let _ = (path, found);
}

impl Disk for Directory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        Ok(Arc::new(self.file(name, &mut options)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        Ok(Arc::new(self.file(name, &mut options)?))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.file(name, OpenOptions::new().read(true))?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is no text is none of the store's.
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_names(&self) -> io::Result<()> {
        // Only Unix can sync a directory; elsewhere the file system orders this by itself.
        if cfg!(unix) {
            File::open(&self.path)?.sync_all()?;
        }
        Ok(())
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match read_some(self, &mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            match write_some(self, &bytes[written..], offset + written as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(unix)]
use std::os::unix::fs::FileExt;
#[cfg(windows)]
use std::os::windows::fs::FileExt;

#[cfg(unix)]
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    FileExt::read_at(file, buffer, offset)
}

#[cfg(unix)]
fn write_some(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buffer, offset)
}

#[cfg(windows)]
fn write_some(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    file.seek_write(bytes, offset)
}
