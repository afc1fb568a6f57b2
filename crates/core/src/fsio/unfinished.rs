//! Files that are not results yet.
//!
//! An unfinished file lies in the folder of its final place under a name that begins with [`PREFIX`], and whoever writes it holds
//! a lock on it. A program that is killed leaves such a file behind without its lock: the next one that writes to the folder removes
//! it, and nothing else. A program that ends in the middle of its work removes its own with [`abandon`].

use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use tempfile::NamedTempFile;

/// Names of unfinished files begin so.
const PREFIX: &str = ".pimattn-part-";
/// Symbolic links in a row that are followed, as Linux does.
const LINKS: usize = 40;

/// What this process writes.
struct UnfinishedFiles {
    /// Unfinished files by the place that they are for; none while one is being made.
    by_place: BTreeMap<PathBuf, Option<PathBuf>>,
    /// Folders in which those of killed programs have been removed.
    cleared: BTreeSet<PathBuf>,
}

static UNFINISHED: Mutex<UnfinishedFiles> =
    Mutex::new(UnfinishedFiles { by_place: BTreeMap::new(), cleared: BTreeSet::new() });

fn unfinished() -> MutexGuard<'static, UnfinishedFiles> {
    UNFINISHED.lock().unwrap_or_else(|e| e.into_inner())
}

/// Removes all unfinished files of this process, which is about to end, and begins no others: threads that want to do so, or
/// to put one in its place, wait for ever.
pub fn abandon() {
    let files = unfinished();
    for part in files.by_place.values().flatten() {
        let _ = std::fs::remove_file(part);
    }
    std::mem::forget(files);
}

/// A file on the way to its place.
pub(super) struct UnfinishedFile {
    /// None until it is made, and once it is in its place.
    part: Option<NamedTempFile>,
    folder: PathBuf,
    place: PathBuf,
}

impl UnfinishedFile {
    /// Begins a file for `path`.
    ///
    /// # Errors
    /// [`Error::Usage`] where this process is writing another one for that place, [`Error::Io`] where the folder takes no file.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let target = followed(path).map_err(|e| Error::io(path, e))?;
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        super::needs_folder(folder, path)?;
        let name = target.file_name().ok_or_else(|| Error::Usage(format!("{}: not a file's name", path.display())))?;
        let folder = folder.canonicalize().map_err(|e| Error::io(path, e))?;
        let place = folder.join(name);
        let is_new = {
            let mut files = unfinished();
            if files.by_place.contains_key(&place) {
                return Err(Error::Usage(format!("{}: two results cannot go to the same place", path.display())));
            }
            files.by_place.insert(place.clone(), None);
            files.cleared.insert(folder.clone())
        };
        // From here on the place is given back when this is dropped. Nothing waits for the file system with the list in its hands,
        // since a program that is to end needs the list.
        let mut file = UnfinishedFile { part: None, folder, place };
        if is_new {
            clear_unfinished(&file.folder)?;
        }
        let part = begin(&file.folder).map_err(|e| Error::io(path, e))?;
        unfinished().by_place.insert(file.place.clone(), Some(part.path().to_path_buf()));
        file.part = Some(part);
        Ok(file)
    }

    /// Writes through to the disk, then gives the file its name: the other way round, a power cut could leave an empty file
    /// of that name.
    pub(super) fn put_in_place(mut self) -> io::Result<()> {
        let Some(part) = self.part.take() else { return Ok(()) };
        if let Ok(there) = self.place.metadata() {
            part.as_file().set_permissions(there.permissions())?;
        }
        part.as_file().sync_all()?;
        // Held, so that `abandon` removes it before or not at all.
        let files = unfinished();
        part.persist(&self.place).map_err(|e| e.error)?;
        drop(files);
        sync_folder(&self.folder)
    }
}

impl Write for UnfinishedFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.part.as_mut().map_or(Ok(0), |part| part.write(buf))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.part.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        unfinished().by_place.remove(&self.place);
    }
}

/// The name of a folder's new entry, written through to the disk. Some file systems cannot do that for folders, and need not.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        // A folder that may be written to but not read.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// The file that a path stands for, if it is a symbolic link; that file need not exist.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        match std::fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            // Not a link, or nothing at all.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => return Ok(path),
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("too many symbolic links, one behind the other"))
}

/// A new unfinished file in a folder, with a lock on it.
fn begin(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As readable as any new file: the umask of the process takes away what it wants.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    loop {
        let part = builder.tempfile_in(folder)?;
        // A file system without locks has to trust its users.
        let _ = part.as_file().lock();
        // Another program may have taken it for a dead one's before the lock was there.
        if part.path().exists() {
            return Ok(part);
        }
    }
}

/// Removes the unfinished files that killed programs have left in a folder, if it can be read.
///
/// # Errors
/// [`Error::Io`] where reading it fails half-way.
pub fn clear_unfinished(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // One that has gone, or that is somebody else's, is nothing to remove.
        let Ok(part) = File::open(entry.path()) else { continue };
        match part.try_lock() {
            Ok(()) => drop(std::fs::remove_file(entry.path())),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unfinished_files_that_nobody_writes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: String| folder.path().join(name);
        let alive = begin(folder.path()).unwrap();
        let dead = at(format!("{PREFIX}dead"));
        let others = [at(".part-download".into()), at(format!("{PREFIX}folder"))];
        std::fs::write(&dead, "half").unwrap();
        std::fs::write(&others[0], "").unwrap();
        std::fs::create_dir(&others[1]).unwrap();
        let file = UnfinishedFile::create(&at("result".into())).unwrap();
        assert!(!dead.exists());
        assert!(alive.path().exists() && others.iter().all(|path| path.exists()));
        file.put_in_place().unwrap();
        assert!(at("result".into()).exists());
    }
}
