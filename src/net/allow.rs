//! Who may send, and who is a proxy: networks by address alone, so that no name service decides.

use std::net::IpAddr;
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// Returns whether the address is in this network. An IPv4-mapped address (`::ffff:192.0.2.1`,
    /// RFC 4291, section 2.5.5.2) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                (ours.to_bits() ^ theirs.to_bits()) & mask == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                (ours.to_bits() ^ theirs.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    /// `ADDR` or `ADDR/BITS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address: IpAddr = bare.unwrap_or(address).parse().map_err(|_| {
            format!(
                "{address:?} is not an IP address; write 192.168.1.20 or 192.168.1.0/24, and repeat the \
                 option for several"
            )
        })?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 = match bits {
            None => most,
            Some(bits) => Some(bits)
                .filter(|bits| bits.bytes().all(|digit| digit.is_ascii_digit()))
                .and_then(|bits| bits.parse().ok())
                .filter(|&bits| bits <= most)
                .ok_or_else(|| {
                    format!("{bits:?} is not a number of bits, 0 to {most}, as in 192.168.1.0/24")
                })?,
        };
        // A network of IPv4-mapped addresses is one of IPv4, which has no 96 bits itself.
        match (address.to_canonical(), bits.checked_sub(96)) {
            (canonical @ IpAddr::V4(_), Some(bits)) => Ok(Self { address: canonical, bits }),
            _ => Ok(Self { address, bits }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let table = [
            ("192.168.1.0/24", "192.168.1.77", true),
            ("192.168.1.5/24", "192.168.1.77", true),
            ("192.168.1.0/24", "192.168.2.1", false),
            ("192.168.1.0/24", "::ffff:192.168.1.77", true),
            ("::ffff:192.168.1.0/120", "192.168.1.77", true),
            ("::ffff:192.168.1.1", "192.168.1.2", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("2001:db8::1/127", "2001:db8::2", false),
            ("[2001:db8::1]/127", "2001:db8::", true),
        ];
        for (network, address, contained) in table {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(
                parsed.contains(address.parse().unwrap()),
                contained,
                "{address} in {network}"
            );
        }
        for bad in [
            "",
            "x",
            "10.0.0",
            "10.0.0.1/33",
            "::/129",
            "10.0.0.1/",
            "10.0.0.1/+8",
            "10.0.0.1/-1",
            "localhost",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
