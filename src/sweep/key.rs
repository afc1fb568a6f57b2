//! What the result of a point depends on, as one number.

use super::grid::Job;
use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Digests of files, each read once, and of the running program.
pub struct Digests {
    program: String,
    files: RefCell<BTreeMap<PathBuf, String>>,
}

impl Digests {
    /// Knows the program: a rebuilt one may compute something else, so its results are its own.
    pub fn new() -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
        Ok(Digests { program: of_file(&program)?, files: RefCell::default() })
    }

    /// The key of a point: SHA-256 of the program, the workload with its overrides, the resolved system and the content
    /// of the files that are read.
    pub fn key(&self, job: &Job) -> Result<String> {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        part(&self.program);
        part(&job.doc.canonical());
        part(&format!("{:?}", job.system));
        if let Some(file) = job.kv.clone().or_else(|| job.workload.fit_path(&job.doc)) {
            part(&self.content(&file)?);
        }
        Ok(hex(&hash.finalize()))
    }

    fn content(&self, path: &Path) -> Result<String> {
        if let Some(known) = self.files.borrow().get(path) {
            return Ok(known.clone());
        }
        let digest = match path.is_dir() {
            true => of_folder(path)?,
            false => of_file(path)?,
        };
        self.files.borrow_mut().insert(path.into(), digest.clone());
        Ok(digest)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn of_file(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        crate::interrupt::check()?;
        match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Of a folder of arrays: names and contents of its files.
fn of_folder(path: &Path) -> Result<String> {
    let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, e))?;
    let mut files = entries.map(|e| Ok(e.map_err(|e| Error::io(path, e))?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|f| f.is_file());
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update(of_file(&file)?);
    }
    Ok(hex(&hash.finalize()))
}
