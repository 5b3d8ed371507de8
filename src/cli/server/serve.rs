//! Serving: where connections come from, and what is logged and run for the files that they bring.

use super::exec::{Commands, ConversationId, Job};
use super::log::{Entry, Log, truncated};
use super::options::Options;
use crate::cli::Blocking;
use crate::cli::exit::Exit;
use crate::cli::meter::Id;
use crate::limits;
use crate::net::admission::{Admission, AdmissionPolicy};
use crate::net::dial::{Address, Dialer};
use crate::net::inherit::{self, Inherited};
use crate::net::listen::{self, Accepted};
use crate::net::notify;
use crate::net::peer::Peer;
use crate::net::timed_stream::{TimedStream, Timeouts};
use crate::text::{Escaped, Reason};
use crate::transfer::Connection;
use crate::transfer::error::{ReceiveError, is_own};
use crate::transfer::receive::{self, Event, MAY_BE_CUT, Storage, Stored};
use crate::wire::receipt::Status;
use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Starts a thread.
pub(super) fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().stack_size(limits::STACK).spawn(work);
    thread.map(drop).map_err(|error| format!("cannot start a thread: {}", Reason(&error)))
}

/// What all conversations share.
pub(super) struct Server {
    storage: Storage,
    commands: Arc<Commands>,
    log: Log,
    timeouts: Timeouts,
    quiet: bool,
    verbose: bool,
    /// The value of `NOTIFY_SOCKET`, if there is one.
    notify_socket: Option<OsString>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What the main thread waits for.
#[derive(Default)]
struct State {
    /// With --once: the outcome of the transfer. `Local` if the drop directory is gone.
    outcome: Option<Exit>,
    /// Conversations that are receiving files. Without a service manager this stays 0.
    transfers: usize,
    /// Whether to wake the main thread when that changes.
    is_watched: bool,
}

impl Server {
    pub(super) fn new(
        storage: Storage,
        commands: Arc<Commands>,
        log: Log,
        options: &Options,
        notify_socket: Option<OsString>,
    ) -> Arc<Self> {
        let &Options { timeouts, quiet, verbose, .. } = options;
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self {
            storage,
            commands,
            log,
            timeouts,
            quiet,
            verbose,
            notify_socket,
            state,
            changed,
        })
    }

    /// Locks the state. Every update is atomic, so the lock is usable even if poisoned.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maintains the drop directory. If the directory is gone, ends the program, so that its supervisor
    /// starts it again.
    pub(super) fn maintenance_loop(self: &Arc<Self>) {
        let start_sync = || {
            let server = self.clone();
            spawn(move || server.storage.inbox.sync_requested()).is_ok()
        };
        let on_swept = |parts| {
            if !self.quiet {
                self.log.log(&Entry::Swept(parts));
            }
        };
        let gone = self.storage.inbox.maintenance_loop(&start_sync, &on_swept);
        self.log.log(&Entry::Error(&format!("{gone} (start qdropd again)")));
        self.set_outcome(Exit::Local);
    }

    /// Removes the partial files and the heartbeat, and waits for the commands.
    pub(super) fn finish(&self) {
        self.storage.inbox.close();
        self.commands.wait();
    }

    /// Listens on these addresses and serves connections.
    pub(super) fn listen(
        self: &Arc<Self>,
        addresses: &[SocketAddr],
        policy: &AdmissionPolicy,
    ) -> Result<Exit, String> {
        let mut listeners = Vec::new();
        for (index, &address) in addresses.iter().enumerate() {
            let others = &addresses[..index];
            let bound = listen::listen(address)
                .map_err(|error| crate::cli::cannot_listen(address, &error, others))?;
            listeners.push(bound);
        }
        self.serve_listeners(listeners, policy)
    }

    fn serve_listeners(
        self: &Arc<Self>,
        listeners: Vec<(SocketAddr, TcpListener)>,
        policy: &AdmissionPolicy,
    ) -> Result<Exit, String> {
        let admission = Admission::new(policy.clone());
        for (address, listener) in listeners {
            let (admission, server) = (admission.clone(), self.clone());
            let (once, timeouts) = (policy.once, self.timeouts);
            spawn(move || {
                admission
                    .accept_loop(&listener, timeouts, move |accepted| server.serve(accepted, once));
            })?;
            self.log.printer.print(format!("listening on {address}"));
            if !self.quiet {
                let hint = crate::cli::listener_hint(address, "send to", ["qdrop", " FILE"]);
                self.log.log(&Entry::Listening(address, &hint));
            }
        }
        self.notify_ready();
        Ok(self.wait_for_outcome())
    }

