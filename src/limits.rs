//! All limits, each with its unit and its reason.

use std::time::Duration;

/// Bytes of the buffer that a body passes through: large enough for few system calls, small enough to
/// stay in the processor's cache between the read, the digest and the write.
pub const BUFFER: usize = 256 * 1024;

/// Bytes of a receiver's buffer for a small body. Clearing a large buffer, and allocating it, costs
/// more than a few more system calls.
pub const SMALL_BUFFER: usize = 32 * 1024;
/// Bytes of the largest body that is received with [`SMALL_BUFFER`].
pub const SMALL_BODY: u64 = 512 * 1024;

/// Bytes of the read buffer for headers. It is small, because what is left in it is copied once.
pub const HEADER_BUFFER: usize = 4 * 1024;

/// Bytes of a `QString` that a peer may send as a name. Windows has the longest paths, 32,767 UTF-16
/// units. No other system comes close.
pub const NAME: u32 = 64 * 1024;

/// Bytes of a header that has further strings after its name.
pub const HEADER: u64 = 20 + 2 * NAME as u64;

/// Bytes of a header that is a text. It has to come in one piece, and its receivers' buffers are small.
pub const TEXT_HEAD: usize = 1_000;

/// Bytes of a PROXY header of version 1: as many as its specification says.
pub const PROXY_LINE: usize = 107;

/// Bytes of a PROXY header of version 2 after the first 16. What proxies add to the addresses has some hundred
/// bytes, a certificate some thousand.
pub const PROXY_REST: u16 = 4 * 1024;

/// Characters of a peer's name that are shown in a log or a live line, escape sequences included.
pub const SHOWN_NAME: usize = 1024;

/// Bytes of a `QString` that a peer may send as the message of a receipt.
pub const MESSAGE: u32 = 64 * 1024;

/// Characters of the message of a receipt that are shown.
pub const SHOWN_MESSAGE: usize = 1024;

/// Bytes of a receiver's answer that are shown if it is no receipt.
pub const SHOWN_ANSWER: usize = 60;

/// Bytes of a file name on the disk: `NAME_MAX` of Linux, the BSDs and macOS.
pub const FILE_NAME: usize = 255;

/// Bytes of a file name on the disk where those of [`FILE_NAME`] are too long: as many as eCryptfs has,
/// which encrypts home directories and the shares of network storage.
pub const SHORT_FILE_NAME: usize = 143;

/// Milliseconds by which the modification time that a file system stores may differ from the one that was
/// set: FAT has steps of 2 s.
pub const COARSEST_TIME: u64 = 2_000;

/// Bytes of a path below the drop directory. With a number of six digits behind each of [`DEPTH`]
/// components, and a temporary name as the last one, it is shorter than Linux's `PATH_MAX` of 4096.
pub const PATH: usize = 3_200;

/// Components of a path below the drop directory. Each directory is made, looked at and synchronised, and
/// a peer's header of 7 KB could name thousands.
pub const DEPTH: usize = 64;

/// Directories of which it is known that their names are on the disk.
pub const DIRECTORIES: usize = 1_024;
/// Bytes of their names.
pub const DIRECTORIES_MEMORY: usize = 256 * 1024;

/// How long a sender must be silent before another connection may take over its body. It is shorter
/// than the pause of a sender before a retry.
pub const TAKEOVER_SILENCE: Duration = Duration::from_millis(500);

/// How long a line is quiet before the bytes in a buffer are written to the disk: less than
/// [`TAKEOVER_SILENCE`], after which another connection continues with what is on the disk.
pub const QUIET: Duration = Duration::from_millis(200);

/// Interrupted bodies that are kept for their senders.
pub const KEPT: usize = 16;

/// Partial files of other processes that one process knows of: what they have stored, and as many again as they
/// may be receiving.
pub const FOREIGN_PARTS: usize = UNACKNOWLEDGED + 64;

/// The shortest pause between two looks for them, and its shortest ratio to the time that the last one took.
pub const FOREIGN_LOOK: (Duration, u32) = (Duration::from_millis(100), 20);

/// Stored files whose receipts were not acknowledged, that one process remembers: two lists.
pub const UNACKNOWLEDGED: usize = 2 * LIST_FILES;
/// Bytes of memory for them.
pub const UNACKNOWLEDGED_MEMORY: usize = 2 * 1024 * 1024;

