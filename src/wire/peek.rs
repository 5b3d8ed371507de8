//! A buffered stream whose next bytes can be looked at before it is decided whose they are.

use std::io::{self, BufRead, ErrorKind, Read};

/// A stream that shows more than one byte ahead.
pub trait Peek: BufRead {
    /// Returns the next bytes, at least `least` of them unless the stream ends before. None is consumed.
    ///
    /// # Errors
    /// Fails if the stream fails before so many have come. Those that have come are not lost.
    fn peek(&mut self, least: usize) -> io::Result<&[u8]>;
}

impl<P: Peek> Peek for &mut P {
    fn peek(&mut self, least: usize) -> io::Result<&[u8]> {
        (**self).peek(least)
    }
}

impl Peek for &[u8] {
    fn peek(&mut self, _: usize) -> io::Result<&[u8]> {
        Ok(self)
    }
}

/// A [`io::BufReader`] that can [`Peek::peek`].
#[derive(Debug)]
pub struct PeekReader<R> {
    stream: R,
    buffer: Vec<u8>,
    /// The bytes that are buffered: from the first to the second.
    filled: (usize, usize),
}

impl<R: Read> PeekReader<R> {
    /// Creates a reader of `stream`, which asks it for `capacity` bytes, or for as many as are peeked.
    pub fn with_capacity(capacity: usize, stream: R) -> Self {
        Self { stream, buffer: vec![0; capacity], filled: (0, 0) }
    }

    /// Returns what is buffered.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer[self.filled.0..self.filled.1]
    }

    /// Returns the stream.
    pub fn get_ref(&self) -> &R {
        &self.stream
    }

    /// Returns the stream. What is read from it directly comes after what is buffered.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.stream
    }
}

impl<R: Read> Peek for PeekReader<R> {
    fn peek(&mut self, least: usize) -> io::Result<&[u8]> {
        let (start, end) = self.filled;
        if end - start < least {
            self.buffer.copy_within(start..end, 0);
            self.filled = (0, end - start);
            self.buffer.resize(self.buffer.len().max(least), 0);
        }
        while self.buffer().len() < least {
            match self.stream.read(&mut self.buffer[self.filled.1..]) {
                Ok(0) => break,
                Ok(n) => self.filled.1 += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer())
    }
}

impl<R: Read> BufRead for PeekReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek(1)
    }

    fn consume(&mut self, bytes: usize) {
        self.filled.0 += bytes.min(self.buffer().len());
    }
}

impl<R: Read> Read for PeekReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A large piece of a body need not be copied.
        if self.buffer().is_empty() && buffer.len() >= self.buffer.len() {
            return self.stream.read(buffer);
        }
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}