    /// Tells the service manager, if there is one, that connections are accepted.
    fn notify_ready(&self) {
        let Some(socket) = &self.notify_socket else { return };
        let told = notify::notify(socket, "READY=1", Some(limits::NOTIFY_TIME));
        if let Err(error) = told {
            let (shown, reason) = (socket.to_string_lossy(), Reason(&error));
            let (shown, what) = (Escaped(&shown), "cannot notify the service manager at");
            self.log.log(&Entry::Warning(&format!("{what} {shown}: {reason} (NOTIFY_SOCKET)")));
        }
    }

    /// Sends a message to the service manager, if there is one. Returns false if that has to read earlier ones first.
    /// Any other failure was mostly logged at the start.
    pub(super) fn notify(&self, message: &str) -> bool {
        let Some(socket) = &self.notify_socket else { return true };
        let sent = notify::notify(socket, message, None);
        !sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Waits for the outcome: without --once until the drop directory is gone, if ever. Meanwhile tells the
    /// service manager the number of transfers, so that no transfer waits for that.
    fn wait_for_outcome(&self) -> Exit {
        let (mut state, mut told) = (self.state(), 0);
        loop {
            // Who wakes this thread takes the mark, and the number may be the old one again when it looks.
            let waited = self.changed.wait_while(state, |state| {
                state.is_watched = state.outcome.is_none() && state.transfers == told;
                state.is_watched
            });
            state = waited.unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            let transfers = state.transfers;
            drop(state);
            if self.notify(&format!("STATUS=transfers under way: {transfers}")) {
                told = transfers;
            }
            // What changes meanwhile is one message.
            let no_outcome = |state: &mut State| state.outcome.is_none();
            let pause = limits::STATUS_PAUSE;
            let waited = self.changed.wait_timeout_while(self.state(), pause, no_outcome);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Counts a transfer that has begun, or one that has ended, for the service manager, if there is one.
    fn count(&self, has_begun: bool) {
        if self.notify_socket.is_none() {
            return;
        }
        let mut state = self.state();
        if has_begun {
            state.transfers += 1;
        } else {
            state.transfers -= 1;
        }
        if mem::take(&mut state.is_watched) {
            self.changed.notify_all();
        }
    }

    /// Connects to a sender that listens, and receives one transfer.
    pub(super) fn receive_from(&self, host: &Address) -> Exit {
        let stream = match Dialer::new(host, limits::CONNECT_TIME).dial(Duration::ZERO) {
            Ok(stream) => stream,
            Err(error) => {
                let refused = " (is qdrop --listen running there?)";
                let why = format!("{error}{}", crate::cli::connect_hint(host, &error, refused));
                return self.log_no_transfer(Exit::Unreachable, host, &why);
            }
        };
        let connected = stream
            .peer_addr()
            .and_then(|peer| Ok((peer, TimedStream::new(stream, self.timeouts, None)?)));
        match connected {
            Ok((peer, mut stream)) => self.handle_only(&mut stream, peer.into(), host),
            Err(error) => self.log_no_transfer(Exit::Broken, host, &Reason(&error)),
        }
    }

    /// Serves the socket on standard input.
    pub(super) fn serve_inherited(
        self: &Arc<Self>,
        policy: &AdmissionPolicy,
    ) -> Result<Exit, String> {
        let input = inherit::standard_input().map_err(|error| {
            let hint = "inetd gives one, and systemd with StandardInput=socket";
            format!("cannot use standard input as a socket of TCP: {} ({hint})", Reason(&error))
        })?;
        match input {
            Inherited::Listener(address, listener) => {
                self.serve_listeners(vec![(address, listener)], policy)
            }
            Inherited::Connection(stream, peer) => Ok(self.serve_one(stream, peer, policy)),
            Inherited::Lost => {
                self.log.log(&Entry::Error("standard input is a broken connection"));
                Ok(Exit::Broken)
            }
        }
    }

    /// Serves a connection that inetd has accepted.
    fn serve_one(&self, stream: TcpStream, peer: SocketAddr, policy: &AdmissionPolicy) -> Exit {
        let accepted = Admission::new(policy.clone()).accept(stream, peer, self.timeouts);
        match accepted {
            Ok(Accepted { mut stream, peer, refusal: Some(why) }) => {
                self.refuse(&mut stream, peer.into(), why);
                Exit::Refused
            }
            Ok(Accepted { mut stream, peer, .. }) => {
                self.handle_only(&mut stream, peer.into(), &peer)
            }
            Err(error) => self.log_no_transfer(Exit::Broken, &peer, &Reason(&error)),
        }
    }

    /// Receives from whoever is at the other end of standard input and output.
    pub(super) fn serve_stdio(&self) -> Result<Exit, String> {
        let cannot_use = |why: &dyn Display| {
            format!("cannot use standard input and output as a connection: {why}")
        };
        if io::stdin().is_terminal() || io::stdout().is_terminal() {
            return Err(cannot_use(
                &"there is a terminal (qdrop --via starts this; ssh without -t)",
            ));
        }
        let (stream, bridge) = inherit::standard_streams(Blocking(io::stdout()))
            .map_err(|error| cannot_use(&Reason(&error)))?;
        let peer = stream.peer_addr().ok().or_else(peer_of_ssh).map_or(Peer::Stdio, Peer::from);
        let exit = match TimedStream::new(stream, self.timeouts, None) {
            Ok(mut stream) => self.handle_only(&mut stream, peer, &peer),
            Err(error) => self.log_no_transfer(Exit::Broken, &peer, &Reason(&error)),
        };
        if let Some(bridge) = bridge {
            bridge.wait(self.timeouts.idle);
        }
        Ok(exit)
    }

    /// Serves an accepted connection. With --once, connections are served one after another. The first
    /// that brings a file, or is refused for what it brings, is the outcome.
    fn serve(&self, accepted: io::Result<Accepted>, once: bool) {
        let Accepted { mut stream, peer, refusal } = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let why = format!("cannot accept connections: {}", Reason(&error));
                self.log.log(&Entry::Error(&why));
                return;
            }
        };
        if let Some(why) = refusal {
            self.refuse(&mut stream, peer.into(), why);
            return;
        }
        if !once {
            self.handle(&mut stream, peer.into());
            return;
        }
        let Some(exit) = self.handle(&mut stream, peer.into()).exit else { return };
        self.set_outcome(exit);
        // The connection keeps its place, so that no other one transfers until the program exits.
        loop {
            thread::park();
        }
    }

    /// Records the outcome and wakes the thread that waits for it.
    fn set_outcome(&self, exit: Exit) {
        self.state().outcome = Some(exit);
        self.changed.notify_all();
    }

    fn refuse(&self, stream: &mut TimedStream, peer: Peer, why: ReceiveError) {
        self.log.log(&Entry::NotStored(peer, None, &why));
        let _ = receive::refuse(stream, why);
    }

    /// Receives from the only sender, which is named as `from`.
    fn handle_only(&self, stream: &mut TimedStream, peer: Peer, from: &dyn Display) -> Exit {
        let observer = self.handle(stream, peer);
        match observer.exit {
            Some(exit) => exit,
            // `log_outcome` has logged this.
            None if observer.is_silent => Exit::Broken,
            None => self.log_no_transfer(Exit::Broken, from, &"it closed without sending a file"),
        }
    }

    /// Receives the files of a connection.
    fn handle(&self, stream: &mut TimedStream, peer: Peer) -> TransferObserver<'_> {
        if self.verbose {
            self.log.log(&Entry::Connected(peer));
        }
        let mut observer = TransferObserver {
            server: self,
            peer,
            key: stream.key(),
            file: None,
            whole: VecDeque::new(),
            is_counted: false,
            exit: None,
            is_silent: false,
            conversation: self.commands.begin(),
        };
        let delivered =
            receive::receive(stream, &self.storage, &mut |event| observer.on_event(event));
        if let Err(error) = delivered {
            // Many senders do not wait for receipts.
            if self.verbose || is_own(&error) {
                self.log.log(&Entry::Undelivered(peer, &error));
            }
        }
        self.commands.run(observer.conversation);
        observer
    }