/// How long an interrupted body is kept by default.
pub const KEEP_PARTIAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a program waits for a silent peer by default.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Transfers in parallel by default.
pub const TRANSFERS: usize = 16;

/// How long a whole header may take, from the start of its connection or from its own first byte. It is
/// fixed, so that no peer can hold a slot by sending slowly.
pub const HEADER_TIME: Duration = Duration::from_secs(10);

/// How long a program waits for a host to accept a connection by default.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How long each address of a host with several is tried in the first round, and in the second. In the
/// last round each has the rest of its time.
pub const CONNECT_ROUNDS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// How long a refused connection is tried again at a host that has taken a file without a receipt. Many
/// programs listen again by themselves, some milliseconds after they have closed.
pub const LISTEN_AGAIN: Duration = Duration::from_millis(500);

/// The pause before each such try.
pub const REFUSED_POLL: Duration = Duration::from_millis(10);

/// How long a sender that listens waits for the first bytes or the close of a peer, before it sends. A port
/// scan closes at once, and would use up the file.
pub const FIRST_BYTES_TIME: Duration = Duration::from_millis(250);

/// Addresses whose refusal is logged by a sender that listens. Further ones are refused without a log.
pub const SHOWN_REFUSALS: usize = 64;

/// How long a receiver waits after a complete file for the sender's end of stream or its next header.
/// Some senders pause for 50 ms between files. One waits for the receiver's close and fails if a person
/// is faster, for which 1 s was too long (docs/PROTOCOL.md, 1).
pub const LINGER: Duration = Duration::from_millis(300);

/// How long a receiver waits after the first file of a connection for bytes that its header did not count,
/// before the file gets its name. They are written together with the file.
pub const TRAILING_TIME: Duration = Duration::from_millis(50);

/// How long a receiver waits after a further file of a connection for the next one, before those that it has
/// get their names.
pub const NEXT_FILE_TIME: Duration = Duration::from_millis(10);

/// Bytes at the start of a body that are compared with what follows it: the digits of the largest size.
pub const BODY_START: usize = 20;

/// How long a receiver waits by default for the next file of a sender that stays connected.
pub const KEEP_OPEN: Duration = Duration::from_secs(600);

/// Connections without a slot: those that are silent, wait or idle between files. Above this number the
/// address with the most of them loses one. One address may have three quarters of them.
pub const WITHOUT_SLOT: usize = 512;

/// How long the listener waits for one of them to end before it evicts one.
pub const EVICTION_WAIT: Duration = Duration::from_secs(1);

/// The reciprocal of the share of its time that the listener may spend in such waits, in the long run.
pub const EVICTION_WAIT_SHARE: u32 = 10;

/// The age at which a silent connection may be evicted. A peer sends its first bytes sooner, also over a
/// satellite.
pub const SILENT_GRACE: Duration = Duration::from_millis(250);

/// How long a connection waits for a slot before a stalled one is evicted for it.
pub const EVICT_AFTER: Duration = Duration::from_secs(1);

/// A connection is stalled if its peer sends fewer bytes than this in each [`PROGRESS_PERIOD`].
pub const MIN_PROGRESS: u64 = 1_000;

/// See [`MIN_PROGRESS`].
pub const PROGRESS_PERIOD: Duration = Duration::from_secs(10);

/// How long the only connection of an address is stalled before it is evicted. A stall of half a minute is
/// no reason.
pub const STALL_ALONE: Duration = Duration::from_secs(35);

/// How long a sender of header-size or text pauses after a header, since deployed receivers lose a small
/// body that arrives together with it. On a busy machine, 20 ms were too short once in 200 times
/// (docs/PROTOCOL.md, 1).
pub const HEADER_PAUSE: Duration = Duration::from_millis(100);

/// How long any other sender pauses after a header, unless the receiver gives receipts: some deployed
/// receivers look for the name only at the next arrival (docs/PROTOCOL.md, 1).
pub const SHORT_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of the smallest body that needs no such pause. It cannot have arrived as a whole when a receiver
/// reads for the first time, since systems buffer 64 KiB before that.
pub const WHOLE_BODY: u64 = 128 * 1024;

/// How long a sender waits for the receiver's own close after a body, before it ends the stream itself. Of
/// the programs that have a file as a whole most close within 13 ms. With [`SHORT_PAUSE`] and what a
/// system's timers add, some 4 ms each, it keeps the first file of a call below 50 ms more.
pub const CLOSE_TIME: Duration = Duration::from_millis(20);

