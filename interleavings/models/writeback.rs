//! The tending thread, and two writers whose files it has synchronised. One sync of three fails.
//!
//! Claims: one sync at a time, and none of a file that was closed; a failed one is told by the close; whoever asks
//! for a sync or wakes the thread is served without a time that has to pass.

use super::*;
use crate::world::time::{at_rest, settle};
use crate::world::{choose, refuse_one_in, switch, thread};
use std::cell::{Cell, RefCell};

thread_local! {
    static SYNCS: Cell<usize> = const { Cell::new(0) };
    /// The files of which a sync failed, which is to be told.
    static FAILED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// The files that are open.
    static OPEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// Whether the housekeeping has something to do.
    static TO_DO: Cell<bool> = const { Cell::new(false) };
    /// Whether all is over.
    static IS_OVER: Cell<bool> = const { Cell::new(false) };
}

/// Takes the place of that of std in the file under test.
#[derive(Debug)]
pub struct File(String);

impl Drop for File {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.retain(|name| *name != self.0));
    }
}

impl File {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        switch();
        let name = path.to_str().unwrap().to_owned();
        OPEN.with_borrow_mut(|open| open.push(name.clone()));
        Ok(Self(name))
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        SYNCS.set(SYNCS.get() + 1);
        assert_eq!(SYNCS.get(), 1, "two syncs at once");
        match choose(2) {
            0 => switch(),
            _ => thread::sleep(Duration::from_secs(1)),
        }
        SYNCS.set(SYNCS.get() - 1);
        if choose(3) > 0 {
            return Ok(());
        }
        FAILED.with_borrow_mut(|failed| failed.push(self.0.clone()));
        Err(io::ErrorKind::StorageFull.into())
    }
}

pub fn run() {
    (
        SYNCS.set(0),
        FAILED.take(),
        OPEN.take(),
        TO_DO.set(false),
        refuse_one_in([0, 2][choose(2) as usize]),
    );
    IS_OVER.set(false);
    let writeback = Arc::new(Writeback::default());
    let for_rest = writeback.clone();
    at_rest(move || {
        let state = lock(&for_rest.state);
        // A thread that cannot be started leaves its work to this one.
        let syncs = SYNCS.get() > 0 || IS_OVER.get();
        assert!(state.next.is_none() || syncs, "a sync could begin: {state:?}");
        assert!(syncs || !TO_DO.get(), "the housekeeping was not woken");
    });
    let tended = writeback.clone();
    let tending = thread::spawn(move || {
        let for_thread = tended.clone();
        let start_sync = || {
            let tended = for_thread.clone();
            thread::Builder::new().spawn(move || tended.sync_requested()).is_ok()
        };
        tended.run(start_sync, || {
            TO_DO.set(false);
            if IS_OVER.get() { Err(()) } else { Ok(Duration::from_secs(3600)) }
        })
    });
    let writers: Vec<_> = (0..2)
        .map(|number| {
            let writeback = writeback.clone();
            thread::spawn(move || write(writeback, &number.to_string()))
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    IS_OVER.set(true);
    writeback.wake();
    tending.join().unwrap();
    // A thread of its own may still take the last request.
    settle();
    assert_eq!(SYNCS.get(), 0);
}

fn write(writeback: Arc<Writeback>, name: &str) {
    let mut file = BackgroundSync::new(writeback.clone());
    for _ in 0..3 {
        file.wrote(usize::try_from(limits::WRITEBACK).unwrap(), Path::new(name));
        if choose(3) == 0 {
            TO_DO.set(true);
            writeback.wake();
        }
        match choose(2) {
            0 => switch(),
            _ => thread::sleep(Duration::from_millis(700)),
        }
    }
    let closed = file.close();
    let failed = FAILED.with_borrow(|failed| failed.iter().any(|it| it == name));
    assert_eq!(closed.is_err(), failed, "the error of a sync");
    let is_open = OPEN.with_borrow(|open| open.iter().any(|it| it == name));
    assert!(!is_open, "the file is still open");
}
