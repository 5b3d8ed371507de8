//! What the copy of the source has in place of std: shuttle's threads and locks, a clock that goes on when the
//! scheduler says so, and a disk, streams and commands at which another thread may go on.

use std::cell::Cell;
use std::time::Duration;

/// A point at which another thread may go on.
pub fn switch() {
    shuttle::thread::sleep(Duration::ZERO);
}

/// Returns a number below `n`, which the seed of the schedule decides.
pub fn choose(n: u64) -> u64 {
    use shuttle::rand::RngCore;
    shuttle::rand::thread_rng().next_u64() % n
}

/// Returns a directory for files, in memory where there is a place for that.
pub fn directory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

thread_local! {
    static REFUSALS: Cell<u64> = const { Cell::new(0) };
}

/// From now on one of `n` threads and commands cannot be started; 0: none is refused.
pub fn refuse_one_in(n: u64) {
    REFUSALS.set(n);
}

fn refused() -> std::io::Result<()> {
    let n = REFUSALS.get();
    if n > 0 && choose(n) == 0 { Err(std::io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

pub mod time {
    //! Time that stands still until the task of the clock moves it to the next deadline.

    use crate::schedulers::{is_patient, set_patient};
    use shuttle::thread::{self, Thread};
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::ops::{Add, AddAssign, Sub};
    use std::rc::Rc;
    use std::sync::Arc;
    pub use std::time::{Duration, SystemTime, UNIX_EPOCH};

    /// Time since the start of the execution.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Instant(Duration);

    impl Instant {
        pub fn now() -> Self {
            Self(CLOCK.with_borrow(|clock| clock.now))
        }

        pub const START: Self = Self(Duration::ZERO);

        pub fn elapsed(&self) -> Duration {
            Self::now().0 - self.0
        }

        pub fn duration_since(&self, earlier: Self) -> Duration {
            self.saturating_duration_since(earlier)
        }

        pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }

        pub fn checked_sub(&self, time: Duration) -> Option<Self> {
            self.0.checked_sub(time).map(Self)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Self;
        fn add(self, time: Duration) -> Self {
            Self(self.0 + time)
        }
    }

    impl AddAssign<Duration> for Instant {
        fn add_assign(&mut self, time: Duration) {
            self.0 += time;
        }
    }

    impl Sub for Instant {
        type Output = Duration;
        fn sub(self, earlier: Self) -> Duration {
            self.saturating_duration_since(earlier)
        }
    }

    /// What a deadline wakes.
    pub(super) enum Sleeper {
        Condvar(Arc<shuttle::sync::Condvar>),
        Thread(Thread),
    }

    #[derive(Default)]
    struct Clock {
        now: Duration,
        deadlines: BTreeMap<(Duration, usize), Arc<Sleeper>>,
        count: usize,
        task: Option<Thread>,
        is_over: bool,
    }

    thread_local! {
        static CLOCK: RefCell<Clock> = RefCell::default();
        static AT_REST: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
    }

    /// Checks whenever nobody goes on without the clock. It has to be true then that nobody may.
    pub fn at_rest(check: impl Fn() + 'static) {
        AT_REST.set(Some(Rc::new(check)));
    }

    /// A deadline. Dropping it takes it back.
    pub(super) struct Deadline((Duration, usize));

    impl Deadline {
        pub(super) fn new(time: Duration, sleeper: Sleeper) -> Self {
            let (key, task) = CLOCK.with_borrow_mut(|clock| {
                clock.count += 1;
                // However short, it passes.
                let key = (clock.now + time.max(Duration::from_nanos(1)), clock.count);
                clock.deadlines.insert(key, Arc::new(sleeper));
                (key, clock.task.clone())
            });
            task.iter().for_each(Thread::unpark);
            Self(key)
        }

        pub(super) fn is_over(&self) -> bool {
            self.0.0 <= Instant::now().0
        }
    }

    impl Drop for Deadline {
        fn drop(&mut self) {
            CLOCK.with_borrow_mut(|clock| clock.deadlines.remove(&self.0));
        }
    }

    /// Runs `work` with a clock, whose task is the first that is started. Deadlines that remain have to pass.
    pub fn with_clock(work: impl FnOnce()) {
        (CLOCK.take(), AT_REST.take());
        let clock = thread::spawn(run);
        let task = clock.thread().clone();
        CLOCK.with_borrow_mut(|clock| clock.task = Some(task.clone()));
        set_patient(super::choose(2) == 0);
        work();
        AT_REST.take();
        CLOCK.with_borrow_mut(|clock| clock.is_over = true);
        task.unpark();
        clock.join().unwrap();
    }

    /// Waits until everybody has come to an end that can without further ado.
    pub fn settle() {
        set_patient(true);
        super::thread::sleep(Duration::from_secs(24 * 3600));
    }

    /// Moves the time to the next deadline, again and again.
    fn run() {
        loop {
            let check = AT_REST.with_borrow(Clone::clone).filter(|_| is_patient());
            check.inspect(|check| check());
            let next = CLOCK.with_borrow_mut(|clock| {
                if clock.is_over && clock.deadlines.is_empty() {
                    return None;
                }
                let first = clock.deadlines.keys().next().map(|key| key.0);
                clock.now = clock.now.max(first.unwrap_or_default());
                let over = clock.deadlines.range(..=(clock.now, usize::MAX));
                Some(over.map(|(_, sleeper)| sleeper.clone()).collect::<Vec<_>>())
            });
            let Some(sleepers) = next else { return };
            if sleepers.is_empty() {
                thread::park();
            }
            for sleeper in sleepers {
                match &*sleeper {
                    Sleeper::Condvar(condvar) => condvar.notify_all(),
                    Sleeper::Thread(thread) => thread.unpark(),
                }
            }
            // One that had not begun to wait is woken next time.
            thread::yield_now();
        }
    }
}

pub mod thread {
    //! Threads of shuttle, which sleep by the clock.

    use super::sync::{Condvar, Mutex};
    use super::time::{Deadline, Sleeper};
    pub use shuttle::thread::*;
    use std::io;
    use std::time::Duration;

    pub fn sleep(time: Duration) {
        let (lock, never) = (Mutex::new(()), Condvar::new());
        drop(never.wait_timeout_while(lock.lock().unwrap(), time, |()| true));
    }

    pub fn park_timeout(time: Duration) {
        let _deadline = Deadline::new(time, Sleeper::Thread(current()));
        park();
    }

    #[derive(Default)]
    pub struct Builder;

    impl Builder {
        pub fn new() -> Self {
            Self
        }

        pub fn stack_size(self, _bytes: usize) -> Self {
            self
        }

        pub fn spawn<T: Send + 'static>(
            self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            super::refused().map(|()| spawn(work))
        }

        pub fn spawn_scoped<'scope, T: Send + 'scope>(
            self,
            scope: &'scope Scope<'scope, '_>,
            work: impl FnOnce() -> T + Send + 'scope,
        ) -> io::Result<ScopedJoinHandle<'scope, T>> {
            super::refused().map(|()| scope.spawn(work))
        }
    }
}

pub mod sync {
    //! Locks of shuttle, and waits that end by the clock.

    use super::time::{Deadline, Sleeper};
    pub use shuttle::sync::{Arc, LockResult, Mutex, MutexGuard, PoisonError, Weak, atomic};
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub struct Condvar(Arc<shuttle::sync::Condvar>);

    type Timed<'a, T> = LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>;

    /// Whether the time was over.
    pub struct WaitTimeoutResult(bool);

    impl WaitTimeoutResult {
        pub fn timed_out(&self) -> bool {
            self.0
        }
    }

    impl Condvar {
        pub fn new() -> Self {
            Self::default()
        }

        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }

        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
            self.0.wait(guard)
        }

        pub fn wait_while<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            condition: impl FnMut(&mut T) -> bool,
        ) -> LockResult<MutexGuard<'a, T>> {
            self.0.wait_while(guard, condition)
        }

        pub fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            time: Duration,
        ) -> Timed<'a, T> {
            let deadline = Deadline::new(time, Sleeper::Condvar(self.0.clone()));
            let guard = self.wait(guard).unwrap_or_else(PoisonError::into_inner);
            Ok((guard, WaitTimeoutResult(deadline.is_over())))
        }

        pub fn wait_timeout_while<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            time: Duration,
            mut condition: impl FnMut(&mut T) -> bool,
        ) -> Timed<'a, T> {
            let deadline = Deadline::new(time, Sleeper::Condvar(self.0.clone()));
            while condition(&mut guard) {
                if deadline.is_over() {
                    return Ok((guard, WaitTimeoutResult(true)));
                }
                guard = self.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            Ok((guard, WaitTimeoutResult(false)))
        }
    }

    pub mod mpsc {
        //! A channel whose receiver waits by the clock. Nothing is sent through it: it tells that its sender is gone.

        use super::{Arc, Condvar, Mutex};
        use std::marker::PhantomData;
        pub use std::sync::mpsc::RecvTimeoutError;
        use std::time::Duration;

        type IsGone = Arc<(Mutex<bool>, Condvar)>;

        #[derive(Debug)]
        pub struct Sender<T>(IsGone, PhantomData<T>);
        #[derive(Debug)]
        pub struct Receiver<T>(IsGone, PhantomData<T>);

        pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
            let is_gone = Arc::new((Mutex::new(false), Condvar::new()));
            (Sender(is_gone.clone(), PhantomData), Receiver(is_gone, PhantomData))
        }

        impl<T> Receiver<T> {
            pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
                let (is_gone, changed) = &*self.0;
                let waited =
                    changed.wait_timeout_while(is_gone.lock().unwrap(), time, |gone| !*gone);
                Err(match waited.unwrap().1.timed_out() {
                    true => RecvTimeoutError::Timeout,
                    false => RecvTimeoutError::Disconnected,
                })
            }
        }

        impl<T> Drop for Sender<T> {
            fn drop(&mut self) {
                *self.0.0.lock().unwrap() = true;
                self.0.1.notify_all();
            }
        }
    }
}

