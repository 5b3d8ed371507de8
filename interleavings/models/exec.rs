//! Three conversations, each with up to two files for which a command is run, or discards them.
//!
//! Claims: never more commands at once than there may be; each is run once, or not at all if it cannot be; none
//! waits while another could be started; whoever waits for all of them waits until they have ended; all memory and
//! all threads are given back.

use super::*;
use crate::cli::console::{self, Console, Progress};
use crate::cli::server::log::LogFormat;
use crate::disk::name::SafeName;
use crate::world::time::{at_rest, settle};
use crate::world::{choose, process, refuse_one_in, switch};

pub fn run() {
    process::count();
    refuse_one_in(0);
    let console = Console::new(Progress::None, console::text).unwrap();
    let log = Log { printer: console.printer(), format: LogFormat::None };
    let timeout = Duration::from_secs(60);
    let commands = Commands::resolve(Some("/bin/true"), None, timeout, log).unwrap();
    let refusals = [0, 4][choose(2) as usize];
    refuse_one_in(refusals);
    let for_rest = commands.clone();
    at_rest(move || {
        let state = for_rest.state();
        let least = if refusals > 0 { 1 } else { limits::COMMANDS };
        assert!(state.ready.is_empty() || state.workers >= least, "a command could run: {state:?}");
    });
    let conversations: Vec<_> = (0..3)
        .map(|key| {
            let commands = commands.clone();
            thread::spawn(move || converse(&commands, key % 2))
        })
        .collect();
    let jobs: usize = conversations.into_iter().map(|it| it.join().unwrap()).sum();
    commands.wait();
    assert_eq!(process::running(), 0, "commands run on");
    // What they left may write for longer.
    settle();
    let State { ready, held, bytes, workers, running, readers, .. } = &*commands.state();
    assert_eq!((ready.len(), held.len(), running.len()), (0, 0, 0));
    assert_eq!(
        (*bytes, *workers, *readers),
        (0, 0, 0),
        "bytes, workers and readers not given back"
    );
    let (_, started, most) = process::count();
    assert!(most <= limits::COMMANDS, "{most} commands at once");
    assert!(started == jobs || refusals > 0 && started < jobs, "{started} of {jobs} commands");
    console.close().unwrap();
}

fn converse(commands: &Arc<Commands>, key: u128) -> usize {
    let conversation = commands.begin();
    let jobs = 1 + choose(2) as usize;
    for _ in 0..jobs {
        let (name, peer) = (SafeName::map(&[u16::from(b'a')]), Peer::Stdio);
        let (size, digest, resumed_at) = (0, 0, 0);
        let (may_be_cut, time_not_preserved) = (false, false);
        let stored = Stored { name, size, digest, resumed_at, may_be_cut, time_not_preserved };
        commands.hold(conversation, Job { peer, key, name: "a".to_owned(), outcome: Ok(stored) });
        switch();
    }
    if choose(4) == 0 {
        commands.discard(conversation);
        return 0;
    }
    commands.run(conversation);
    jobs
}
