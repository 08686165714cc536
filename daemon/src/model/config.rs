//! The architecture of an encoder, as its `config.json` gives it.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A `config.json`: what Hone uses of it, and all of it, so that nothing is lost when a checkpoint is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the model is built from.
    pub architecture: Architecture,
    raw: Map<String, Value>,
}

/// What a checkpoint says of a classifier beside its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head<'a> {
    /// In class order.
    pub labels: &'a [String],
    /// In class order: the score from which on a label is set, where a text may have several labels.
    pub thresholds: Option<&'a [f32]>,
    /// Before the classifier.
    pub dropout: f64,
}

/// The key of the thresholds; `transformers` keeps what it does not know.
const THRESHOLDS: &str = "hone_thresholds";
const MULTI_LABEL: &str = "multi_label_classification";

/// The numbers that the model is built from; names and defaults are those of `transformers`' `BertConfig`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct Architecture {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    #[serde(default = "tenth")]
    pub hidden_dropout_prob: f64,
    #[serde(default = "tenth")]
    pub attention_probs_dropout_prob: f64,
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    pub classifier_dropout: Option<f64>,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "bert")]
    model_type: String,
    position_embedding_type: Option<String>,
}

fn two() -> usize {
    2
}

fn tenth() -> f64 {
    0.1
}

fn default_eps() -> f64 {
    1e-12
}

fn gelu() -> String {
    "gelu".into()
}

fn bert() -> String {
    "bert".into()
}

impl Config {
    /// Reads `config.json` from an encoder's or a checkpoint's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::precondition(format!("the model folder {} has no config.json", folder.display()))
            }
            _ => Error::io("read", &path, &error),
        })?;
        Self::parse(&text).map_err(|error| error.within(path.display()))
    }

    /// Parses the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self> {
        let not_usable = |error| Error::precondition(format!("not a usable model configuration: {error}"));
        let raw: Map<String, Value> = serde_json::from_str(text).map_err(not_usable)?;
        let architecture: Architecture =
            serde_json::from_value(Value::Object(raw.clone())).map_err(not_usable)?;
        architecture.check()?;
        Ok(Self { architecture, raw })
    }

    /// The labels in class order, when the checkpoint is a classifier that names them.
    pub fn labels(&self) -> Option<Vec<String>> {
        let names = self.raw.get("id2label")?.as_object()?;
        (0..names.len()).map(|class| Some(names.get(&class.to_string())?.as_str()?.to_owned())).collect()
    }

    /// The score from which on each label is set, in class order, when a text may have several labels; 0.5 where the
    /// checkpoint does not say.
    pub fn thresholds(&self) -> Option<Vec<f32>> {
        let labels =
            self.labels().filter(|_| self.raw.get("problem_type").is_some_and(|of| of == MULTI_LABEL))?;
        let stored = self.raw.get(THRESHOLDS).and_then(Value::as_array);
        let threshold = |class: usize| stored?.get(class)?.as_f64();
        Some((0..labels.len()).map(|class| threshold(class).unwrap_or(0.5) as f32).collect())
    }

    /// The `config.json` of a classifier with this head.
    pub fn classifier_json(&self, head: &Head<'_>) -> Value {
        let Head { labels, thresholds, dropout } = *head;
        let mut raw = self.raw.clone();
        let names: Map<_, _> = labels
            .iter()
            .enumerate()
            .map(|(class, label)| (class.to_string(), label.as_str().into()))
            .collect();
        let classes: Map<_, _> =
            labels.iter().enumerate().map(|(class, label)| (label.clone(), class.into())).collect();
        raw.insert("architectures".into(), vec!["BertForSequenceClassification"].into());
        raw.insert("model_type".into(), "bert".into());
        raw.remove(THRESHOLDS);
        raw.insert("problem_type".into(), "single_label_classification".into());
        if let Some(thresholds) = thresholds {
            raw.insert("problem_type".into(), MULTI_LABEL.into());
            raw.insert(THRESHOLDS.into(), thresholds.into());
        }
        raw.insert("classifier_dropout".into(), dropout.into());
        raw.insert("id2label".into(), names.into());
        raw.insert("label2id".into(), classes.into());
        raw.insert("torch_dtype".into(), "float32".into());
        raw.remove("dtype");
        raw.remove("num_labels");
        raw.remove("_name_or_path");
        raw.into()
    }
}

