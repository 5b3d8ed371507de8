//! The order of lists, where files replace others. What an older list still brings, after its sender has asked anew with
//! a newer file, must not take the place of that.

use super::lock;
use super::name::SafeName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// The lists whose files are being received.
#[derive(Debug, Default)]
pub(super) struct ListOrder {
    /// In the order in which they began.
    lists: Mutex<Vec<Weak<ListNames>>>,
    replacing: Mutex<()>,
}

/// The names of the files of a list, and whether a list that began later has stored a file of that name.
#[derive(Debug, Default)]
pub(super) struct ListNames(Mutex<BTreeMap<SafeName, bool>>);

/// A file of a list.
#[derive(Debug)]
pub(super) struct ListedName {
    list: Arc<ListNames>,
    name: SafeName,
}

impl ListOrder {
    /// Registers a list.
    pub(super) fn begin(&self) -> Arc<ListNames> {
        let list = Arc::default();
        let mut lists = lock(&self.lists);
        lists.retain(|list| list.strong_count() > 0);
        lists.push(Arc::downgrade(&list));
        list
    }

    /// Waits until nobody replaces a file. Nobody else does until the guard is dropped, so that what was looked at
    /// before is so afterwards.
    pub(super) fn take_turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.replacing)
    }

    /// Notes that a file has its name, for the lists that began before its own.
    pub(super) fn note_stored(&self, file: &ListedName) {
        let lists = lock(&self.lists);
        let lists = lists.iter().filter_map(Weak::upgrade);
        for earlier in lists.take_while(|list| !Arc::ptr_eq(list, &file.list)) {
            if let Some(is_superseded) = lock(&earlier.0).get_mut(&file.name) {
                *is_superseded = true;
            }
        }
    }
}

impl ListNames {
    /// Adds the name of a file.
    pub(super) fn add(&self, name: &SafeName) {
        lock(&self.0).entry(name.clone()).or_default();
    }
}

impl ListedName {
    pub(super) fn new(list: &Arc<ListNames>, name: &SafeName) -> Self {
        Self { list: list.clone(), name: name.clone() }
    }

    /// Returns whether a list that began later has stored a file of this name.
    pub(super) fn is_superseded(&self) -> bool {
        lock(&self.list.0).get(&self.name) == Some(&true)
    }
}