pub mod fs {
    //! The disk, which takes its time.

    use std::cell::Cell;
    pub use std::fs::*;
    use std::io;
    use std::path::Path;

    thread_local! {
        static READS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }

    /// Returns how many times it was begun to read a partial file, and how many of these have ended.
    pub fn reads() -> (usize, usize) {
        READS.get()
    }

    /// A partial file is being read.
    pub struct Reading;

    impl Reading {
        pub fn begin() -> Self {
            let (begun, ended) = READS.get();
            READS.set((begun + 1, ended));
            // A slow disk.
            (0..super::choose(40)).for_each(|_| super::switch());
            Self
        }
    }

    impl Drop for Reading {
        fn drop(&mut self) {
            let (begun, ended) = READS.get();
            READS.set((begun, ended + 1));
        }
    }

    pub fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        super::switch();
        std::fs::hard_link(from, to)
    }

    pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        super::switch();
        std::fs::rename(from, to)
    }

    pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
        super::switch();
        std::fs::remove_file(path)
    }

    pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
        super::switch();
        std::fs::symlink_metadata(path)
    }
}

pub mod io {
    //! Streams that remember what was written.

    use std::cell::RefCell;
    pub use std::io::*;

    thread_local! {
        static WRITTEN: RefCell<String> = const { RefCell::new(String::new()) };
    }

