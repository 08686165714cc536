//! What is loaded, and loading and unloading ahead of calls.

use std::sync::Arc;

use super::classify::Serving;
use super::precision::Precision;
use super::reference::Reference;
use super::worker::Stage;
use hone_base::error::{Error, Result};
use hone_storage::{Model, Version};

/// Whether a version can answer at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loading {
    /// The next call loads it.
    No,
    /// It is being loaded.
    Begun,
    /// It answers.
    Done,
    /// It could not be loaded; the next call tries again.
    Failed(String),
}

impl Serving {
    /// The version that a caller means, and the model that it belongs to.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Invalid` for a name that is none.
    pub async fn find(&self, reference: &str) -> Result<(Arc<Version>, Model)> {
        let version = self.models.resolve(reference).await?;
        let model = self.all().await?.into_iter().find(|model| model.name == version.name);
        let gone = || Error::not_found(format!("the model {} has just been deleted", version.name));
        Ok((version.clone(), model.ok_or_else(gone)?))
    }

    /// Every model, by name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn all(&self) -> Result<Vec<Model>> {
        let models = self.models.clone();
        let listed = tokio::task::spawn_blocking(move || models.list()).await;
        let listed =
            listed.map_err(|error| Error::internal(format!("reading the models failed: {error}")))??;
        Ok(listed.records.clone())
    }

    /// Loads a version, unless it is loaded.
    ///
    /// # Errors
    /// When there is none, or it cannot be loaded.
    pub async fn load(&self, reference: &str) -> Result<()> {
        let version = self.models.resolve(reference).await?;
        self.models.cache.ready(&version).await.map(drop)
    }

    /// Unloads a version, or, for a name alone, all versions of the model. What waits for them is answered first.
    ///
    /// # Errors
    /// When there is no such version or model.
    pub async fn unload(&self, reference: &str) -> Result<()> {
        let version = self.models.resolve(reference).await?;
        let all = Reference::parse(reference).is_ok_and(|reference| reference.at.is_none());
        self.models
            .cache
            .unload(|other| other.name == version.name && (all || other.version == version.version));
        Ok(())
    }

    /// Every version of every model, and whether it is loaded.
    ///
    /// # Errors
    /// When the models cannot be read.
    pub async fn index(&self) -> Result<Vec<(Arc<Version>, Loading)>> {
        let versions = self.all().await?.into_iter().flat_map(|model| model.versions);
        Ok(versions.map(|version| (version.clone(), self.loading(&version))).collect())
    }

    /// What a version computes in, if it is loaded.
    pub fn precision(&self, version: &Version) -> Option<Precision> {
        match self.models.stage(version) {
            Some((Stage::Ready(ready), _)) => Some(ready.report.precision),
            _ => None,
        }
    }

    fn loading(&self, version: &Version) -> Loading {
        match self.models.stage(version) {
            Some((Stage::Loading, _)) => Loading::Begun,
            Some((Stage::Ready(_), _)) => Loading::Done,
            Some((Stage::Failed(error), _)) => Loading::Failed(error.message().to_owned()),
            Some((Stage::Unloaded, _)) | None => Loading::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::Bench;
    use hone_base::error::Kind;

    #[tokio::test]
    async fn a_version_is_loaded_and_unloaded_by_its_name() {
        let bench = Bench::new();
        (0..2).for_each(|_| drop(bench.publish("reviews")));
        bench.publish("topics");
        let serving = bench.serving();
        let index = async || {
            let index = serving.index().await.unwrap().into_iter();
            index
                .map(|(version, state)| (format!("{}@{}", version.name, version.version), state))
                .collect::<Vec<_>>()
        };
        let states = |states: [Loading; 3]| {
            let names = ["reviews@2", "reviews@1", "topics@1"].map(str::to_owned);
            names.into_iter().zip(states).collect::<Vec<_>>()
        };
        assert_eq!(index().await, states([Loading::No, Loading::No, Loading::No]));
        serving.load("reviews@1").await.unwrap();
        serving.load("reviews").await.unwrap();
        assert_eq!(index().await, states([Loading::Done, Loading::Done, Loading::No]));
        serving.unload("reviews@1").await.unwrap();
        assert_eq!(index().await, states([Loading::Done, Loading::No, Loading::No]));
        serving.load("topics").await.unwrap();
        serving.unload("reviews").await.unwrap();
        assert_eq!(index().await, states([Loading::No, Loading::No, Loading::Done]));
        assert_eq!(serving.load("films").await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(serving.unload("films").await.unwrap_err().kind(), Kind::NotFound);
        std::fs::write(bench.data.version("reviews", 1).join("model.safetensors"), "short").unwrap();
        assert_eq!(serving.load("reviews@1").await.unwrap_err().kind(), Kind::Corrupt);
        assert!(
            matches!(&index().await[1].1, Loading::Failed(why) if why.contains("model.safetensors has 5 bytes"))
        );
        bench.models.shut_down();
    }
}