    /// Logs that nothing was received from the only sender, and returns `exit`.
    fn log_no_transfer(&self, exit: Exit, from: &dyn Display, why: &dyn Display) -> Exit {
        self.log.log(&Entry::NoTransfer(from, why));
        exit
    }
}

/// Returns the address of the peer that sshd tells a session (ssh(1), `SSH_CONNECTION`).
fn peer_of_ssh() -> Option<SocketAddr> {
    let connection = env::var("SSH_CONNECTION").ok()?;
    let mut words = connection.split(' ');
    Some(SocketAddr::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Logs the events of one conversation, and derives its exit status and commands.
struct TransferObserver<'a> {
    server: &'a Server,
    peer: Peer,
    /// See [`Connection::key`].
    key: u128,
    file: Option<ReceivedFile>,
    /// Files that are whole and have not ended.
    whole: VecDeque<ReceivedFile>,
    /// Whether it is one of [`State::transfers`].
    is_counted: bool,
    /// The status of the first failure, if any file came.
    exit: Option<Exit>,
    /// Whether the peer connected and sent nothing.
    is_silent: bool,
    /// Its commands are run after the conversation, when the receipts are written.
    conversation: ConversationId,
}

struct ReceivedFile {
    /// The name as it was sent. Without commands, as much of it as the log shows.
    name: String,
    began: Instant,
    id: Id,
}

impl TransferObserver<'_> {
    fn on_event(&mut self, event: &Event<'_>) {
        let log = &self.server.log;
        match *event {
            Event::Began(name, size) => {
                let shown = truncated(name);
                let id = log.printer.begin_from(shown.clone(), Some(self.peer), size);
                // Only commands get the full name.
                let has_command = [true, false].iter().any(|&it| self.server.commands.has(it));
                let name = if has_command { name.to_owned() } else { shown };
                self.file = Some(ReceivedFile { name, began: Instant::now(), id });
            }
            Event::Resumed(bytes) => {
                if let Some(file) = &self.file {
                    log.printer.resume(file.id, bytes);
                }
            }
            Event::Advanced(bytes) => {
                if let Some(file) = &self.file {
                    log.printer.advance(file.id, bytes);
                }
            }
            Event::MayBeCut(stored) => {
                log.log(&Entry::MayBeCut(self.peer, &stored.name));
                self.server.commands.discard(self.conversation);
            }
            Event::TemporaryNotRemoved(error) => {
                log.log(&Entry::TemporaryNotRemoved(self.peer, error));
            }
            Event::TimeNotPreserved(error) => log.log(&Entry::TimeNotPreserved(self.peer, error)),
            // A tree may take hours.
            Event::Replied => self.server.commands.run(self.conversation),
            Event::Whole => {
                let file = self.end_progress();
                self.whole.extend(file);
            }
            Event::Skipped(name, stored) => {
                // Another connection may have stored what came on this one.
                self.end_progress();
                if !self.server.quiet {
                    log.log(&Entry::AlreadyStored(self.peer, &truncated(name), stored));
                }
                self.exit.get_or_insert(Exit::Done);
            }
            Event::Ended(outcome) => {
                let file = self.whole.pop_front().or_else(|| self.end_progress());
                self.log_outcome(file.as_ref(), outcome);
                self.record(outcome);
                self.queue_hook(file, outcome);
            }
        }
        let is_receiving = self.file.is_some() || !self.whole.is_empty();
        if is_receiving != self.is_counted {
            self.is_counted = is_receiving;
            self.server.count(is_receiving);
        }
    }

    /// Ends the progress of the file that is being received.
    fn end_progress(&mut self) -> Option<ReceivedFile> {
        self.file.take().inspect(|file| self.server.log.printer.end(file.id))
    }

    fn log_outcome(&self, file: Option<&ReceivedFile>, outcome: &Result<Stored, ReceiveError>) {
        let Server { log, quiet, .. } = self.server;
        match (outcome, file) {
            (Ok(_), _) if *quiet => {}
            (Ok(stored), Some(file)) => {
                let time = file.began.elapsed();
                log.log(&Entry::Stored(self.peer, &file.name, stored, time));
            }
            (Ok(_), None) => {}
            (Err(why), file) => {
                let name = file.map(|file| file.name.as_str());
                log.log(&Entry::NotStored(self.peer, name, why));
            }
        }
        if let Ok(Stored { may_be_cut: true, name, .. }) = outcome {
            log.log(&Entry::MayBeCut(self.peer, name));
        }
    }

    /// Updates the exit status, which is that of the first failure.
    fn record(&mut self, outcome: &Result<Stored, ReceiveError>) {
        let exit = match outcome {
            // A connection without a file has no outcome.
            Err(ReceiveError::Silent) => {
                self.is_silent = true;
                return;
            }
            // Neither has one that was evicted.
            Err(ReceiveError::Busy | ReceiveError::InUse) => return,
            Ok(stored) if stored.may_be_cut => Exit::Refused,
            Ok(_) => Exit::Done,
            Err(why) => match why.status() {
                None | Some(Status::TimedOut) => Exit::Broken,
                Some(_) => Exit::Refused,
            },
        };
        if self.exit.is_none_or(|first| first == Exit::Done) {
            self.exit = Some(exit);
        }
    }

    fn queue_hook(&mut self, file: Option<ReceivedFile>, outcome: &Result<Stored, ReceiveError>) {
        let commands = &self.server.commands;
        let nothing_came = matches!(outcome, Err(ReceiveError::Silent));
        let outcome = match outcome {
            Ok(stored) if stored.may_be_cut => Err(MAY_BE_CUT.to_owned()),
            Ok(stored) => Ok(stored.clone()),
            Err(why) => Err(why.to_string()),
        };
        if nothing_came || !commands.has(outcome.is_ok()) {
            return;
        }
        let name = file.map(|file| file.name).unwrap_or_default();
        commands.hold(self.conversation, Job { peer: self.peer, key: self.key, name, outcome });
    }
}
