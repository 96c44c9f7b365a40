//! From JSON to checked settings: what the functions' configurations have in common.
//!
//! Not on the packet's path. Every error is an [`NfError`]: the path of the key, what is wrong with its value, the
//! remedy. Keys that a function does not know are refused, so that a misspelt one is never silently ignored.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use packet::NfError;
use serde::de::{self, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de::Error as _};
use serde_json::Value;

/// The largest flow table that an instance may ask for: four million mappings take about 430 MiB.
pub(crate) const MAX_TABLE: u32 = 4_194_304;

/// The longest idle time: a week.
const MAX_IDLE_S: u32 = 604_800;

/// Reads a function's settings; `null` is an empty configuration.
pub(crate) fn parse<T: DeserializeOwned>(config: &Value) -> Result<T, NfError> {
    let config = match config {
        Value::Null => Value::Object(serde_json::Map::new()),
        other => other.clone(),
    };
    serde_path_to_error::deserialize(config).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => "config".into(),
            path => path,
        };
        NfError { path, problem: error.into_inner().to_string() }
    })
}

/// An error about one key.
pub(crate) fn refuse<T>(path: impl Into<String>, problem: impl Into<String>) -> Result<T, NfError> {
    Err(NfError { path: path.into(), problem: problem.into() })
}

/// Checks the size of a preallocated table.
pub(crate) fn table_size(path: &str, entries: u32) -> Result<usize, NfError> {
    match entries {
        1..=MAX_TABLE => Ok(entries as usize),
        _ => refuse(path, format!("{entries} entries are not possible; use 1 to {MAX_TABLE}")),
    }
}

/// Checks an idle time in seconds and gives it in nanoseconds.
pub(crate) fn idle_ns(path: &str, seconds: u32) -> Result<u64, NfError> {
    match seconds {
        1..=MAX_IDLE_S => Ok(u64::from(seconds) * 1_000_000_000),
        _ => refuse(path, format!("{seconds} s is not a usable idle time; use 1 to {MAX_IDLE_S} (a week)")),
    }
}

/// A value that a list key accepts, alone or in a list.
pub(crate) trait Element: Sized {
    /// What it looks like, for error messages.
    const EXPECTED: &'static str;
    /// From a YAML string.
    fn from_text(text: &str) -> Result<Self, String>;
    /// From a YAML number.
    fn from_number(number: u64) -> Result<Self, String>;
}

/// A prefix without host bits; a bare address is a prefix of full length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix(pub IpNet);

impl Element for Prefix {
    const EXPECTED: &'static str = "a prefix such as 10.0.0.0/8 or 2001:db8::/32";

    fn from_text(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(IpNet::from(address)));
        }
        let prefix: IpNet = text.parse().map_err(|_| format!("`{text}` is not {}", Self::EXPECTED))?;
        if prefix.trunc() == prefix {
            return Ok(Self(prefix));
        }
        let (whole, alone) = (prefix.trunc(), prefix.addr());
        Err(format!(
            "`{text}` has bits set behind its prefix length; write {whole} for the prefix or {alone} for the address"
        ))
    }

    fn from_number(number: u64) -> Result<Self, String> {
        Err(format!("`{number}` is not {}", Self::EXPECTED))
    }
}

/// An inclusive range of ports, host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Element for Ports {
    const EXPECTED: &'static str = "a port such as 80 or a range such as \"1-1024\"";

    fn from_text(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| format!("`{text}` is not {}", Self::EXPECTED));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("the range {first}-{last} is empty; write {last}-{first}"));
        }
        Ok(Self { first, last })
    }

    fn from_number(number: u64) -> Result<Self, String> {
        let port = u16::try_from(number).map_err(|_| format!("port {number} is not in 0 to 65535"))?;
        Ok(Self { first: port, last: port })
    }
}

impl Ports {
    /// The ports as a range.
    pub fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// One element or a list of at least one; with the key left out, a list of none.
#[derive(Debug, Clone)]
pub(crate) struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Element> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Element> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of them", T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<List<T>, E> {
        T::from_text(text).map(|element| List(vec![element])).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<List<T>, E> {
        T::from_number(number).map(|element| List(vec![element])).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(Listed(element)) = elements.next_element()? {
            list.push(element);
        }
        match list.is_empty() {
            true => Err(A::Error::custom(
                "the list is empty and would match nothing; leave the key out to match everything",
            )),
            false => Ok(List(list)),
        }
    }
}

/// An element inside a list, where a further list is refused.
struct Listed<T>(T);

impl<'de, T: Element> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListedVisitor(PhantomData))
    }
}

struct ListedVisitor<T>(PhantomData<T>);

impl<T: Element> Visitor<'_> for ListedVisitor<T> {
    type Value = Listed<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Listed<T>, E> {
        T::from_text(text).map(Listed).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Listed<T>, E> {
        T::from_number(number).map(Listed).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ports(value: Value) -> Result<Vec<String>, String> {
        let list: Result<List<Ports>, NfError> = parse(&value);
        list.map(|list| list.0.iter().map(Ports::to_string).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn ports_are_a_number_a_range_or_a_list_of_both() {
        assert_eq!(ports(json!(80)), Ok(vec!["80".into()]));
        assert_eq!(ports(json!("1-1024")), Ok(vec!["1-1024".into()]));
        assert_eq!(ports(json!([80, "443", "8000 - 8080"])), Ok(vec!["80".into(), "443".into(), "8000-8080".into()]));
    }

    #[test]
    fn a_wrong_port_is_named_by_its_place_in_the_list() {
        assert_eq!(ports(json!([80, 65536])), Err("[1]: port 65536 is not in 0 to 65535".into()));
        assert_eq!(ports(json!("9-1")), Err("config: the range 9-1 is empty; write 1-9".into()));
        assert!(ports(json!([80, "http"])).unwrap_err().starts_with("[1]: `http` is not a port"));
        assert!(ports(json!([])).unwrap_err().contains("leave the key out"));
        assert!(ports(json!([[80]])).is_err());
        assert!(ports(json!(-1)).is_err());
    }

    #[test]
    fn a_prefix_with_host_bits_is_refused_with_both_meanings() {
        assert_eq!(Prefix::from_text("10.0.0.1").map(|prefix| prefix.0.to_string()), Ok("10.0.0.1/32".into()));
        let refused = Prefix::from_text("10.0.0.1/24").unwrap_err();
        assert!(refused.contains("10.0.0.0/24") && refused.contains("10.0.0.1 "), "{refused}");
        assert!(Prefix::from_text("10.0.0/24").is_err());
        assert!(Prefix::from_text("2001:db8::/129").is_err());
    }
}
