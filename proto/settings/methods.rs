//! The training methods that are off by default: their settings, and the type that a job works with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Counts, MAX_TEXT, Message, Range, Setting, Unfit, check};
use crate::message::shown;
use crate::v1;

pub(super) const SETTINGS: &[Setting] = &[
    Setting::switch("gradient_checkpointing", "gradient-checkpointing", |h| {
        &mut methods(h).gradient_checkpointing
    })
    .help(
        "Compute activations again in the backward pass instead of keeping them: less memory, more time, the same weights \
         to the bit",
    )
    .source("Chen et al. 2016"),
    Setting::count("freeze_layers", "freeze-layers", "N", Counts::ANY, |h| &mut methods(h).freeze_layers)
        .titled("frozen layers")
        .help("Keep the lowest N layers of the encoder, and with them its embeddings, as they are")
        .default("0"),
    Setting::switch("freeze_embeddings", "freeze-embeddings", |h| &mut methods(h).freeze_embeddings)
        .titled("frozen embeddings")
        .help("Keep the embeddings as they are"),
    Setting::number("layer_decay", "layer-decay", "X", Range::ABOVE_0_TO_1, |h| &mut methods(h).layer_decay)
        .help("Each layer learns at the rate of the layer above times this, for example 0.95")
        .default("all at one rate")
        .source("Sun et al. 2019"),
    Setting::number("label_smoothing", "label-smoothing", "X", Range::FROM_0_BELOW_1, |h| {
        &mut methods(h).label_smoothing
    })
    .help("Spread this share of each target over all labels, for example 0.1")
    .default("0")
    .source("Szegedy et al. 2016"),
    Setting::number("focal_gamma", "focal-gamma", "X", Range::ABOVE_0, |h| &mut methods(h).focal_gamma)
        .help("Focal loss: rows that are answered well count less, for example 2")
        .default("plain cross-entropy")
        .source("Lin et al. 2017"),
    Setting::number("ema", "ema", "DECAY", Range::ABOVE_0_BELOW_1, |h| &mut methods(h).ema)
        .titled("moving average")
        .help("Evaluate and keep a moving average of the weights with this decay a step, for example 0.999")
        .default("none"),
    Setting::number("r_drop", "r-drop", "X", Range::ABOVE_0, |h| &mut methods(h).r_drop)
        .titled("R-Drop")
        .help(
            "Pass every row twice with different dropout and add this times the divergence of both answers to the loss, \
             for example 1",
        )
        .default("one pass")
        .source("Wu et al. 2021"),
    Setting::count("reinit_layers", "reinit-layers", "N", Counts::ANY, |h| &mut methods(h).reinit_layers)
        .titled("new layers")
        .help("Start the highest N layers of the encoder, and with them the pooler, anew")
        .default("0")
        .source("Zhang et al. 2021"),
];

fn methods(message: &mut Message) -> &mut v1::Methods {
    message.methods.get_or_insert_default()
}

/// What a job does besides plain fine-tuning, every value checked. The default is none of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Methods {
    /// Computes activations again in the backward pass instead of keeping them (Chen et al. 2016): the same weights to
    /// the bit, less memory, more time.
    pub gradient_checkpointing: bool,
    /// Lowest layers of the encoder that stay as they are; with one or more, so do the embeddings.
    pub freeze_layers: u32,
    /// The embeddings stay as they are.
    pub freeze_embeddings: bool,
    /// The rate of each layer is that of the layer above times this (Sun et al. 2019): the head and the top layer learn
    /// at the full rate, layer `l` of `L` (from 0) at `decay^(L - 1 - l)` of it, the embeddings at `decay^L`.
    pub layer_decay: Option<f64>,
    /// Share of the target that is spread over all labels (Szegedy et al. 2016).
    pub label_smoothing: f64,
    /// How much each label counts in the loss.
    pub class_weights: ClassWeights,
    /// Focal loss (Lin et al. 2017): the loss of a row times `(1 - p)^gamma`.
    pub focal_gamma: Option<f64>,
    /// An exponential moving average of the weights, with this decay a step, is what is evaluated and kept.
    pub ema_decay: Option<f64>,
    /// R-Drop (Wu et al. 2021): every row passes twice with different dropout, and this times the divergence of both
    /// answers is added to the loss.
    pub r_drop: Option<f64>,
    /// Highest layers of the encoder that start anew (Zhang et al. 2021), the pooler with them.
    pub reinit_layers: u32,
}

