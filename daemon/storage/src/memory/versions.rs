//! The versions of one model, its aliases and their history, and what is decided for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hone_base::error::Result;

use super::kept;
use crate::settings::MAX_MOVES;
use crate::{AliasMove, ModelSettings, Mover, Time, Version};

/// What is called by the name of one model. It stays when the model is deleted, so that no number is given twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions {
    pub(super) newest: u32,
    pub(super) versions: BTreeMap<u32, Arc<Version>>,
    pub(super) aliases: BTreeMap<String, u32>,
    /// The newest last.
    pub(super) moves: Vec<AliasMove>,
    pub(super) settings: ModelSettings,
}

impl Versions {
    /// Points an alias at a version and writes the move down, if it is one. Returns where it pointed.
    pub(super) fn point(&mut self, alias: &str, version: u32, mover: Mover<'_>) -> Result<Option<u32>> {
        let from = self.aliases.insert(alias.to_owned(), version);
        if from != Some(version) {
            let (alias, by) = (alias.to_owned(), mover.by.to_owned());
            let (time, cause) = (Time::now(), mover.cause);
            self.write_down(&AliasMove { time, alias, from, to: version, cause, by })?;
        }
        Ok(from)
    }

    pub(super) fn write_down(&mut self, moved: &AliasMove) -> Result<()> {
        self.moves.push(kept(moved)?);
        let old = self.moves.len().saturating_sub(MAX_MOVES);
        self.moves.drain(..old);
        Ok(())
    }

    pub(super) fn promote(&mut self, alias: &str, version: u32, mover: Mover<'_>) -> Result<Option<u32>> {
        self.settings.forget_alias(alias);
        self.point(alias, version, mover)
    }

    /// Forgets everything but the numbers that were given.
    pub(super) fn forget(&mut self) -> BTreeMap<u32, Arc<Version>> {
        std::mem::replace(self, Self { newest: self.newest, ..Self::default() }).versions
    }
}
