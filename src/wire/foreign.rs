//! Recognises other protocols by the first bytes that their programs send.

/// Bytes that suffice to recognise a protocol.
pub const MAGIC_LENGTH: usize = 4;

/// The beginning of a PROXY header of version 1, and of one of version 2.
pub const PROXY_V1: &[u8] = b"PROXY ";
/// See [`PROXY_V1`].
pub const PROXY_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Returns the name of the protocol whose stream begins like this, with a client's request or a
/// server's greeting.
pub fn protocol(beginning: &[u8]) -> Option<&'static str> {
    let table: [(&str, &[&[u8; MAGIC_LENGTH]]); 11] = [
        // The response to a request without a version has no status line and begins with the page.
        (
            "HTTP",
            &[b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"PRI ", b"HTTP", b"<!DO", b"<htm"],
        ),
        ("SSH", &[b"SSH-"]),
        ("FTP or SMTP", &[b"220 ", b"220-", b"421 ", b"554 "]),
        ("POP3", &[b"+OK "]),
        ("IMAP", &[b"* OK", b"* BY"]),
        ("VNC", &[b"RFB "]),
        ("rsync", &[b"@RSY"]),
        ("NNTP", &[b"200 ", b"201 "]),
        ("Redis", &[b"-ERR", b"-DEN", b"-NOA"]),
        ("AMQP", &[b"AMQP"]),
        ("XML", &[b"<?xm"]),
    ];
    let first = beginning.first_chunk()?;
    // An alert or a handshake of any version (RFC 8446, section 5.1).
    if matches!(first, [0x15 | 0x16, 3, 0..=4, _]) {
        return Some("TLS");
    }
    // IAC with WILL, WONT, DO or DONT (RFC 854).
    if matches!(first, [0xFF, 0xFB..=0xFE, _, _]) {
        return Some("Telnet");
    }
    table.iter().find(|(_, words)| words.contains(&first)).map(|(name, _)| *name)
}