/// How much each label counts in the loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    /// All alike.
    #[default]
    None,
    /// Inversely to its rows: `rows / (labels * rows of the label)`, as scikit-learn's `balanced`.
    Balanced,
    /// Given; a label that is not named has weight 1.
    Given(BTreeMap<String, f64>),
}

impl TryFrom<v1::Methods> for Methods {
    type Error = Unfit;

    fn try_from(wire: v1::Methods) -> Result<Self, Unfit> {
        check(&Message { methods: Some(wire.clone()), ..Message::default() })?;
        let off = Self::default();
        Ok(Self {
            gradient_checkpointing: wire.gradient_checkpointing.unwrap_or(off.gradient_checkpointing),
            freeze_layers: wire.freeze_layers.unwrap_or(off.freeze_layers),
            freeze_embeddings: wire.freeze_embeddings.unwrap_or(off.freeze_embeddings),
            layer_decay: wire.layer_decay,
            label_smoothing: wire.label_smoothing.unwrap_or(off.label_smoothing),
            class_weights: wire.class_weights.unwrap_or_default().try_into()?,
            focal_gamma: wire.focal_gamma,
            ema_decay: wire.ema,
            r_drop: wire.r_drop,
            reinit_layers: wire.reinit_layers.unwrap_or(off.reinit_layers),
        })
    }
}

impl From<&Methods> for v1::Methods {
    fn from(methods: &Methods) -> Self {
        Self {
            gradient_checkpointing: Some(methods.gradient_checkpointing),
            freeze_layers: Some(methods.freeze_layers),
            freeze_embeddings: Some(methods.freeze_embeddings),
            layer_decay: methods.layer_decay,
            label_smoothing: Some(methods.label_smoothing),
            class_weights: (&methods.class_weights).into(),
            focal_gamma: methods.focal_gamma,
            ema: methods.ema_decay,
            r_drop: methods.r_drop,
            reinit_layers: Some(methods.reinit_layers),
        }
    }
}

/// Labels that may have a weight: no set of labels is larger.
const MAX_WEIGHTS: usize = 1 << 16;

impl TryFrom<v1::ClassWeights> for ClassWeights {
    type Error = Unfit;

    fn try_from(wire: v1::ClassWeights) -> Result<Self, Unfit> {
        let unfit = |why: String| Err(Unfit { field: "class_weights", why });
        match (wire.balanced, wire.given.len()) {
            (true, 0) => return Ok(Self::Balanced),
            (false, 0) => return Ok(Self::None),
            (true, _) => return unfit("is either balanced or a list of weights, not both".to_owned()),
            (false, named) if named > MAX_WEIGHTS => {
                return unfit(format!("names {named} labels; {MAX_WEIGHTS} are the most"));
            }
            (false, _) => {}
        }
        let mut weights = BTreeMap::new();
        for v1::LabelWeight { label, weight } in wire.given {
            if label.is_empty() || label.len() > MAX_TEXT {
                return unfit(format!("needs labels of 1 to {MAX_TEXT} bytes; got {}", shown(&label)));
            }
            if !Range::ABOVE_0.holds(weight) {
                return unfit(format!("must be a number {}; got {weight}", Range::ABOVE_0));
            }
            if weights.insert(label.clone(), weight).is_some() {
                return unfit(format!("names the label {} twice", shown(&label)));
            }
        }
        Ok(Self::Given(weights))
    }
}

