//! What the result of a point depends on, as one number.

use super::grid::Job;
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The file of the program's code, where it is not that of the process.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says which file holds the code of a program that another one has loaded, as an interpreter loads a library. Keys depend on its
/// content. The first call counts.
pub fn program_is(file: PathBuf) {
    let _ = PROGRAM.set(file);
}

/// A hash of texts, each with its length.
#[derive(Default)]
struct KeyHash(Sha256);

impl KeyHash {
    fn part(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Digests of files, each read once, and of the running program.
pub struct Digests {
    cancel: Cancel,
    program: String,
    files: Mutex<BTreeMap<PathBuf, String>>,
}

impl Digests {
    /// Knows the program, byte for byte: what any change of the code, of a library or of the compiler may have made
    /// compute something else keeps its results apart, whatever version number it bears.
    pub fn new(cancel: &Cancel) -> Result<Self> {
        let program = match (PROGRAM.get(), cfg!(target_os = "linux")) {
            (Some(loaded), _) => loaded.clone(),
            // The file that runs, though another may have been built in its place.
            (None, true) => PathBuf::from("/proc/self/exe"),
            (None, false) => std::env::current_exe().map_err(|e| Error::io("this program", e))?,
        };
        Ok(Digests { cancel: cancel.clone(), program: of_file(cancel, &program)?, files: Mutex::default() })
    }

    /// The key of a point: SHA-256 of the program, what is measured, the workload with its overrides, the resolved
    /// system and the content of the files that are read. The system is written as the code has it, every field by its
    /// name: a key never outlives the program, whose bytes are part of it, so no name needs to.
    pub fn key(&self, job: &Job, accuracy: bool) -> Result<String> {
        let mut hash = KeyHash::default();
        self.hash_settings(&mut hash, job, accuracy);
        for (role, file) in job.inputs() {
            hash.part(role);
            hash.part(&self.content(&file)?);
        }
        Ok(hash.finish())
    }

    /// The key of a point whose cache is in memory: as [`Digests::key`], with the cache's hash in place of files.
    pub fn memory_key(&self, job: &Job, accuracy: bool, cache_hash: &str) -> String {
        let mut hash = KeyHash::default();
        self.hash_settings(&mut hash, job, accuracy);
        hash.part("cache");
        hash.part(cache_hash);
        hash.finish()
    }

    /// The program, what is measured, the workload and the system.
    fn hash_settings(&self, hash: &mut KeyHash, job: &Job, accuracy: bool) {
        hash.part(&self.program);
        hash.part(if accuracy { "accuracy" } else { "cost" });
        hash.part(&job.doc.canonical());
        hash.part(&format!("{:?}", job.system));
    }

    fn content(&self, path: &Path) -> Result<String> {
        // Whoever else asks for the same file waits for its digest.
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.get(path) {
            return Ok(known.clone());
        }
        let digest = match path.is_dir() {
            true => of_folder(&self.cancel, path)?,
            false => of_file(&self.cancel, path)?,
        };
        files.insert(path.into(), digest.clone());
        Ok(digest)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn of_file(cancel: &Cancel, path: &Path) -> Result<String> {
    let mut file = fsio::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        cancel.check()?;
        match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Of a folder of arrays: names and contents of its files.
fn of_folder(cancel: &Cancel, path: &Path) -> Result<String> {
    let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
    let mut files = entries.map(|e| Ok(e.map_err(|e| Error::io(path, e))?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|f| f.is_file());
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(of_file(cancel, &file)?);
    }
    Ok(hex(&hash.finalize()))
}
