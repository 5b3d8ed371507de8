//! Other protocols, known by the first bytes that their programs write.

/// Bytes that are enough to know one.
pub const MAGIC_LENGTH: usize = 4;

/// The name of the protocol whose stream begins like this: with a request, or a server's greeting.
pub fn protocol(beginning: &[u8]) -> Option<&'static str> {
    let table: [(&str, &[&[u8; MAGIC_LENGTH]]); 7] = [
        // Without a version there is no status line, and the page comes at once.
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
    ];
    let first = beginning.first_chunk()?;
    // An alert or a handshake of any version (RFC 8446, section 5.1).
    if matches!(first, [0x15 | 0x16, 3, 0..=4, _]) {
        return Some("TLS");
    }
    table.iter().find(|(_, words)| words.contains(&first)).map(|(name, _)| *name)
}
