//! Every number that bounds something, with its unit and its reason.

use std::time::Duration;

/// Bytes of the one buffer that a body passes through: few system calls, and yet it stays in the
/// processor's cache between the read, the digest and the write.
pub const BUFFER: usize = 256 * 1024;

/// Bytes of a receiver's buffer for a small body, and of the largest such body: clearing a large
/// buffer, and getting memory for it, costs more than a few more system calls.
pub const SMALL_BUFFER: usize = 32 * 1024;
/// See [`SMALL_BUFFER`].
pub const SMALL_BODY: u64 = 512 * 1024;

/// Bytes that are read from a socket at once while a header is awaited. Small, because what is
/// left in it is copied once.
pub const HEADER_BUFFER: usize = 4 * 1024;

/// Bytes of a `QString` that a peer may send as a name. Windows has the longest paths,
/// 32,767 UTF-16 units; nothing else comes near.
pub const NAME: u32 = 64 * 1024;

/// Bytes of a header with further strings after its name.
pub const HEADER: u64 = 20 + 2 * NAME as u64;

/// Characters of a peer's name that are shown in a log or a live line.
pub const SHOWN_NAME: usize = 1024;

/// Bytes of a `QString` that a peer may send as the message of a receipt.
pub const MESSAGE: u32 = 64 * 1024;

/// Bytes of a file's name on the disk: `NAME_MAX` of Linux, the BSDs and macOS.
pub const FILE_NAME: usize = 255;

/// Bytes of a path below the drop directory: with the name of a part in its place, less than the
/// 4096 of Linux's `PATH_MAX`.
pub const PATH: usize = 3_500;

/// How long nothing must have come of a body before another connection may go on with it: less
/// than a sender waits before it tries again.
pub const TAKEOVER_SILENCE: Duration = Duration::from_millis(500);

/// Interrupted bodies that are kept at once for their senders.
pub const KEPT: usize = 16;

/// How long they are kept, if a receiver is not told otherwise.
pub const KEEP_PARTIAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a silent peer is waited for, if a program is not told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Transfers at once, if a receiver is not told otherwise.
pub const TRANSFERS: usize = 16;

/// How long a whole header may take, from its connection's first moment or from its own first
/// byte. Fixed, so that nobody can hold a slot by trickling.
pub const HEADER_TIME: Duration = Duration::from_secs(10);

/// How long a host is waited for that is asked to accept a connection, if it is not told otherwise.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How long a receiver waits after a complete file for the sender's end of stream or its next
/// header. Some senders pause for 50 ms between files; one waits for the receiver's close and
/// fails if a person is faster than that, which 1 s was too long for (docs/PROTOCOL.md, 1).
pub const LINGER: Duration = Duration::from_millis(300);

/// How long a receiver waits for the next file of a program that stays connected, if it is not
/// told otherwise.
pub const KEEP_OPEN: Duration = Duration::from_secs(600);

/// Connections that idle between files at once. They hold no transfer slot; above this number they
/// are not waited for.
pub const IDLING: usize = 256;

/// How long a header-size sender pauses after a header, since deployed receivers lose a small body
/// that arrives together with it. On a busy machine 20 ms were too short once in 200 times
/// (docs/PROTOCOL.md, 1).
pub const HEADER_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of a refused sender that are read and thrown away: so that the files after a refused one
/// are judged on their own, and so that a reset of the connection does not overtake the receipt.
/// As many are read in search of a receipt and of the close.
pub const DRAIN: u64 = 16 * 1024 * 1024;

/// How long either may take.
pub const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Refused connections that are drained at once. They hold no transfer slot; above this number
/// they are closed at once.
pub const DRAINING: usize = 64;

/// Receipts that are kept for one connection until its end. A sender of more files than that
/// gets no receipt for the rest.
pub const RECEIPTS: usize = 10_000;

/// How long the files that go on one connection may take until their receipts: what has no receipt
/// yet may have to be sent again, and a slow disk's receiver is silent meanwhile.
pub const BATCH_TIME: Duration = Duration::from_secs(1);

/// Bytes on one connection after which the next file goes on another one. A file that is refused
/// is then always small enough for the receiver to let it pass and go on.
pub const BATCH: u64 = DRAIN;

/// How long a connection is written to before the next file goes on another one: far less than
/// a receiver lingers, even if reading the next file takes a while.
pub const BATCH_WRITING: Duration = Duration::from_millis(100);

/// Bytes of a body after which the disk is asked to write what has come: enough to keep it busy,
/// and a small file is over before it would matter.
pub const WRITEBACK: u64 = 32 * 1024 * 1024;

/// A limited rate is kept by pieces of a twentieth of a second's worth.
pub const PIECES: u64 = 20;

/// How much too late a piece may be to be made up for.
pub const MAX_CATCH_UP: Duration = Duration::from_millis(50);

/// The first and the longest pause before another try of a transfer.
pub const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Commands that run at once. A machine that receives files need not be a large one.
pub const COMMANDS: usize = 4;

/// Bytes of memory for commands that run or wait: some ten thousand with names as people give
/// them. Further ones are not run, since commands must hold up no transfer, and a peer may send
/// files faster than anything can be run.
pub const COMMANDS_MEMORY: usize = 4 * 1024 * 1024;

/// How long a command may run, if it is not told otherwise. Four that hang would hold up all others.
pub const COMMAND_TIME: Duration = Duration::from_secs(60 * 60);

/// The first and the longest pause between two looks whether a command has ended that has closed its
/// standard error before, or has left it to a program that goes on.
pub const COMMAND_POLL: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_millis(250));

/// Threads that read the standard error of commands, of what they leave running as well. Above this
/// number nobody reads it.
pub const COMMAND_READERS: usize = 16;

/// Lines of one command's standard error that are logged.
pub const COMMAND_LINES: usize = 100;

/// Bytes of such a line; a longer one becomes several.
pub const COMMAND_LINE: u64 = 1024;

/// Lines of the log that wait for a standard error that takes none; further ones are counted.
pub const LOG_LINES: usize = 1_000;

/// Bytes per second that the slowest disk may need to be waited for: a receiver may be in
/// `fsync` for as long as its disk takes, and is silent meanwhile.
pub const SLOW_DISK: u64 = 8 * 1024 * 1024;

/// How often a sender looks whether its system has sent everything, once the receiver has closed.
pub const DRAINED_POLL: Duration = Duration::from_millis(10);

/// Bytes of a thread's stack: room for a buffer and little else, but no less, since glibc keeps
/// up to 40 MiB of stacks that are not used any more, each with some pages in memory.
pub const STACK: usize = 1024 * 1024;

/// The first and the longest pause after an error of `accept`.
pub const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Parts of another machine that nobody has written to for this long have no owner.
pub const FOREIGN_PART: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often a live line is drawn again.
pub const REDRAW: Duration = Duration::from_millis(200);

/// How far back a shown rate reaches.
pub const RATE_MEMORY: Duration = Duration::from_secs(5);

/// How often a long transfer gets a line where there is no live one.
pub const REPORT: Duration = Duration::from_secs(30);

const _: () = assert!(HEADER_BUFFER < SMALL_BUFFER && SMALL_BUFFER < BUFFER);
const _: () = assert!(2 * BUFFER <= STACK);
const _: () = assert!(20 + NAME as usize <= BUFFER, "a sender's header fits into its buffer");
const _: () = assert!(BUFFER as u64 <= DRAIN);
const _: () = assert!(COMMANDS_MEMORY > 8 * COMMANDS * NAME as usize, "names of any length");
