//! The PROXY header, in which a proxy says for whom it connects: versions 1 and 2, as `HAProxy` writes them
//! (docs/PROTOCOL.md, 6).

use super::foreign::{PROXY_V1, PROXY_V2};
use super::header::HeaderError;
use super::qdatastream::{ReadError, Reader};
use crate::limits;
// Addresses as values: core has no sockets.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::io::Read;

/// A connection that a proxy passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// The address of the peer.
    pub peer: SocketAddr,
    /// The address at which the peer reached the proxy.
    pub local: IpAddr,
}

/// Reads a PROXY header, and no byte behind it. Returns `None` if it names no peer of TCP: the proxy has
/// connected on its own behalf, or does not know or tell for whom.
///
/// # Errors
/// See [`HeaderError`].
pub fn read(stream: impl Read) -> Result<Option<Proxied>, HeaderError> {
    let mut reader = Reader::new(stream);
    let mut read = || {
        // No header of either version is shorter.
        let beginning = reader.array()?;
        if beginning == *PROXY_V2 {
            read_binary(&mut reader)
        } else if beginning.starts_with(PROXY_V1) {
            read_line(&mut reader, beginning.to_vec())
        } else {
            let why = "it has no PROXY header, which --proxy requires of this address (HAProxy: \
                       send-proxy-v2)";
            Ok(Err(why.to_owned()))
        }
    };
    match read() {
        Ok(read) => read.map_err(HeaderError::Malformed),
        Err(error) => Err(HeaderError::of_stream(error, reader.consumed(), 0)),
    }
}

/// What a header says, or what is wrong with it.
type Said = Result<Option<Proxied>, String>;

/// Reads the rest of a line of version 1. The line has no length, so nothing is read ahead.
fn read_line(reader: &mut Reader<impl Read>, mut line: Vec<u8>) -> Result<Said, ReadError> {
    while line.len() < limits::PROXY_LINE && !line.ends_with(b"\n") {
        line.push(reader.u8()?);
    }
    let Some(line) = line.strip_suffix(b"\r\n") else {
        let most = limits::PROXY_LINE;
        return Ok(Err(format!("its PROXY header is no line of {most} bytes with CR and LF")));
    };
    // Whatever stands behind it is ignored.
    if matches!(line.strip_prefix(b"PROXY UNKNOWN"), Some([] | [b' ', ..])) {
        return Ok(Ok(None));
    }
    let proxied = std::str::from_utf8(line).ok().and_then(parse_line);
    Ok(proxied.map(Some).ok_or_else(|| "its PROXY header is no line of version 1".to_owned()))
}

/// Parses a line of version 1, without its end.
fn parse_line(line: &str) -> Option<Proxied> {
    let words: Vec<&str> = line.split(' ').collect();
    let [_, family, peer, local, peer_port, local_port] = words[..] else { return None };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    // Without zeros in front.
    let port = |text: &str| text.parse().ok().filter(|port: &u16| port.to_string() == text);
    port(local_port)?;
    Some(Proxied {
        peer: SocketAddr::new(address(peer)?, port(peer_port)?),
        local: address(local)?,
    })
}

/// Reads the rest of a header of version 2. What it has besides addresses is skipped.
fn read_binary(reader: &mut Reader<impl Read>) -> Result<Said, ReadError> {
    let [command, family, high, low] = reader.array()?;
    let length = u16::from_be_bytes([high, low]);
    if length > limits::PROXY_REST {
        let most = limits::PROXY_REST;
        return Ok(Err(format!("its PROXY header has {length} bytes more, above {most}")));
    }
    let rest = reader.bytes(length.into())?;
    let proxied = match (command, family) {
        (0x20, _) => return Ok(Ok(None)),
        (0x21, 0x11) => addresses::<4>(&rest),
        (0x21, 0x21) => addresses::<16>(&rest),
        // Unspecified, or of UDP or Unix sockets.
        (0x21, _) if family >> 4 <= 3 && family & 0xF <= 2 => return Ok(Ok(None)),
        _ => {
            return Ok(Err(format!(
                "its PROXY header has the command {command:#04x} and the family {family:#04x}, which \
                 version 2 has not"
            )));
        }
    };
    let too_short = || format!("its PROXY header has {length} bytes for its addresses, too few");
    Ok(proxied.map(Some).ok_or_else(too_short))
}

