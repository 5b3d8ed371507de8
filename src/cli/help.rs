//! The help texts of both programs, and the suggestions for unknown options.

/// The help and the suggestions of a program.
#[derive(Debug)]
pub(super) struct Program {
    /// The text that --help prints. Each option has its own line.
    pub(super) help: &'static str,
    /// Options that people know from other programs, and what to use instead.
    hints: &'static [(&'static str, &'static str)],
    other: (&'static str, &'static str),
}

/// The sender.
pub(super) const QDROP: Program = Program {
    help: QDROP_HELP,
    hints: &[
        ("-p", "the port is part of HOST:PORT"),
        ("-P", "the port is part of HOST:PORT"),
        ("--port", "the port is part of HOST:PORT"),
        ("--host", "HOST is the first operand"),
        ("-l", "did you mean --listen?"),
        ("-j", "did you mean --jobs?"),
        ("-a", "did you mean -r --preserve?"),
        ("-R", "did you mean -r?"),
        ("-s", "did you mean --quiet?"),
        ("-C", "did you mean --resume?"),
        ("--archive", "did you mean -r --preserve?"),
        ("--bwlimit", "did you mean --limit-rate?"),
        ("--continue", "did you mean --resume?"),
        ("-e", "did you mean --via?"),
        ("--from0", "did you mean --null?"),
        ("--ignore-existing", "did you mean --skip-existing?"),
        ("--parallel", "did you mean --jobs?"),
        ("--partial", "did you mean --resume?"),
        ("--rsh", "did you mean --via?"),
        ("--rate", "did you mean --limit-rate?"),
        ("--rate-limit", "did you mean --limit-rate?"),
        ("--retries", "did you mean --retry?"),
        ("--silent", "did you mean --quiet?"),
        ("--times", "did you mean --preserve?"),
        ("--tries", "did you mean --retry?"),
    ],
    other: ("qdropd", QDROPD_HELP),
};

/// The receiver.
#[cfg_attr(not(unix), expect(dead_code, reason = "qdrop needs only its help"))]
pub(super) const QDROPD: Program = Program {
    help: QDROPD_HELP,
    hints: &[
        ("-p", "the port is part of --listen ADDR:PORT"),
        ("-P", "the port is part of --listen ADDR:PORT"),
        ("--port", "the port is part of --listen ADDR:PORT"),
        ("-b", "did you mean --listen?"),
        ("--address", "did you mean --listen?"),
        ("--bind", "did you mean --listen?"),
        ("--host", "did you mean --listen?"),
        ("-d", "DIR is an operand; it serves in the foreground, for a service see qdropd(8)"),
        ("--daemon", "it serves in the foreground; for a service see qdropd(8)"),
        ("-o", "DIR is an operand"),
        ("--dir", "DIR is an operand"),
        ("--directory", "DIR is an operand"),
        ("--overwrite", "did you mean --on-conflict replace?"),
    ],
    other: ("qdrop", QDROP_HELP),
};

impl Program {
    /// Returns whether the program has an option of this name.
    pub(super) fn has(&self, option: &str) -> bool {
        long_options(self.help).any(|known| known == option)
    }

    /// Returns a suggestion for an unknown option.
    pub(super) fn hint(&self, option: &str) -> Option<String> {
        let known = self.hints.iter().find(|(known, _)| *known == option);
        if let Some((_, hint)) = known {
            return Some((*hint).to_owned());
        }
        let (other, its_help) = self.other;
        let is_its_own = long_options(its_help).any(|known| known == option)
            || its_help.contains(&format!("\n  {option}, "));
        if is_its_own {
            return Some(format!("{other} has that option"));
        }
        let begins = |known: &str| known.starts_with(option) || option.starts_with(known);
        // Four characters are two dashes and too little to go by.
        let near =
            |known: &&str| option.len() > 4 && (begins(known) || distance(known, option) <= 2);
        let rank = |known: &&str| (!begins(known), distance(known, option));
        let near = long_options(self.help).filter(near).min_by_key(rank);
        near.map(|known| format!("did you mean {known}?"))
    }
}

/// Returns the long option that each line of a help text describes.
fn long_options(help: &str) -> impl Iterator<Item = &str> {
    help.lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")))
}

/// Returns the edit distance: the number of letters to insert, delete or change to turn one word into
/// the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

const QDROP_HELP: &str = "\
qdrop sends files to qdropd, or to Qt programs that speak its protocol.

Usage: qdrop [OPTIONS] HOST[:PORT] FILE...
       qdrop [OPTIONS] --via COMMAND FILE...
       qdrop [OPTIONS] --listen ADDR[:PORT] FILE...

Examples:
  qdrop box.local photo.jpg
  qdrop -r --preserve --skip-existing --retry 20 192.168.1.20:9999 album
  pg_dump shop | qdrop --name shop.sql box.local -
  qdrop --via 'ssh box qdropd --stdio /srv/drop' photo.jpg

HOST is a name or an IP address. An IPv6 address with a port is written
[::1]:9999. The default port is 9999. FILE - is standard input.

What is sent:
  -n, --name NAME             send under this name (one file; needed with -)
  -r, --recursive             send directories with everything in them (the
                              receiver keeps them with qdropd --subdirs)
      --files-from FILE       send the files that FILE names, one per line; - is
                              standard input
  -0, --null                  with --files-from: names end with a zero byte, not
                              with a newline
      --settle SECS           leave out files that changed less than SECS ago
      --preserve              keep the modification time (1)
      --skip-existing         skip files that the receiver has: same name, size
                              and modification time (1)
      --remove-source         remove each file when its receipt has come (1)
      --dry-run               print what would be sent, and send nothing (1)

