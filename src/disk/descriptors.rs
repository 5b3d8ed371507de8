//! Descriptors that one who has its own may have besides: for the files of a group, and for the directories of
//! a sweep. Nobody waits for one.

use super::lock;
use crate::limits;
use std::sync::Mutex;

/// How many are taken.
#[derive(Debug, Default)]
pub(super) struct Descriptors(Mutex<usize>);

impl Descriptors {
    /// Takes as many of these as there are, and returns their number.
    pub(super) fn take(&self, wanted: usize) -> usize {
        let mut taken = lock(&self.0);
        let got = wanted.min(limits::SPARE_DESCRIPTORS - *taken);
        *taken += got;
        got
    }

    pub(super) fn put_back(&self, number: usize) {
        let mut taken = lock(&self.0);
        debug_assert!(number <= *taken);
        *taken -= number;
    }
}
