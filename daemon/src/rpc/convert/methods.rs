//! The training methods that are off by default, between the wire and the domain. Each message names the client's flag.

use super::{Convert, Parse, Parsed};
use std::collections::BTreeMap;

use hone::v1;

use super::spec::{MAX_TEXT, number};
use crate::serve::reference::shown;
use hone_base::error::{Error, Result};
use hone_train::methods::{ClassWeights, Methods};

/// Labels that `--class-weights` may name: no set of labels is larger.
const MAX_WEIGHTS: usize = 1 << 16;

impl Parse<v1::Methods> for Methods {
    fn parse(wire: v1::Methods) -> Result<Self> {
        let default = Self::default();
        let positive = |x: f64| x > 0.0;
        let inside = |x: f64| x > 0.0 && x < 1.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        Ok(Self {
            gradient_checkpointing: wire.gradient_checkpointing.unwrap_or(default.gradient_checkpointing),
            freeze_layers: wire.freeze_layers.unwrap_or(default.freeze_layers),
            freeze_embeddings: wire.freeze_embeddings.unwrap_or(default.freeze_embeddings),
            layer_decay: number("--layer-decay", wire.layer_decay, "greater than 0 and at most 1", |x| {
                x > 0.0 && x <= 1.0
            })?,
            label_smoothing: number(
                "--label-smoothing",
                wire.label_smoothing,
                "at least 0 and less than 1",
                share,
            )?
            .unwrap_or(default.label_smoothing),
            class_weights: wire.class_weights.unwrap_or_default().parsed()?,
            focal_gamma: number("--focal-gamma", wire.focal_gamma, "greater than 0", positive)?,
            ema_decay: number("--ema", wire.ema, "greater than 0 and less than 1", inside)?,
            r_drop: number("--r-drop", wire.r_drop, "greater than 0", positive)?,
            reinit_layers: wire.reinit_layers.unwrap_or(default.reinit_layers),
        })
    }
}

impl Parse<v1::ClassWeights> for ClassWeights {
    fn parse(wire: v1::ClassWeights) -> Result<Self> {
        const FLAG: &str = "--class-weights";
        match (wire.balanced, wire.given.len()) {
            (true, 0) => return Ok(Self::Balanced),
            (false, 0) => return Ok(Self::None),
            (true, _) => {
                return Err(Error::invalid(format!(
                    "{FLAG} is either balanced or a list of weights, not both"
                )));
            }
            (false, named) if named > MAX_WEIGHTS => {
                return Err(Error::invalid(format!(
                    "{FLAG} names {named} labels; {MAX_WEIGHTS} are the most"
                )));
            }
            (false, _) => {}
        }
        let mut weights = BTreeMap::new();
        for v1::LabelWeight { label, weight } in wire.given {
            if label.is_empty() || label.len() > MAX_TEXT {
                return Err(Error::invalid(format!(
                    "{FLAG} needs labels of 1 to {MAX_TEXT} bytes; got {}",
                    shown(&label)
                )));
            }
            number(FLAG, Some(weight), "greater than 0", |x| x > 0.0)?;
            if weights.insert(label.clone(), weight).is_some() {
                return Err(Error::invalid(format!("{FLAG} names the label {} twice", shown(&label))));
            }
        }
        Ok(Self::Given(weights))
    }
}

impl Convert<&Methods> for v1::Methods {
    fn convert(methods: &Methods) -> Self {
        let class_weights = match &methods.class_weights {
            ClassWeights::None => None,
            ClassWeights::Balanced => Some(v1::ClassWeights { balanced: true, given: Vec::new() }),
            ClassWeights::Given(weights) => {
                let weight = |(label, weight): (&String, &f64)| v1::LabelWeight {
                    label: label.clone(),
                    weight: *weight,
                };
                Some(v1::ClassWeights { balanced: false, given: weights.iter().map(weight).collect() })
            }
        };
        Self {
            gradient_checkpointing: Some(methods.gradient_checkpointing),
            freeze_layers: Some(methods.freeze_layers),
            freeze_embeddings: Some(methods.freeze_embeddings),
            layer_decay: methods.layer_decay,
            label_smoothing: Some(methods.label_smoothing),
            class_weights,
            focal_gamma: methods.focal_gamma,
            ema: methods.ema_decay,
            r_drop: methods.r_drop,
            reinit_layers: Some(methods.reinit_layers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Wire = v1::Methods;

    fn read(change: impl FnOnce(&mut Wire)) -> Result<Methods> {
        let mut wire = Wire::default();
        change(&mut wire);
        wire.parsed()
    }

    fn refused(flag: &str, change: impl FnOnce(&mut Wire)) {
        let error = read(change).unwrap_err();
        assert!(error.message().starts_with(flag), "{flag}: {error}");
        assert_eq!(error.kind(), hone_base::error::Kind::Invalid);
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
        let methods = Methods::parse(wire.clone()).unwrap();
        assert_eq!((methods.freeze_layers, methods.reinit_layers), (4, 1));
        assert_eq!((methods.layer_decay, methods.ema_decay), (Some(0.95), Some(0.999)));
        assert_eq!(v1::Methods::convert(&methods), wire);
        let balanced = v1::ClassWeights { balanced: true, given: Vec::new() };
        assert_eq!(read(|m| m.class_weights = Some(balanced)).unwrap().class_weights, ClassWeights::Balanced);
    }

    #[test]
    fn a_number_outside_its_range_is_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1] {
            refused("--layer-decay", |m| m.layer_decay = Some(bad));
            refused("--label-smoothing", |m| m.label_smoothing = Some(bad));
            refused("--focal-gamma", |m| m.focal_gamma = Some(bad));
            refused("--ema", |m| m.ema = Some(bad));
            refused("--r-drop", |m| m.r_drop = Some(bad));
            refused("--class-weights", |m| m.class_weights = given(&[("a", bad)]));
        }
        refused("--layer-decay", |m| m.layer_decay = Some(0.0));
        refused("--layer-decay", |m| m.layer_decay = Some(1.01));
        refused("--label-smoothing", |m| m.label_smoothing = Some(1.0));
        refused("--focal-gamma", |m| m.focal_gamma = Some(0.0));
        refused("--ema", |m| m.ema = Some(0.0));
        refused("--ema", |m| m.ema = Some(1.0));
        refused("--r-drop", |m| m.r_drop = Some(0.0));
    }

    #[test]
    fn weights_that_contradict_each_other_are_refused() {
        refused("--class-weights", |m| m.class_weights = given(&[("a", 0.0)]));
        refused("--class-weights", |m| m.class_weights = given(&[("", 1.0)]));
        refused("--class-weights", |m| m.class_weights = given(&[("a", 1.0), ("a", 2.0)]));
        refused("--class-weights", |m| {
            m.class_weights =
                given(&[("a", 1.0)]).map(|weights| v1::ClassWeights { balanced: true, ..weights });
        });
    }
}