/// Reads two addresses of so many bytes, and their ports.
fn addresses<const N: usize>(bytes: &[u8]) -> Option<Proxied>
where
    IpAddr: From<[u8; N]>,
{
    let (peer, rest) = bytes.split_first_chunk::<N>()?;
    let (local, ports) = rest.split_first_chunk::<N>()?;
    let [high, low, _, _] = *ports.first_chunk()?;
    let port = u16::from_be_bytes([high, low]);
    Some(Proxied { peer: SocketAddr::new(IpAddr::from(*peer), port), local: IpAddr::from(*local) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Gives a byte at a time.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    /// Reads a header that more follows, at once and byte by byte. No byte of what follows may be lost.
    fn read_all(header: &[u8]) -> Result<Option<(String, String)>, String> {
        let all = [header, b"PROXY what follows\r\n"].concat();
        let mut rest = all.as_slice();
        let (mut dribble, mut said) = (Dribble(&all), Vec::new());
        for read in [read(&mut rest), read(&mut dribble)] {
            said.push(match read {
                Ok(read) => Ok(read.map(|it| (it.peer.to_string(), it.local.to_string()))),
                Err(HeaderError::Malformed(why)) => Err(why),
                Err(error) => panic!("{error:?}"),
            });
        }
        assert_eq!(said[0], said[1]);
        if said[0].is_ok() {
            assert_eq!((rest, dribble.0), (&all[header.len()..], &all[header.len()..]));
        }
        said.swap_remove(0)
    }

    fn ends(peer: &str, local: &str) -> Option<(String, String)> {
        Some((peer.to_owned(), local.to_owned()))
    }

    #[test]
    fn lines_of_version_1() {
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(limits::PROXY_LINE - 16));
        let table = [
            ("PROXY TCP4 192.0.2.7 192.0.2.1 5 9999\r\n", ends("192.0.2.7:5", "192.0.2.1")),
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                ends("255.255.255.255:65535", "255.255.255.255"),
            ),
            ("PROXY TCP6 2001:DB8::7 ::1 0 0\r\n", ends("[2001:db8::7]:0", "::1")),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", ends("[::ffff:192.0.2.7]:1", "::1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN 192.0.2.7 ::1 \u{fc} 99999 \r more\r\n", None),
            (&long, None),
        ];
        for (line, said) in table {
            assert_eq!(read_all(line.as_bytes()), Ok(said), "{line}");
        }
        for bad in [
            "PROXY TCP4 192.0.2.7 192.0.2.1 5 9999\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5 9999\r",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5 9999 \r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5\r\n",
            "PROXY TCP4  192.0.2.7 192.0.2.1 5 9999\r\n",
            "PROXY TCP4 192.0.2.07 192.0.2.1 5 9999\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 05 9999\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5 09999\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 65536 9999\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 5 65536\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 +5 9999\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.1 5 9999\r\n",
            "PROXY TCP4 2001:db8::7 192.0.2.1 5 9999\r\n",
            "PROXY TCP4 192.0.2.7 ::1 5 9999\r\n",
            "PROXY TCP6 192.0.2.7 ::1 5 9999\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 5 9999\r\n",
            "PROXY TCP5 192.0.2.7 192.0.2.1 5 9999\r\n",
            "PROXY tcp4 192.0.2.7 192.0.2.1 5 9999\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN\n",
            "PROXY \r\n",
            "proxy TCP4 192.0.2.7 192.0.2.1 5 9999\r\n",
            "PROXYTCP4 192.0.2.7 192.0.2.1 5 9999\r\n",
            &long.replace("UNKNOWN ", "UNKNOWN  "),
        ] {
            assert!(read_all(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    fn binary(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [PROXY_V2.as_slice(), &[command, family], &length.to_be_bytes(), rest].concat()
    }

    #[test]
    fn headers_of_version_2() {
        let four = [192, 0, 2, 7, 192, 0, 2, 1, 1, 2, 3, 4];
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (7, 1, 9, 8);
        let most = usize::from(limits::PROXY_REST);
        let with =
            |bytes: &[u8], length: usize| [bytes, &vec![0xFF; length - bytes.len()]].concat();
        let (v4, v6) = (ends("192.0.2.7:258", "192.0.2.1"), ends("[::7]:9", "::1"));
        let table: [(u8, u8, Vec<u8>, _); 13] = [
            (0x21, 0x11, four.to_vec(), Ok(v4.clone())),
            (0x21, 0x11, with(&four, 40), Ok(v4.clone())),
            (0x21, 0x11, with(&four, most), Ok(v4)),
            (0x21, 0x21, six.to_vec(), Ok(v6.clone())),
            (0x21, 0x21, with(&six, 200), Ok(v6)),
            (0x20, 0x00, Vec::new(), Ok(None)),
            (0x20, 0xFF, with(&four, 80), Ok(None)),
            (0x21, 0x00, with(&four, 80), Ok(None)),
            (0x21, 0x12, four.to_vec(), Ok(None)),
            (0x21, 0x31, vec![0; 216], Ok(None)),
            (0x21, 0x11, four[..11].to_vec(), Err("11 bytes for its addresses, too few")),
            (0x21, 0x21, six[..35].to_vec(), Err("35 bytes for its addresses, too few")),
            (0x21, 0x21, four.to_vec(), Err("12 bytes for its addresses, too few")),
        ];
        for (command, family, rest, said) in table {
            let length = u16::try_from(rest.len()).unwrap();
            match (read_all(&binary(command, family, length, &rest)), said) {
                (read, Ok(said)) => assert_eq!(read, Ok(said), "{command:x} {family:x}"),
                (read, Err(why)) => assert!(read.unwrap_err().contains(why), "{why}"),
            }
        }
        for (command, family) in
            [(0x22, 0x11), (0x11, 0x11), (0x01, 0x11), (0x31, 0x11), (0x21, 0x13), (0x21, 0x41)]
        {
            let why = read_all(&binary(command, family, 12, &four)).unwrap_err();
            assert!(why.contains("version 2 has not"), "{why}");
        }
        for length in [limits::PROXY_REST + 1, u16::MAX] {
            let why = read_all(&binary(0x21, 0x11, length, &four)).unwrap_err();
            assert!(why.contains("bytes more"), "{why}");
        }
    }

    #[test]
    fn a_header_that_breaks_off() {
        let line: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 5 9999\r\n";
        for header in [line, &binary(0x21, 0x11, 12, &[1; 12])] {
            for length in 0..header.len() {
                match read(&header[..length]) {
                    Err(HeaderError::None) => assert_eq!(length, 0),
                    Err(HeaderError::Cut { got, wanted }) => {
                        assert!(
                            got == length as u64 && got < wanted && wanted <= header.len() as u64
                        );
                    }
                    read => panic!("{length}: {read:?}"),
                }
            }
        }
    }
}
