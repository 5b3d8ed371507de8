//! A network for `make bench` that is far and wide: what either end sends arrives half a round trip
//! later, in order, and as fast as it came. A connection takes its round trip, too.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const PIECE: usize = 64 * 1024;
const ON_THE_WAY: usize = 4096; // pieces

type Pieces = Receiver<(Instant, Vec<u8>)>;

/// Reads all that comes, and tells when each piece of it is due at the other end.
fn take(mut from: TcpStream, delay: Duration) -> Pieces {
    let (way, pieces) = sync_channel(ON_THE_WAY);
    spawn(move || {
        let buffer = &mut vec![0; PIECE][..];
        while let Ok(n @ 1..) = from.read(buffer) {
            if way.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
                return; // The other end is gone.
            }
        }
        let _ = way.send((Instant::now() + delay, Vec::new()));
    });
    pieces
}

/// Hands them over, and the end of the stream, which is the empty one.
fn hand_over(pieces: Pieces, mut to: TcpStream) {
    for (due, piece) in pieces {
        sleep(due.saturating_duration_since(Instant::now()));
        if piece.is_empty() {
            let _ = to.shutdown(Shutdown::Write);
        } else if to.write_all(&piece).is_err() {
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn serve(near: TcpStream, far: &str, delay: Duration) -> std::io::Result<()> {
    near.set_nodelay(true)?;
    sleep(2 * delay);
    let forward = take(near.try_clone()?, delay);
    sleep(delay); // The last part of the handshake is on its way.
    let far = TcpStream::connect(far)?;
    far.set_nodelay(true)?;
    let back = take(far.try_clone()?, delay);
    spawn(move || hand_over(back, near));
    hand_over(forward, far);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [near, far, milliseconds] = &arguments[..] else {
        return Err("usage: relay ADDR:PORT ADDR:PORT MILLISECONDS".into());
    };
    let delay = Duration::from_secs_f64(milliseconds.parse::<f64>()? / 2000.0);
    // By default the kernel lets a sleep last 50 us longer, as much as the shortest delay.
    std::fs::write("/proc/self/timerslack_ns", "1")?;
    for near in TcpListener::bind(near)?.incoming() {
        let (near, far) = (near?, far.clone());
        spawn(move || serve(near, &far, delay));
    }
    Ok(())
}
