//! The id of a point, which is a number or a UUID and nothing else; and so is that of a chunk that becomes one.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PointId {
    Number(u64),
    /// Its 128 bits.
    Uuid(u128),
}

/// As Postgres writes a `uuid` or a `bigint`, and Qdrant its ids.
impl FromStr for PointId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_id = || format!("`{text}` is no id of a point: Qdrant knows UUIDs, and numbers from 0");
        if text.len() <= 20 && !text.starts_with('+') {
            return text.parse().map(Self::Number).map_err(|_| no_id());
        }
        let dashes = text.char_indices().filter(|(_, c)| *c == '-').map(|(at, _)| at);
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if !dashes.eq([8, 13, 18, 23]) || digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(no_id());
        }
        u128::from_str_radix(&digits, 16).map(Self::Uuid).map_err(|_| no_id())
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Uuid(bits) => {
                let digits = format!("{bits:032x}");
                let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
                f.write_str(&parts.join("-"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_uuids_are_ids_and_nothing_else_is() {
        let uuid = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26";
        assert_eq!(uuid.parse::<PointId>().unwrap().to_string(), uuid);
        assert_eq!("0".parse(), Ok(PointId::Number(0)));
        assert_eq!("18446744073709551615".parse(), Ok(PointId::Number(u64::MAX)));
        let no_dashes = "5c56c79369f34fbf87e6c4bf54c28c26";
        let uneven = "5c56c7936-9f3-4fbf-87e6-c4bf54c28c26";
        for text in [
            "",
            "-1",
            "+1",
            "1.5",
            "abc",
            no_dashes,
            uneven,
            "18446744073709551616",
            "5c56c793–69f3–4fbf–87e6–c4bf54c28c26",
        ] {
            assert!(text.parse::<PointId>().unwrap_err().contains("no id of a point"), "{text}");
        }
    }
}