/// The longest time of writing a body after which all of it has surely arrived within [`CLOSE_TIME`]. What
/// waits in the sender's system by then is less than what was sent before.
pub const AT_ONCE: Duration = Duration::from_millis(150);

/// Bytes of a refused sender that are read and discarded, so that the files after a refused one are
/// received, and so that a reset of the connection does not overtake the receipt. A sender reads as
/// many to find a receipt and the end of the stream.
pub const DRAIN: u64 = 16 * 1024 * 1024;

/// How long reading [`DRAIN`] bytes may take.
pub const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Draining connections: receipts are written, or the rest of a refused body is discarded. They hold no
/// slot. Above this number the address with the most of them loses one.
pub const DRAINING: usize = 256;

/// Bytes of receipts that are held for one connection until its end. Above that the connection ends,
/// and its sender sends the rest again.
pub const RECEIPTS: usize = 256 * 1024;

/// Bytes of receipts after which a connection reports them to the admission.
pub const RECEIPTS_STEP: usize = 4 * 1024;

/// Bytes of receipts that are held for all connections together. Above that the address with the most
/// loses some.
pub const ALL_RECEIPTS: usize = 4 * 1024 * 1024;

/// Bytes of the entries of a list: 2,048 names of some fifty characters.
pub const LIST: usize = 256 * 1024;

/// Entries of a list.
pub const LIST_FILES: usize = 2_048;

/// Bytes of the bodies that are wanted of one list. Receipts come after the last of them.
pub const LIST_BODIES: u64 = 64 * 1024 * 1024;

/// Bytes of the receipts that a receiver holds of one list.
pub const LIST_RECEIPTS: usize = 256 * 1024;

/// How long a list should take, so that receipts come soon, and little is in doubt when a connection breaks.
pub const LIST_TIME: Duration = Duration::from_secs(2);

/// Bytes of the first list, with its files, before it is known how long they take.
pub const FIRST_LIST: u64 = 4 * 1024 * 1024;

/// Names that a sender reads ahead from a list of its files.
pub const NAMES_AHEAD: usize = 256;

/// How long a sender collects the files of a list.
pub const LIST_COLLECTING: Duration = Duration::from_millis(100);

/// Bytes of an answer to a list: names as long as those of the list, with numbers, or messages.
pub const ANSWER: u64 = 2 * 1024 * 1024;

/// How long a receiver may look for each file of a list, beyond the time limit.
pub const LIST_ENTRY_TIME: Duration = Duration::from_millis(20);

/// Bytes of the message of a verdict.
pub const VERDICT_MESSAGE: u32 = 400;

/// Bytes of a body after which a background sync is requested: enough to keep the disk busy. A smaller
/// file ends before it would matter.
pub const WRITEBACK: u64 = 32 * 1024 * 1024;

/// Pieces per second into which a limited rate is divided: a piece is a twentieth of a second's bytes.
pub const PIECES: u64 = 20;

/// The longest delay of a piece that is caught up with.
pub const MAX_CATCH_UP: Duration = Duration::from_millis(50);

/// The first and the longest pause before a retry of a transfer.
pub const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The first and the longest pause before a busy receiver is tried again.
pub const BUSY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// Commands that run in parallel. A machine that receives files need not be a large one.
pub const COMMANDS: usize = 4;

/// Bytes of memory for commands that run or wait: about ten thousand with ordinary names. Further ones
/// are not run, since commands must not delay transfers, and a peer may send files faster than any
/// command can run.
pub const COMMANDS_MEMORY: usize = 4 * 1024 * 1024;

/// How long a command may run by default. Four commands that hang would block all others.
pub const COMMAND_TIME: Duration = Duration::from_secs(60 * 60);

/// The first and the longest pause between two checks whether a command has ended.
pub const COMMAND_POLL: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_millis(250));

/// Threads that read the standard error of commands, and of the programs that commands leave running.
/// Above this number it is not read.
pub const COMMAND_READERS: usize = 16;

/// Lines of one command's standard error that are logged.
pub const COMMAND_LINES: usize = 100;

/// Bytes of such a line. A longer one is logged as several.
pub const COMMAND_LINE: u64 = 1024;

/// How long a command that carried a connection may take to end after it, before it is killed.
pub const TUNNEL_END: Duration = Duration::from_secs(2);

/// Lines that wait to be printed. Further lines of the log are counted instead.
pub const LOG_LINES: usize = 1_000;

