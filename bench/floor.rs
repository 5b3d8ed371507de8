//! The floor of `make bench`: what a file over TCP costs with nothing but a read and a write. There
//! is no header, no digest, no receipt and no durability; a connection is a file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

const BUFFER: usize = 256 * 1024; // as src/limits.rs has it

fn copy(from: &mut impl Read, to: &mut impl Write, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let buffer = &mut vec![0; BUFFER][..];
    match arguments.as_slice() {
        [verb, address, files @ ..] if verb == "recv" => {
            let listener = TcpListener::bind(address)?;
            for file in files {
                let (mut stream, _) = listener.accept()?;
                copy(&mut stream, &mut File::create(file)?, buffer)?;
            }
        }
        [verb, address, files @ ..] if verb == "send" => {
            for file in files {
                let mut stream = TcpStream::connect(address)?;
                copy(&mut File::open(file)?, &mut stream, buffer)?;
                stream.shutdown(Shutdown::Write)?;
                // The receiver closes when it has everything.
                copy(&mut stream, &mut io::sink(), buffer)?;
            }
        }
        _ => return Err(io::Error::other("usage: floor recv|send ADDR:PORT FILE...")),
    }
    Ok(())
}
