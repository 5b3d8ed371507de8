//! A buffered stream whose next bytes can be examined without being consumed.

use std::io::{self, BufRead, ErrorKind, Read};

/// A stream that can show its next bytes.
pub trait Peek: BufRead {
    /// Returns the next bytes without consuming them, at least `least` unless the stream ends before.
    ///
    /// # Errors
    /// Fails if the stream fails before that many have arrived. Those that have arrived are not lost.
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
    /// The range of the buffer that is filled: its start and its end.
    filled: (usize, usize),
}

impl<R: Read> PeekReader<R> {
    /// Creates a reader of `stream` with a buffer of `capacity` bytes, which grows if more are peeked.
    pub fn with_capacity(capacity: usize, stream: R) -> Self {
        Self { stream, buffer: vec![0; capacity], filled: (0, 0) }
    }

    /// Returns the buffered bytes.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer[self.filled.0..self.filled.1]
    }

    /// Returns the stream.
    pub fn get_ref(&self) -> &R {
        &self.stream
    }

    /// Returns the stream. Reading from it directly skips the buffered bytes.
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
        // A large read bypasses the empty buffer, as with `BufReader`.
        if self.buffer().is_empty() && buffer.len() >= self.buffer.len() {
            return self.stream.read(buffer);
        }
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the reads.
    struct Counted<'a>(&'a [u8], usize);

    impl Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            self.0.read(buffer)
        }
    }

    #[test]
    fn small_reads_are_buffered_and_large_ones_are_not() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut reader = PeekReader::with_capacity(8, Counted(&bytes, 0));
        // The buffered bytes and where each read stops; how often the stream was read until then.
        for (size, read, buffered, reads) in [
            (3, 3, 5, 1),
            (3, 3, 2, 1),
            (3, 2, 0, 1),
            (8, 8, 0, 2),
            (20, 20, 0, 3),
            (7, 7, 1, 4),
            (8, 1, 0, 4),
        ] {
            let mut buffer = vec![0; size];
            assert_eq!(reader.read(&mut buffer).unwrap(), read, "{size}");
            assert_eq!((reader.buffer().len(), reader.get_ref().1), (buffered, reads), "{size}");
        }
        let next = reader.peek(1).unwrap();
        assert_eq!(next, (44..52).collect::<Vec<u8>>());
        // It grows only for what is asked for.
        assert_eq!(reader.peek(20).unwrap(), (44..64).collect::<Vec<u8>>());
        reader.consume(19);
        assert_eq!(reader.peek(1).unwrap(), [63]);
        reader.consume(2);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 36);
        assert!(reader.peek(1).unwrap().is_empty());
    }
}
