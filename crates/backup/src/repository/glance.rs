//! A look at an object store that needs no key: is the repository there, and has anything changed?

use super::CONFIG;
use super::store::{Store, time_of};
use crate::error::{Error, Result};
use crate::place::{Patience, Place};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What lies in these tells of the sets.
const TELLING: [&str; 3] = ["keys", "receipts", "snapshots"];

/// Whether it is there. With `listed`, one number for what it holds: three lists, each of which a store may charge for.
pub(crate) fn glance(place: &Place, listed: bool) -> Result<Option<u64>> {
    let store = Store::open(place, Patience::Look)?;
    if !store.exists(CONFIG).map_err(|error| store.refused(&error))? {
        return Err(Error::NoRepository { place: place.to_string() });
    }
    if !listed {
        return Ok(None);
    }
    let mut seen = Vec::new();
    for folder in TELLING {
        let objects = store.objects_in(folder).map_err(|error| store.refused(&error))?;
        seen.extend(
            objects.into_iter().map(|object| {
                (object.location.to_string(), object.size, time_of(&object).as_microsecond(), object.e_tag)
            }),
        );
    }
    seen.sort();
    let mut hasher = DefaultHasher::new();
    seen.hash(&mut hasher);
    Ok(Some(hasher.finish()))
}
