//! The server's state: collections by name, aliases, and where all of it lies on disk.
//!
//! ```text
//! <storage>/collections/<name>.<random>/{name,config.json,journal,shard/}
//! <storage>/aliases.json
//! <storage>/snapshots/<collection>/*.snapshot      <storage>/snapshots/*.snapshot
//! ```
//!
//! A folder's random part lets a name be used again while the last readers of a dropped collection still hold theirs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::clock;
use super::collection::{Collection, NAME, save};
use super::settings::{CollectionConfig, CreateCollection};
use crate::stand_in::error::{Error, Result};

const ALIASES: &str = "aliases.json";

/// One step of `POST /collections/aliases`; all steps of a request take effect at once.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the names of Qdrant's API")]
pub(crate) enum AliasAction {
    CreateAlias { collection_name: String, alias_name: String },
    DeleteAlias { alias_name: String },
    RenameAlias { old_alias_name: String, new_alias_name: String },
}

#[derive(Debug, Default)]
struct State {
    collections: BTreeMap<String, Arc<Collection>>,
    aliases: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    state: RwLock<State>,
    pub(crate) started: Timestamp,
    pub(crate) id: Uuid,
    pub(crate) peer: u64,
}

impl Store {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("collections"))?;
        let mut state = State::default();
        for entry in fs::read_dir(folder.join("collections"))?.flatten() {
            match fs::read_to_string(entry.path().join(NAME)) {
                Ok(name) => {
                    let collection = Collection::open(&name, &entry.path())?;
                    state.collections.insert(name, collection);
                }
                // Written last when a collection is made, removed first when it is dropped.
                Err(_) => fs::remove_dir_all(entry.path())?,
            }
        }
        if let Ok(aliases) = fs::read(folder.join(ALIASES)) {
            state.aliases = serde_json::from_slice(&aliases).map_err(Error::internal)?;
        }
        let id = Uuid::new_v4();
        let peer = id.as_u64_pair().0 >> 12;
        Ok(Self { folder: folder.to_owned(), state: RwLock::new(state), started: clock::now(), id, peer })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.folder.join("snapshots")
    }

    /// By name or alias.
    pub(crate) fn collection(&self, name: &str) -> Result<Arc<Collection>> {
        let state = self.read();
        let name = state.aliases.get(name).map_or(name, String::as_str);
        state.collections.get(name).cloned().ok_or_else(|| Error::no_collection(name))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Collection>> {
        self.read().collections.values().cloned().collect()
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.collection(name).is_ok()
    }

    pub(crate) fn create(&self, name: &str, create: CreateCollection) -> Result<()> {
        let config = CollectionConfig::new(create)?;
        check_name(name)?;
        let mut state = self.write();
        if state.collections.contains_key(name) || state.aliases.contains_key(name) {
            return Err(Error::AlreadyExists(format!("Collection `{name}` already exists!")));
        }
        self.put(&mut state, name, |folder| Collection::create(folder, &config))
    }

    /// Lets `make` fill the folder of a collection, opens it, and puts it in the place of the one that had its name.
    fn put(&self, state: &mut State, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let folder = self.folder.join("collections").join(format!("{name}.{:08x}", Uuid::new_v4().as_fields().0));
        let made = make(&folder).and_then(|()| {
            fs::write(folder.join(NAME), name)?;
            Collection::open(name, &folder)
        });
        match made {
            Ok(collection) => {
                if let Some(former) = state.collections.insert(name.to_owned(), collection) {
                    former.abandon();
                }
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_dir_all(&folder);
                Err(error)
            }
        }
    }

    /// A new collection, or a new content for one; its aliases stay.
    pub(crate) fn replace(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        check_name(name)?;
        self.put(&mut self.write(), name, make)
    }

    /// Whether there was such a collection. Its aliases go with it.
    pub(crate) fn drop_collection(&self, name: &str) -> Result<bool> {
        let mut state = self.write();
        let Some(collection) = state.collections.remove(name) else { return Ok(false) };
        state.aliases.retain(|_, target| target != name);
        save(&self.folder.join(ALIASES), &state.aliases)?;
        collection.abandon();
        Ok(true)
    }

    /// Alias and collection, of one collection or of all.
    pub(crate) fn aliases(&self, of: Option<&str>) -> Vec<(String, String)> {
        let state = self.read();
        let wanted = state.aliases.iter().filter(|(_, collection)| of.is_none_or(|of| of == *collection));
        wanted.map(|(alias, collection)| (alias.clone(), collection.clone())).collect()
    }

    pub(crate) fn change_aliases(&self, actions: Vec<AliasAction>) -> Result<()> {
        let mut state = self.write();
        let mut aliases = state.aliases.clone();
        let no_alias = |name: &str| Error::NotFound(format!("Alias {name} does not exists!"));
        for action in actions {
            match action {
                AliasAction::CreateAlias { collection_name, alias_name } => {
                    if !state.collections.contains_key(&collection_name) {
                        return Err(Error::no_collection(&collection_name));
                    }
                    if state.collections.contains_key(&alias_name) {
                        return Err(Error::AlreadyExists(format!("Collection `{alias_name}` already exists!")));
                    }
                    aliases.insert(alias_name, collection_name);
                }
                AliasAction::DeleteAlias { alias_name } => {
                    aliases.remove(&alias_name);
                }
                AliasAction::RenameAlias { old_alias_name, new_alias_name } => {
                    let target = aliases.remove(&old_alias_name).ok_or_else(|| no_alias(&old_alias_name))?;
                    aliases.insert(new_alias_name, target);
                }
            }
        }
        save(&self.folder.join(ALIASES), &aliases)?;
        state.aliases = aliases;
        Ok(())
    }
}

/// A name is part of paths, on disk and in URLs.
fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 200 || name.contains(['<', '>', ':', '"', '/', '\\', '|', '?', '*', '\0']) {
        return Err(Error::BadInput(format!("Collection name `{name}` is not valid")));
    }
    Ok(())
}