impl Architecture {
    /// Columns of one attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    fn check(&self) -> Result<()> {
        let unsupported =
            |what: String| Err(Error::precondition(format!("{what}; Hone trains BERT encoders")));
        if self.model_type != "bert" {
            return unsupported(format!("the model type is \"{}\"", self.model_type));
        }
        if self.hidden_act != "gelu" {
            return unsupported(format!(
                "the activation \"{}\" is not supported, only \"gelu\" is",
                self.hidden_act
            ));
        }
        if self.position_embedding_type.as_deref().is_some_and(|kind| kind != "absolute") {
            return unsupported("only absolute position embeddings are supported".into());
        }
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 24).contains(size)) {
            return Err(Error::precondition(format!("{name} is {size}, which no model has")));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(Error::precondition(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden_size, self.num_attention_heads
            )));
        }
        let probabilities = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ];
        if let Some((name, p)) = probabilities.into_iter().find(|(_, p)| !(0.0..1.0).contains(p)) {
            return Err(Error::precondition(format!("{name} is {p}; it must be at least 0 and less than 1")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"model_type":"bert","vocab_size":9,"hidden_size":8,"num_hidden_layers":1,
        "num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":32,"unknown":[1,2]}"#;

    #[test]
    fn what_is_not_given_has_the_default_of_transformers() -> Result<()> {
        let architecture = Config::parse(SMALL)?.architecture;
        assert_eq!((architecture.type_vocab_size, architecture.layer_norm_eps), (2, 1e-12));
        assert_eq!((architecture.hidden_dropout_prob, architecture.classifier_dropout), (0.1, None));
        Ok(())
    }

    #[test]
    fn a_classifier_keeps_unknown_fields_and_gives_its_labels_back() -> Result<()> {
        let labels = vec!["no".to_owned(), "yes".to_owned(), "10".to_owned()];
        let json =
            Config::parse(SMALL)?.classifier_json(&Head { labels: &labels, thresholds: None, dropout: 0.3 });
        assert_eq!(json["unknown"], serde_json::json!([1, 2]));
        assert_eq!(json["label2id"]["10"], 2);
        let again = Config::parse(&json.to_string())?;
        assert_eq!(again.labels(), Some(labels));
        assert_eq!(again.architecture.classifier_dropout, Some(0.3));
        Ok(())
    }

    #[test]
    fn thresholds_are_kept_where_a_text_may_have_several_labels() -> Result<()> {
        let labels = vec!["no".to_owned(), "yes".to_owned()];
        let head = Head { labels: &labels, thresholds: Some(&[0.1, 0.75]), dropout: 0.3 };
        let json = Config::parse(SMALL)?.classifier_json(&head);
        let several = Config::parse(&json.to_string())?;
        assert_eq!(several.thresholds(), Some(vec![0.1, 0.75]));
        let silent = json.to_string().replace(THRESHOLDS, "other");
        assert_eq!(Config::parse(&silent)?.thresholds(), Some(vec![0.5, 0.5]));
        let json = several.classifier_json(&Head { thresholds: None, ..head });
        assert_eq!((Config::parse(&json.to_string())?.thresholds(), json.get(THRESHOLDS)), (None, None));
        Ok(())
    }

    #[test]
    fn what_cannot_be_trained_is_refused_with_its_name() {
        let refused = |from: &str, to: &str| {
            let text = SMALL.replace(from, to);
            assert_ne!(text, SMALL);
            Config::parse(&text).map(|_| ()).unwrap_err().to_string()
        };
        assert!(refused("\"bert\"", "\"gpt2\"").contains("gpt2"));
        assert!(refused("\"hidden_size\":8", "\"hidden_size\":9").contains("num_attention_heads"));
        assert!(refused("\"hidden_size\":8", "\"hidden_size\":0").contains("hidden_size"));
        assert!(refused("\"vocab_size\":9,", "").contains("vocab_size"));
        assert!(refused("\"unknown\"", "\"hidden_act\":\"relu\",\"unknown\"").contains("relu"));
        assert!(refused("}", "").contains("configuration"));
    }
}
