//! The floor of `make bench`: what a file over TCP costs with nothing but a read and a write. There
//! is no header, no digest, no receipt and no durability; a connection is a file. With --digest both
//! sides digest what they copy, as qdrop and qdropd do, and the sender compares.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

#[allow(dead_code)]
#[path = "../src/digest.rs"]
mod digest;

const BUFFER: usize = 256 * 1024; // as src/limits.rs has it

/// Returns the digest, or nothing.
fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    buffer: &mut [u8],
    digests: bool,
) -> io::Result<Vec<u8>> {
    let mut digest = digest::Xxh64::default();
    loop {
        let n = from.read(buffer)?;
        if n == 0 {
            return Ok(if digests { digest.finish().to_be_bytes().into() } else { Vec::new() });
        }
        if digests {
            digest.update(&buffer[..n]);
        }
        to.write_all(&buffer[..n])?;
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (digests, arguments) = match &arguments[..] {
        [option, rest @ ..] if option == "--digest" => (true, rest),
        all => (false, all),
    };
    let buffer = &mut vec![0; BUFFER][..];
    match arguments {
        [verb, address, files @ ..] if verb == "recv" => {
            let listener = TcpListener::bind(address)?;
            for file in files {
                let (mut stream, _) = listener.accept()?;
                let answer = copy(&mut stream, &mut File::create(file)?, buffer, digests)?;
                stream.write_all(&answer)?;
            }
        }
        [verb, address, files @ ..] if verb == "send" => {
            for file in files {
                let mut stream = TcpStream::connect(address)?;
                let expected = copy(&mut File::open(file)?, &mut stream, buffer, digests)?;
                stream.shutdown(Shutdown::Write)?;
                // The receiver closes when it has everything.
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer)?;
                if answer != expected {
                    return Err(io::Error::other("the digests differ"));
                }
            }
        }
        _ => return Err(io::Error::other("usage: floor [--digest] recv|send ADDR:PORT FILE...")),
    }
    Ok(())
}
