//! XXH64 with seed 0, the checksum of a body in a receipt.
//!
//! From the specification, "xxHash fast digest algorithm", version 0.1.1 (`doc/xxhash_spec.md` of the
//! xxHash project). It is not cryptographic: it detects accidental changes, not forgeries.

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

const STRIPE: usize = 32;

/// A running XXH64.
#[derive(Clone, Debug)]
pub struct Xxh64 {
    lanes: [u64; 4],
    /// The bytes of an incomplete stripe: the first `length % STRIPE`.
    tail: [u8; STRIPE],
    length: u64,
}

impl Default for Xxh64 {
    fn default() -> Self {
        Self {
            lanes: [P1.wrapping_add(P2), P2, 0, 0u64.wrapping_sub(P1)],
            tail: [0; STRIPE],
            length: 0,
        }
    }
}

impl Xxh64 {
    /// Returns the number of bytes digested so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Digests the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let held = self.held();
        self.length = self.length.wrapping_add(bytes.len() as u64);
        if held > 0 {
            let wanted = STRIPE - held;
            if bytes.len() < wanted {
                self.tail[held..held + bytes.len()].copy_from_slice(bytes);
                return;
            }
            self.tail[held..].copy_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            consume(&mut self.lanes, &self.tail);
        }
        let mut stripes = bytes.chunks_exact(STRIPE);
        // A local copy stays in registers.
        let mut lanes = self.lanes;
        for stripe in &mut stripes {
            consume(&mut lanes, stripe);
        }
        self.lanes = lanes;
        let rest = stripes.remainder();
        self.tail[..rest.len()].copy_from_slice(rest);
    }

    /// Returns the digest of all bytes so far.
    pub fn finish(&self) -> u64 {
        let [a, b, c, d] = self.lanes;
        let mut hash = if self.length < STRIPE as u64 {
            P5
        } else {
            let sum = a
                .rotate_left(1)
                .wrapping_add(b.rotate_left(7))
                .wrapping_add(c.rotate_left(12))
                .wrapping_add(d.rotate_left(18));
            [a, b, c, d]
                .into_iter()
                .fold(sum, |hash, lane| (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4))
        };
        hash = hash.wrapping_add(self.length);

        let mut words = self.tail[..self.held()].chunks_exact(8);
        for word in &mut words {
            hash = (hash ^ round(0, le64(word))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        }
        let mut bytes = words.remainder();
        if let Some((half, rest)) = bytes.split_first_chunk::<4>() {
            hash ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
            hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
            bytes = rest;
        }
        for &byte in bytes {
            hash = (hash ^ u64::from(byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
        }

        hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
        hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
        hash ^ (hash >> 32)
    }

    #[expect(clippy::cast_possible_truncation, reason = "less than STRIPE")]
    fn held(&self) -> usize {
        (self.length % STRIPE as u64) as usize
    }
}

/// Returns the digest of `bytes`.
pub fn xxh64(bytes: &[u8]) -> u64 {
    let mut digest = Xxh64::default();
    digest.update(bytes);
    digest.finish()
}

#[inline(always)]
fn consume(lanes: &mut [u64; 4], stripe: &[u8]) {
    // Unrolled by hand, since a compiler that optimises for size would emit a loop.
    lanes[0] = round(lanes[0], le64(&stripe[..8]));
    lanes[1] = round(lanes[1], le64(&stripe[8..16]));
    lanes[2] = round(lanes[2], le64(&stripe[16..24]));
    lanes[3] = round(lanes[3], le64(&stripe[24..32]));
}

#[inline(always)]
fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

/// Reads a little-endian number from `word`, which has 8 bytes.
#[inline(always)]
fn le64(word: &[u8]) -> u64 {
    // This compiles to one load. In a standard library that is built for size, `copy_from_slice` is a
    // call.
    let bytes = [word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]];
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sanity buffer of the xxHash project's own self-test.
    fn sanity(length: usize) -> Vec<u8> {
        let mut generator = 2_654_435_761_u64;
        (0..length)
            .map(|_| {
                let byte = generator.to_be_bytes()[0];
                generator = generator.wrapping_mul(11_400_714_785_074_694_797);
                byte
            })
            .collect()
    }

    #[test]
    fn known_answers() {
        assert_eq!(xxh64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(&sanity(1)), 0xE934_A84A_DB05_2768);
        assert_eq!(xxh64(&sanity(14)), 0x8282_DCC4_994E_35C8);
        assert_eq!(xxh64(&sanity(222)), 0xB641_AE8C_B691_C174);
    }

    #[test]
    fn however_it_is_cut() {
        let bytes = sanity(200);
        for length in 0..bytes.len() {
            let whole = xxh64(&bytes[..length]);
            for cut in 0..=length {
                let mut digest = Xxh64::default();
                digest.update(&bytes[..cut]);
                digest.update(&bytes[cut..length]);
                assert_eq!(digest.finish(), whole, "{length} bytes cut at {cut}");
            }
        }
    }
}
