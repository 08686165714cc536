//! What is decided for a model beside its aliases, and the history of who moved those.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Time;

/// Moves of the aliases of one model that are kept; older ones go.
pub(crate) const MAX_MOVES: usize = 1000;

/// What is decided for a model. Whatever names a version that is deleted goes with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSettings {
    /// What it answers in; `None` leaves it to the daemon.
    pub precision: Option<ServePrecision>,
    /// Versions that stay loaded.
    pub pinned: BTreeSet<u32>,
    /// Versions that take a share of an alias's callers, by aliases.
    pub canaries: BTreeMap<String, Canary>,
    /// Versions that answer beside an alias's, by aliases.
    pub shadows: BTreeMap<String, u32>,
}

/// A version that takes a share of an alias's callers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// The version.
    pub version: u32,
    /// Greater than 0 and less than 1.
    pub share: f64,
}

impl ModelSettings {
    /// Leaves out what names a version.
    pub(crate) fn forget_version(&mut self, version: u32) {
        self.pinned.remove(&version);
        self.canaries.retain(|_, canary| canary.version != version);
        self.shadows.retain(|_, shadow| *shadow != version);
    }

    /// Leaves out what shares an alias: the alias has moved.
    pub(crate) fn forget_alias(&mut self, alias: &str) {
        self.canaries.remove(alias);
        self.shadows.remove(alias);
    }
}

/// A move of an alias.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AliasMove {
    /// When.
    pub time: Time,
    /// The alias.
    pub alias: String,
    /// Where it pointed; `None` when it was new.
    pub from: Option<u32>,
    /// The version that it points at since, or the canary.
    pub to: u32,
    /// Why.
    pub cause: Cause,
    /// Who: a job, or the address and the program of a caller.
    pub by: String,
}

/// Why an alias moved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A version was published.
    Published,
    /// Somebody asked for it.
    Promoted,
    /// Somebody went back to the version before.
    RolledBack,
    /// The version that it pointed at was deleted.
    Deleted,
    /// Not the alias: this share of its callers. 0 ends it.
    Canary(f64),
}

/// Who moves an alias, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mover<'a> {
    /// Why.
    pub cause: Cause,
    /// Who.
    pub by: &'a str,
}

/// The version that an alias pointed at before the one that it points at now, of the moves of its model, the newest
/// first. Going back twice goes back two versions. Versions that are not there any more are passed over.
pub fn version_before(moves: &[AliasMove], alias: &str, is_there: impl Fn(u32) -> bool) -> Option<u32> {
    let mut way: Vec<u32> = Vec::new();
    for moved in moves.iter().rev().filter(|moved| moved.alias == alias) {
        match moved.cause {
            Cause::Canary(_) => continue,
            Cause::RolledBack => match way.iter().rposition(|version| *version == moved.to) {
                Some(place) => way.truncate(place + 1),
                None => way = vec![moved.to],
            },
            Cause::Published | Cause::Promoted | Cause::Deleted => {
                // What came before the oldest move that is kept.
                if let (true, Some(from)) = (way.is_empty(), moved.from) {
                    way.push(from);
                }
                if way.last() != Some(&moved.to) {
                    way.push(moved.to);
                }
            }
        }
    }
    let current = way.pop()?;
    way.into_iter().rev().find(|version| *version != current && is_there(*version))
}

/// What a model is asked to answer in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServePrecision {
    /// The fastest that the device computes, integers left out.
    #[default]
    Auto,
    /// float32
    Fp32,
    /// bfloat16 factors, float32 sums.
    Bf16,
    /// 8-bit integers.
    Int8,
}

impl ServePrecision {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Fp32, Self::Bf16, Self::Int8];

    /// The name that flags, messages and the protocol use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl FromStr for ServePrecision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == text);
        found.ok_or_else(|| "expected auto, fp32, bf16 or int8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The newest first, as a catalog gives them.
    fn moves(moves: &[(Option<u32>, u32, Cause)]) -> Vec<AliasMove> {
        let of = |&(from, to, cause): &(Option<u32>, u32, Cause)| {
            let (alias, by) = ("live".to_owned(), "me".to_owned());
            AliasMove { time: Time(0), alias, from, to, cause, by }
        };
        moves.iter().rev().map(of).collect()
    }

    #[test]
    fn going_back_twice_goes_back_two_versions() {
        use Cause::{Promoted, RolledBack};
        let mut way = vec![(None, 1, Promoted), (Some(1), 2, Promoted), (Some(2), 3, Promoted)];
        let before = |way: &[_]| version_before(&moves(way), "live", |_| true);
        assert_eq!(before(&way), Some(2));
        way.push((Some(3), 2, RolledBack));
        assert_eq!(before(&way), Some(1));
        way.push((Some(2), 1, RolledBack));
        assert_eq!(before(&way), None);
        way.push((Some(1), 4, Promoted));
        assert_eq!(before(&way), Some(1));
    }

    #[test]
    fn what_was_deleted_other_aliases_and_canaries_are_passed_over() {
        use Cause::{Canary, Promoted};
        let mut way = moves(&[
            (None, 1, Promoted),
            (Some(1), 2, Promoted),
            (Some(2), 3, Promoted),
            (Some(3), 4, Canary(0.5)),
        ]);
        assert_eq!(version_before(&way, "live", |version| version != 2), Some(1));
        assert_eq!(version_before(&way, "latest", |_| true), None);
        way.truncate(2);
        assert_eq!(
            version_before(&way, "live", |_| true),
            Some(2),
            "the oldest move that is kept says where from"
        );
    }
}
