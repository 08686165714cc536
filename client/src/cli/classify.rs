//! What `client classify` may ask for besides labels and scores.

use clap::Args;
use hone::v1;

use super::values;

/// What is asked for; nothing by default.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Wishes {
    /// With --json: only the N highest scores of each text. Default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) top_k: Option<u32>,
    /// With --json: also the logits of which the scores were made.
    #[arg(long)]
    pub(crate) logits: bool,
    /// Tokens of a text at most, special tokens included. Default: what the model takes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_length: Option<u32>,
    /// Where a text that is too long is cut: right keeps its beginning, left its end; with none it is an error.
    /// Default: as in training.
    #[arg(long, value_name = "SIDE")]
    pub(crate) truncation: Option<Truncation>,
    /// The score, 0 to 1, below which a text has no label; for models whose texts have one.
    #[arg(long, value_name = "SCORE", value_parser = values::score, allow_negative_numbers = true)]
    pub(crate) min_score: Option<f32>,
    /// From -100 to 100; calls with a higher one are answered first. Default: 0
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(-100..=100), allow_negative_numbers = true)]
    pub(crate) priority: Option<i32>,
    /// An id of your own for these calls; with --json it stands in each answer.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
}

/// Where a text that is too long is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Truncation {
    Right,
    Left,
    None,
}

impl Wishes {
    /// A request of a model with these wishes, and no text yet.
    pub(crate) fn request(&self, model: &str) -> v1::ClassifyRequest {
        let side = match self.truncation {
            Some(Truncation::Right) => v1::TruncationSide::Right,
            Some(Truncation::Left) => v1::TruncationSide::Left,
            Some(Truncation::None) => v1::TruncationSide::None,
            None => v1::TruncationSide::Unspecified,
        };
        v1::ClassifyRequest {
            model: model.to_owned(),
            top_k: self.top_k.unwrap_or_default(),
            return_logits: self.logits,
            max_length: self.max_length.unwrap_or_default(),
            truncation_side: side.into(),
            min_score: self.min_score,
            request_id: self.id.clone().unwrap_or_default(),
            priority: self.priority.unwrap_or_default(),
            ..v1::ClassifyRequest::default()
        }
    }
}
