//! Values in a summary as the text that they are shown as: for serde's `with`.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

use crate::codec::ContentHash;
use crate::pg::{Lsn, SegmentName, SystemId, Timeline, WalName};

/// A value that is written as text.
pub(super) trait Text: Sized {
    fn show(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

impl Text for Lsn {
    fn show(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        Self::from_str(text).ok()
    }
}

impl Text for Timeline {
    fn show(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

impl Text for ContentHash {
    fn show(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Text for Option<ContentHash> {
    fn show(&self) -> String {
        self.map(|hash| hash.to_string()).unwrap_or_default()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Some)
    }
}

impl Text for SegmentName {
    fn show(&self) -> String {
        WalName::Segment(*self).to_string()
    }
    fn read(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(WalName::Segment(segment)) => Some(segment),
            _ => None,
        }
    }
}

impl Text for Option<SystemId> {
    fn show(&self) -> String {
        self.map(|id| id.to_string()).unwrap_or_default()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(|id| Some(SystemId(id)))
    }
}

impl Text for Option<Lsn> {
    fn show(&self) -> String {
        self.map(|lsn| lsn.to_string()).unwrap_or_default()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Some)
    }
}

pub(super) fn serialize<S: Serializer>(value: &impl Text, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Shown(value))
}

pub(super) fn deserialize<'a, T: Text, D: Deserializer<'a>>(from: D) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not what it should be")))
}

struct Shown<'a, T>(&'a T);

impl<T: Text> Display for Shown<'_, T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0.show())
    }
}

/// Lists of such values.
pub(super) mod list {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Text;

    pub(in crate::archive::tree) fn serialize<S: Serializer>(
        values: &[impl Text],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(Text::show))
    }

    pub(in crate::archive::tree) fn deserialize<'a, T: Text, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let read = |text: &String| {
            T::read(text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not what it should be")))
        };
        texts.iter().map(read).collect()
    }
}
