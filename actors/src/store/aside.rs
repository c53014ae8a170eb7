//! What a store sets aside: bytes and files that are not part of its log, kept for whoever wants to look at them. There is
//! a bound to that: a disk that damages something at each start must not be filled with the remains.

use std::io;

use super::disk::Disk;
use super::index::Index;
use super::shared::{Shared, segment_name, segment_number};

/// Files set aside that are kept.
pub(super) const FILES_MAX: usize = 128;

/// Bytes of files set aside that are kept; the newest file is, whatever its size.
pub(super) const BYTES_MAX: u64 = 256 << 20;

/// Gives a file of the log a name under which it is in nobody's way, and says which.
pub(super) fn set_aside(disk: &dyn Disk, number: u32, why: &str) -> io::Result<String> {
    let name = segment_name(number);
    let names = disk.list()?;
    let asides = (0..=names.len()).map(|attempt| format!("{name}.{why}-{attempt}"));
    let aside = asides.into_iter().find(|aside| !names.contains(aside));
    let aside = aside.ok_or(io::ErrorKind::AlreadyExists)?;
    disk.rename(&name, &aside)?;
    disk.sync_names()?;
    Ok(aside)
}

/// Removes the oldest of what was set aside if there is too much of it. Segments of another version are not part of that:
/// a program of that version reads every message in them.
pub(super) fn trim(shared: &Shared, index: &mut Index) {
    // What cannot be listed is listed at the next start.
    let names = shared.disk.list().unwrap_or_default();
    let mut files: Vec<Aside> = names.into_iter().filter_map(Aside::of).collect();
    if files.is_empty() {
        return;
    }
    files.sort_unstable();
    for file in &mut files {
        let open = shared.disk.open_to_read(&file.name);
        file.bytes = open.and_then(|open| open.bytes()).unwrap_or(0);
    }
    for file in beyond(&files, FILES_MAX, BYTES_MAX) {
        let path = shared.directory.join(&file.name);
        let path = path.display();
        if let Err(error) = shared.disk.remove(&file.name) {
            tracing::warn!(file = %path, %error, "cannot remove a file that the store had set aside");
            continue;
        }
        index.statistics.asides_removed += 1;
        tracing::warn!(file = %path, bytes = file.bytes, "too much was set aside in the store: its oldest part is removed");
    }
}

/// A file that was set aside. Segments are numbered in the order of time, so the order of these is their age.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Aside {
    segment: u32,
    place: u64,
    name: String,
    bytes: u64,
}

impl Aside {
    /// None for a name that this program does not give: such a file is somebody's.
    fn of(name: String) -> Option<Self> {
        let (segment, why) = name.split_at_checked(segment_name(0).len())?;
        let segment = segment_number(segment)?;
        let why = why.strip_prefix('.')?;
        let (kind, place) = why.rsplit_once('-')?;
        let place: u64 = place.parse().ok()?;
        let is_ours = matches!(kind, "damaged" | "foreign" | "lost");
        (is_ours && why == format!("{kind}-{place}")).then_some(Self {
            segment,
            place,
            name,
            bytes: 0,
        })
    }
}

/// The oldest of the files, as many as are too many; never the last one.
fn beyond(files: &[Aside], files_max: usize, bytes_max: u64) -> &[Aside] {
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let mut count = 0;
    while count + 1 < files.len() && (files.len() - count > files_max || bytes > bytes_max) {
        bytes -= files[count].bytes;
        count += 1;
    }
    &files[..count]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aside(name: &str, bytes: u64) -> Aside {
        let mut aside = Aside::of(name.to_owned()).unwrap();
        aside.bytes = bytes;
        aside
    }

    #[test]
    fn only_names_that_the_store_gives_are_its_own() {
        for ours in ["damaged-0", "damaged-4096", "foreign-0", "lost-17"] {
            assert!(Aside::of(format!("0000000001.segment.{ours}")).is_some());
        }
        for other in [
            "0000000001.segment",
            "0000000001.segment.",
            "0000000001.segment.bak",
            "0000000001.segment.version-2-0",
            "0000000001.segment.damaged-",
            "0000000001.segment.damaged-+1",
            "0000000001.segment.damaged-01",
            "0000000001.segment.damaged-1.bak",
            "1.segment.damaged-1",
            "0000000001.segmentXdamaged-1",
            "lock",
            "äääääääääääääää",
        ] {
            assert!(Aside::of(other.to_owned()).is_none(), "{other}");
        }
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_or_too_large_ones_and_the_newest_never() {
        let mut files = vec![
            aside("0000000010.segment.damaged-5", 30),
            aside("0000000002.segment.foreign-0", 20),
            aside("0000000010.segment.damaged-12", 10),
        ];
        files.sort_unstable();
        let order: Vec<u64> = files.iter().map(|file| file.bytes).collect();
        assert_eq!(order, [20, 30, 10]);
        for (files_max, bytes_max, removed) in [
            (3, 60, 0),
            (2, 60, 1),
            (3, 59, 1),
            (3, 40, 1),
            (3, 39, 2),
            (0, 60, 2),
            (3, 0, 2),
        ] {
            assert_eq!(beyond(&files, files_max, bytes_max).len(), removed);
        }
        assert!(beyond(&[], 0, 0).is_empty());
    }
}
