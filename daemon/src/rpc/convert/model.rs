//! Models and their files.

use super::{Convert, Wire};
use hone::v1;
use hone::v1::download_model_response::Part;

use crate::serve::check::Figures;
use crate::serve::download::Piece;
use crate::serve::load::Report;
use crate::serve::registry::Models;
use crate::serve::shadow::Shadow;
use crate::serve::worker::Stage;
use hone_storage::{Alias, AliasMove, Canary, Cause, Model, Version};

impl Convert<&Model> for v1::Model {
    fn convert(model: &Model) -> Self {
        let alias = |alias: &Alias| v1::Alias {
            name: alias.name.clone(),
            version: alias.version,
            canary: model.settings.canaries.get(&alias.name).map(Wire::wire),
            shadow: model
                .settings
                .shadows
                .get(&alias.name)
                .map(|version| v1::Shadow { version: *version, ..v1::Shadow::default() }),
        };
        Self {
            name: model.name.clone(),
            versions: model.versions.iter().map(|version| version.as_ref().wire()).collect(),
            aliases: model.aliases.iter().map(alias).collect(),
            precision: model.settings.precision.map(|precision| precision.name().to_owned()),
        }
    }
}

impl Convert<&Canary> for v1::Canary {
    fn convert(canary: &Canary) -> Self {
        Self { version: canary.version, share: canary.share }
    }
}

impl Convert<&Version> for v1::ModelVersion {
    fn convert(version: &Version) -> Self {
        Self {
            version: version.version,
            created_at: Some(version.created.wire()),
            job_id: version.job.clone(),
            epoch: version.epoch,
            weights_sha256: version.weights_sha256.clone(),
            size_bytes: version.size(),
            labels: version.labels.clone(),
            max_length: version.max_length,
            validation: Some((&version.validation).wire()),
            test: version.test.as_ref().map(Wire::wire),
            encoder: version.encoder.clone(),
            serving: None,
        }
    }
}

/// A model with how its versions are served, and how those that answer beside others compare.
pub(in crate::rpc) fn served(models: &Models, model: &Model) -> v1::Model {
    let mut shown = v1::Model::convert(model);
    for (shown, version) in shown.versions.iter_mut().zip(&model.versions) {
        shown.serving = Some(serving(models, model, version));
    }
    for alias in &mut shown.aliases {
        if let Some(shadow) = models.shadow_of(&model.name, &alias.name) {
            alias.shadow = Some((&*shadow).wire());
        }
    }
    shown
}

/// How a version is served.
pub(in crate::rpc) fn serving(models: &Models, model: &Model, version: &Version) -> v1::Serving {
    let pinned = model.settings.pinned.contains(&version.version);
    let (stage, bytes) = models.stage(version).unwrap_or((Stage::Unloaded, 0));
    let state = match &stage {
        Stage::Loading => v1::ServingState::Loading,
        Stage::Ready(_) => v1::ServingState::Ready,
        Stage::Failed(_) => v1::ServingState::Failed,
        Stage::Unloaded => v1::ServingState::NotLoaded,
    };
    let serving = v1::Serving { state: state.into(), bytes, pinned, ..v1::Serving::default() };
    match stage {
        Stage::Ready(ready) => {
            let Report { precision, asked, figures, reasons } = ready.report.clone();
            v1::Serving {
                precision: precision.name().to_owned(),
                asked: asked.name().to_owned(),
                check: figures.map(Wire::wire),
                reasons,
                ..serving
            }
        }
        Stage::Failed(error) => v1::Serving { error: error.message().to_owned(), ..serving },
        Stage::Loading | Stage::Unloaded => serving,
    }
}

impl Convert<Figures> for v1::ServingCheck {
    fn convert(figures: Figures) -> Self {
        Self {
            rows: figures.rows as u64,
            accuracy_loss_points: figures.accuracy_loss,
            largest_change: figures.largest_change.into(),
        }
    }
}

impl Convert<&Shadow> for v1::Shadow {
    fn convert(shadow: &Shadow) -> Self {
        let tally = shadow.tally();
        Self {
            version: shadow.version().version,
            calls: tally.calls,
            dropped: shadow.dropped(),
            texts: tally.texts,
            agreed: tally.agreed,
            flipped: tally.texts - tally.agreed,
            mean_difference: tally.mean_difference(),
            largest_difference: tally.largest_difference,
            error: tally.error.map_or_else(String::new, |error| error.message().to_owned()),
        }
    }
}

impl Convert<&AliasMove> for v1::AliasMove {
    fn convert(moved: &AliasMove) -> Self {
        let (cause, share) = match moved.cause {
            Cause::Published => (v1::AliasMoveCause::Published, 0.0),
            Cause::Promoted => (v1::AliasMoveCause::Promoted, 0.0),
            Cause::RolledBack => (v1::AliasMoveCause::RolledBack, 0.0),
            Cause::Deleted => (v1::AliasMoveCause::Deleted, 0.0),
            Cause::Canary(share) => (v1::AliasMoveCause::Canary, share),
        };
        Self {
            time: Some(moved.time.wire()),
            alias: moved.alias.clone(),
            from: moved.from.unwrap_or(0),
            to: moved.to,
            cause: cause.into(),
            share,
            by: moved.by.clone(),
        }
    }
}

impl Convert<Piece> for v1::DownloadModelResponse {
    fn convert(piece: Piece) -> Self {
        let part = match piece {
            Piece::Chunk(chunk) => Part::Chunk(chunk),
            Piece::File(file) => {
                Part::File(v1::DownloadedFile { name: file.name, size_bytes: file.size, sha256: file.sha256 })
            }
        };
        Self { part: Some(part) }
    }
}
