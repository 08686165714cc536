//! Models and their files.

use super::{Convert, Wire};
use hone::v1;
use hone::v1::download_model_response::Part;

use crate::serve::download::Piece;
use hone_storage::{Model, Version};

impl Convert<&Model> for v1::Model {
    fn convert(model: &Model) -> Self {
        let alias =
            |alias: &hone_storage::Alias| v1::Alias { name: alias.name.clone(), version: alias.version };
        Self {
            name: model.name.clone(),
            versions: model.versions.iter().map(|version| version.as_ref().wire()).collect(),
            aliases: model.aliases.iter().map(alias).collect(),
        }
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