/// How long lines are collected after some were printed.
pub const LOG_PAUSE: Duration = Duration::from_millis(5);

/// How long a line waits for room among them, unless others were lost and nobody has read any since.
pub const LOG_WAIT: Duration = Duration::from_secs(1);

/// Bytes per second of the slowest disk that a sender waits for. A receiver is silent while its disk is
/// in `fsync`.
pub const SLOW_DISK: u64 = 8 * 1024 * 1024;

/// Bytes per second of the slowest peer that is waited for. A time limit for many bytes grows with those
/// that have passed at this rate, so that no peer can hold a connection with one byte now and then.
pub const SLOW_PEER: u64 = 4 * 1024;

/// Bytes of whole files of one connection that get their names together. A body above [`SMALL_BODY`] waits for no
/// other.
pub const GROUP_BYTES: u64 = 4 * 1024 * 1024;
/// How long the first of these waits for others.
pub const GROUP_TIME: Duration = Duration::from_millis(100);
/// Descriptors of such files and their directories, besides those that the first file of each connection has, and
/// of the directories of a sweep below the first: as many as are below each other at most.
pub const SPARE_DESCRIPTORS: usize = DEPTH - 1;

/// Threads that synchronise files side by side.
pub const SYNC_THREADS: usize = 32;
/// How long such a thread waits for a file before it ends.
pub const SYNC_IDLE: Duration = Duration::from_secs(5);

/// How often a sender checks whether its system has sent everything, after the receiver has closed.
pub const DRAINED_POLL: Duration = Duration::from_millis(10);

/// How long a sender on Windows waits for the reset with which a receiver answers that closed too early: some
/// round trips of a LAN.
pub const RESET_TIME: Duration = Duration::from_millis(200);

/// Bytes of a thread's stack: room for a buffer and little else. It is no smaller, since glibc caches
/// up to 40 MiB of unused stacks, each with some pages in memory.
pub const STACK: usize = 1024 * 1024;

/// The first and the longest pause after an error of `accept`.
pub const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How often a receiver checks that its drop directory is still in its place.
pub const LOCATION_CHECK: Duration = Duration::from_secs(5);

/// How often a process that has partial files renews its heartbeat.
pub const RENEWAL: Duration = Duration::from_secs(5);
/// How long a heartbeat is fresh enough for partial files whose times are set.
pub const FRESH_HEARTBEAT: Duration = Duration::from_secs(1);
/// How old the heartbeat of another machine's process, and the last write to its partial file, must be
/// before the file is removed.
pub const LEASE: Duration = Duration::from_secs(20);

/// The shortest pause between two sweeps, and its shortest ratio to the time that the last sweep took.
pub const SWEEP: (Duration, u32) = (Duration::from_secs(60), 20);

/// The age of the last write to a partial file of another version above which the file is removed.
pub const FOREIGN_PART: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often a standard stream that does not block is tried again.
pub const STREAM_POLL: Duration = Duration::from_millis(2);

/// How often the live line is redrawn.
pub const REDRAW: Duration = Duration::from_millis(200);

/// The time over which a displayed rate is averaged.
pub const RATE_MEMORY: Duration = Duration::from_secs(5);

/// How often a long transfer is reported where there is no live line.
pub const REPORT: Duration = Duration::from_secs(30);

/// How long a service manager that is to be told of the start may take to read its earlier messages: a boot has
/// many at once.
pub const NOTIFY_TIME: Duration = Duration::from_secs(5);
/// The shortest pause between two messages about the number of transfers. systemd itself reads each.
pub const STATUS_PAUSE: Duration = Duration::from_secs(1);

const _: () = assert!(HEADER_BUFFER < SMALL_BUFFER && SMALL_BUFFER < BUFFER);
const _: () = assert!(2 * BUFFER <= STACK);
const _: () = assert!(20 + NAME as usize <= BUFFER, "a sender's header fits into its buffer");
const _: () = assert!(BUFFER as u64 <= DRAIN);
const _: () = assert!(COMMANDS_MEMORY > 8 * COMMANDS * NAME as usize, "names of any length");
const _: () = assert!(PATH + DEPTH * " (123456)".len() + FILE_NAME + "./\0".len() < 4096);
const _: () = assert!(DIRECTORIES_MEMORY > PATH);
const _: () = assert!(LEASE.as_secs() >= 4 * RENEWAL.as_secs());