    /// Returns what was written to both streams, and forgets it.
    pub fn written() -> String {
        WRITTEN.take()
    }

    pub struct Stream;

    pub fn stdout() -> Stream {
        Stream
    }

    pub fn stderr() -> Stream {
        Stream
    }

    impl Stream {
        pub fn is_terminal(&self) -> bool {
            false
        }
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            super::switch();
            // A part of it, as a pipe may.
            let n = bytes.len().min(7);
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            WRITTEN.with_borrow_mut(|written| written.push_str(&text));
            Ok(n)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }
}

pub mod process {
    //! Commands that take some time of the clock, and count how many of them run.

    use super::time::Instant;
    use std::cell::Cell;
    use std::ffi::OsStr;
    use std::io::{self, Read};
    use std::os::unix::process::ExitStatusExt;
    pub use std::process::*;
    use std::time::Duration;

    thread_local! {
        static RUNNING: Cell<usize> = const { Cell::new(0) };
        static MOST: Cell<usize> = const { Cell::new(0) };
        static STARTED: Cell<usize> = const { Cell::new(0) };
    }

    /// Returns how many run, how many were started, and how many ran at once at most, and begins anew.
    pub fn count() -> (usize, usize, usize) {
        (RUNNING.take(), STARTED.take(), MOST.take())
    }

    /// Returns how many run.
    pub fn running() -> usize {
        RUNNING.get()
    }

    #[derive(Debug)]
    pub struct Command;

    impl Command {
        pub fn new(_program: impl AsRef<OsStr>) -> Self {
            Self
        }

        pub fn arg(&mut self, _: impl AsRef<OsStr>) -> &mut Self {
            self
        }

        pub fn args<W: AsRef<OsStr>>(&mut self, _: impl IntoIterator<Item = W>) -> &mut Self {
            self
        }

        pub fn env(&mut self, _: impl AsRef<OsStr>, _: impl AsRef<OsStr>) -> &mut Self {
            self
        }

        pub fn env_remove(&mut self, _: impl AsRef<OsStr>) -> &mut Self {
            self
        }

        pub fn stdin(&mut self, _: impl Into<Stdio>) -> &mut Self {
            self
        }

        pub fn stdout(&mut self, _: impl Into<Stdio>) -> &mut Self {
            self
        }

        pub fn stderr(&mut self, _: impl Into<Stdio>) -> &mut Self {
            self
        }

        /// Starts one that takes no time, less than its limit, or more.
        pub fn spawn(&mut self) -> io::Result<Child> {
            super::switch();
            super::refused()?;
            RUNNING.set(RUNNING.get() + 1);
            STARTED.set(STARTED.get() + 1);
            MOST.set(MOST.get().max(RUNNING.get()));
            let time = |n| Duration::from_millis([0, 3, 700, 90_000][n as usize]);
            let ends = Instant::now() + time(super::choose(4));
            // What it leaves may write for longer.
            let closes = Instant::now() + time(super::choose(4));
            Ok(Child { stderr: Some(ChildStderr(closes)), ends, runs: true })
        }
    }

    #[derive(Debug)]
    pub struct Child {
        pub stderr: Option<ChildStderr>,
        ends: Instant,
        runs: bool,
    }

    impl Child {
        pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
            super::switch();
            let has_ended = self.ends <= Instant::now();
            if has_ended && self.runs {
                self.runs = false;
                RUNNING.set(RUNNING.get() - 1);
            }
            Ok(has_ended.then(|| ExitStatus::from_raw(0)))
        }

        pub fn kill(&mut self) -> io::Result<()> {
            self.ends = Instant::now();
            Ok(())
        }

        pub fn wait(&mut self) -> io::Result<Option<ExitStatus>> {
            self.try_wait()
        }
    }

    #[derive(Debug)]
    pub struct ChildStderr(Instant);

    impl Read for ChildStderr {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            super::thread::sleep(self.0 - Instant::now());
            Ok(0)
        }
    }
}