impl From<&ClassWeights> for Option<v1::ClassWeights> {
    fn from(weights: &ClassWeights) -> Self {
        match weights {
            ClassWeights::None => None,
            ClassWeights::Balanced => Some(v1::ClassWeights { balanced: true, given: Vec::new() }),
            ClassWeights::Given(weights) => {
                let weight = |(label, weight): (&String, &f64)| v1::LabelWeight {
                    label: label.clone(),
                    weight: *weight,
                };
                Some(v1::ClassWeights { balanced: false, given: weights.iter().map(weight).collect() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Wire = v1::Methods;

    fn read(change: impl FnOnce(&mut Wire)) -> Result<Methods, Unfit> {
        let mut wire = Wire::default();
        change(&mut wire);
        wire.try_into()
    }

    fn refused(field: &str, change: impl FnOnce(&mut Wire)) {
        let error = read(change).unwrap_err();
        assert!(error.to_string().starts_with(field), "{field}: {error}");
    }

    fn given(weights: &[(&str, f64)]) -> Option<v1::ClassWeights> {
        let weight = |&(label, weight): &(&str, f64)| v1::LabelWeight { label: label.into(), weight };
        Some(v1::ClassWeights { balanced: false, given: weights.iter().map(weight).collect() })
    }

    #[test]
    fn what_is_absent_is_off() {
        assert_eq!(read(|_| ()).unwrap(), Methods::default());
        assert_eq!(
            read(|m| m.class_weights = Some(v1::ClassWeights::default())).unwrap(),
            Methods::default()
        );
    }

    #[test]
    fn every_method_is_read_and_answered_as_it_was_sent() {
        let wire = v1::Methods {
            gradient_checkpointing: Some(true),
            freeze_layers: Some(4),
            freeze_embeddings: Some(true),
            layer_decay: Some(0.95),
            label_smoothing: Some(0.1),
            class_weights: given(&[("negative", 1.0), ("positive", 2.5)]),
            focal_gamma: Some(2.0),
            ema: Some(0.999),
            r_drop: Some(1.0),
            reinit_layers: Some(1),
        };
        let methods = Methods::try_from(wire.clone()).unwrap();
        assert_eq!((methods.freeze_layers, methods.reinit_layers), (4, 1));
        assert_eq!((methods.layer_decay, methods.ema_decay), (Some(0.95), Some(0.999)));
        assert_eq!(v1::Methods::from(&methods), wire);
        let balanced = v1::ClassWeights { balanced: true, given: Vec::new() };
        assert_eq!(read(|m| m.class_weights = Some(balanced)).unwrap().class_weights, ClassWeights::Balanced);
    }

    #[test]
    fn a_number_outside_its_range_is_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1] {
            refused("`layer_decay`", |m| m.layer_decay = Some(bad));
            refused("`label_smoothing`", |m| m.label_smoothing = Some(bad));
            refused("`focal_gamma`", |m| m.focal_gamma = Some(bad));
            refused("`ema`", |m| m.ema = Some(bad));
            refused("`r_drop`", |m| m.r_drop = Some(bad));
            refused("`class_weights`", |m| m.class_weights = given(&[("a", bad)]));
        }
        refused("`layer_decay`", |m| m.layer_decay = Some(0.0));
        refused("`layer_decay`", |m| m.layer_decay = Some(1.01));
        refused("`label_smoothing`", |m| m.label_smoothing = Some(1.0));
        refused("`focal_gamma`", |m| m.focal_gamma = Some(0.0));
        refused("`ema`", |m| m.ema = Some(0.0));
        refused("`ema`", |m| m.ema = Some(1.0));
        refused("`r_drop`", |m| m.r_drop = Some(0.0));
    }

    #[test]
    fn weights_that_contradict_each_other_are_refused() {
        refused("`class_weights`", |m| m.class_weights = given(&[("a", 0.0)]));
        refused("`class_weights`", |m| m.class_weights = given(&[("", 1.0)]));
        refused("`class_weights`", |m| m.class_weights = given(&[("a", 1.0), ("a", 2.0)]));
        refused("`class_weights`", |m| {
            m.class_weights =
                given(&[("a", 1.0)]).map(|weights| v1::ClassWeights { balanced: true, ..weights });
        });
    }
}