What happens on failure:
      --resume                resume an interrupted transfer (1)
      --retry N               retry temporary failures up to N times, after 1,
                              2, 4 ... 30 s [0]
      --require-receipt       fail with status 6 if there is no receipt
      --connect-timeout SECS  stop waiting for a host that does not answer [10]
      --timeout SECS          stop waiting for a receiver that is silent [60]

How it is sent:
      --jobs N                send up to N files in parallel [1]
      --limit-rate RATE       send at most RATE bytes per second in all
      --dialect name-size|header-size|pyqt|text
                              which Qt receivers to speak to [name-size]
      --via COMMAND           send to qdropd through the input and output of
                              COMMAND, which runs without a shell
      --listen ADDR[:PORT]    send each file to the next receiver that connects;
                              PORT alone listens on every IPv4 address
      --allow ADDR[/BITS]     with --listen: send only to receivers of this
                              network; may be repeated

What is printed:
      --progress auto|always|never
                              show a progress bar [auto: on a terminal]
      --json                  print one JSON object for each file, and a summary
  -q, --quiet                 print only errors and warnings
  -v, --verbose               also print what is being done
  -h, --help                  print this help
  -V, --version               print the version

(1) Needs qdropd at the other end.
SECS may have a unit: 90, 1.5m, 2h, 1d. RATE, too: 500K, 1.5M, 1GiB are powers
of 1024; 500KB, 10MB are powers of 1000.

Standard output has one line for each file. \"stored\" means that the receiver
confirmed size and digest: the file is on its disk. \"sent\" means that a receiver
without receipts, such as a Qt program, took every byte. More is not known. The
line says whether it closed by itself, as most do that have the whole file.

Exit status (all files are tried; the first failure counts):
  0  every file was sent, with a receipt wherever the receiver gives them
  1  a local file cannot be read or removed, or it changed while it was sent
  2  the command line is wrong
  3  the receiver cannot be reached
  4  the connection broke or timed out, or nothing there receives files
  5  the receiver refused the file
  6  the file was sent, but without the receipt that --require-receipt asks for
";

const QDROPD_HELP: &str = "\
qdropd receives files from qdrop, or from Qt programs that speak its protocol.

Usage: qdropd [OPTIONS] [DIR]

Examples:
  qdropd --listen 0.0.0.0 --allow 192.168.1.0/24 /srv/drop
  qdropd --listen 9999 --subdirs --exec /usr/local/bin/import /srv/drop
  qdropd --once --listen 0.0.0.0 .

Files are stored in DIR, by default the current directory.

Who can send:
  -l, --listen ADDR[:PORT]    listen on this address; may be repeated
                              [127.0.0.1:9999: only this machine]; 0.0.0.0 is
                              every IPv4 address, [::] usually every address;
                              PORT alone is 0.0.0.0:PORT; port 0 is a free one
      --allow ADDR[/BITS]     accept files only from this network; may be
                              repeated
      --proxy ADDR[/BITS]     connections from there begin with a PROXY header
                              (HAProxy), which names the sender; may be repeated
      --from HOST[:PORT]      connect to a sender that listens (qdrop --listen),
                              receive one transfer, exit with its outcome
  -1, --once                  serve one transfer, then exit with its outcome
      --inetd                 standard input is the socket: a connection or a
                              listener (inetd, systemd)
      --stdio                 standard input and output are the connection
                              (qdrop --via); without -v log only failures

Limits:
      --max-size SIZE         refuse larger files
      --max-transfers N       transfers in parallel; further ones wait [16]
      --max-per-peer N        transfers in parallel from one address [no limit]
      --timeout SECS          end a transfer whose sender is silent [60]
      --keep-open SECS        wait for the next file of a sender that stays
                              connected [600; 0.3 with --once, --from, --stdio]

How files are stored:
      --on-conflict rename|replace|refuse
                              when the name is taken [rename: \"name (1).ext\"]
      --subdirs               keep the directories in names [only the last part]
      --keep-partial SECS     how long to keep an interrupted file for a sender
                              that resumes it [86400; 0: never]
      --no-sync               skip fsync: faster, but a power cut may lose files

Commands, run without a shell (see qdropd(8)):
      --exec COMMAND          run COMMAND with the path of each stored file
      --exec-failed COMMAND   run COMMAND with the name of each file that failed
      --exec-timeout SECS     kill a command that runs for longer [3600]

Log:
      --log text|json         log one line, or one JSON object, per event [text]
  -q, --quiet                 log only failures and warnings
  -v, --verbose               log connections as well
  -h, --help                  print this help
  -V, --version               print the version

SECS may have a unit: 90, 1.5m, 2h, 1d. SIZE, too: 500K, 1.5M, 1GiB are powers
of 1024; 500KB, 10MB are powers of 1000.

Standard output has the line \"listening on ADDR:PORT\" for each listener that
accepts connections. Standard error is the log, with a line for each file.

Exit status:
  0  with --once, --from, --inetd, --stdio: the file is stored
  1  the directory, an address or a command cannot be used
  2  the command line is wrong
  3  with --from: the sender cannot be reached
  4  with --once, --from, --inetd, --stdio: the connection broke or timed out
  5  with --once, --from, --inetd, --stdio: the file was refused or not stored
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_a_terminal() {
        for line in [QDROP_HELP, QDROPD_HELP].iter().flat_map(|help| help.lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn hints_are_for_options_that_do_not_exist() {
        for program in [QDROP, QDROPD] {
            for (option, _) in program.hints {
                assert!(!program.has(option), "{option}");
                assert!(!program.help.contains(&format!("  {option}, ")), "{option}");
            }
        }
    }
}
