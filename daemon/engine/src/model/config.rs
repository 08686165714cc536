//! The `config.json` of an encoder or a classifier.

use std::path::Path;

use serde_json::{Map, Value};

pub use super::architecture::Architecture;
use super::families::{self, Family, Kind};
use hone_base::error::{Error, Result};
use hone_base::model_file;

/// A `config.json`: what Hone uses of it, and all of it, so that nothing is lost when a checkpoint is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What the model is built from.
    pub architecture: Architecture,
    kind: Kind,
    raw: Map<String, Value>,
}

/// What a checkpoint says of a classifier beside its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadConfig<'a> {
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

impl Config {
    /// Reads `config.json` from an encoder's or a checkpoint's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = model_file::read_text(&path)?.ok_or_else(|| {
            Error::precondition(format!("the model folder {} has no config.json", folder.display()))
        })?;
        Self::parse(&text).map_err(|error| error.within(path.display()))
    }

    /// Parses the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self> {
        let not_usable = |error| Error::precondition(format!("not a usable model configuration: {error}"));
        let raw: Map<String, Value> = serde_json::from_str(text).map_err(not_usable)?;
        let (family, kind) = kind(&raw)?;
        Ok(Self { architecture: Architecture::parse(family, &raw)?, kind, raw })
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
    pub fn classifier_json(&self, head: &HeadConfig<'_>) -> Value {
        let HeadConfig { labels, thresholds, dropout } = *head;
        let mut raw = self.raw.clone();
        let names: Map<_, _> = labels
            .iter()
            .enumerate()
            .map(|(class, label)| (class.to_string(), label.as_str().into()))
            .collect();
        let classes: Map<_, _> =
            labels.iter().enumerate().map(|(class, label)| (label.clone(), class.into())).collect();
        raw.insert("architectures".into(), vec![self.kind.class].into());
        raw.insert("model_type".into(), self.kind.model_type.into());
        raw.remove(THRESHOLDS);
        raw.insert("problem_type".into(), "single_label_classification".into());
        if let Some(thresholds) = thresholds {
            raw.insert("problem_type".into(), MULTI_LABEL.into());
            raw.insert(THRESHOLDS.into(), thresholds.into());
        }
        raw.insert(self.architecture.family.field("classifier_dropout").into(), dropout.into());
        raw.insert("id2label".into(), names.into());
        raw.insert("label2id".into(), classes.into());
        raw.insert("torch_dtype".into(), "float32".into());
        raw.remove("dtype");
        raw.remove("num_labels");
        raw.remove("_name_or_path");
        raw.into()
    }
}

/// The kind of model. A folder that does not say is what the class says that it was saved from; without that it is BERT,
/// which once was the only one, unless it has a number that only other families have.
fn kind(raw: &Map<String, Value>) -> Result<(&'static Family, Kind)> {
    let kinds = || families::ALL.into_iter().flat_map(|of| of.kinds().iter().map(move |kind| (of, *kind)));
    let class = raw.get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str);
    let of_class = |class: &str| {
        let is_of = |known: &str| class.split("For").next() == known.split("For").next();
        let of_model = |known: &str| class.strip_suffix("Model") == known.split("For").next();
        kinds().find(|(_, known)| is_of(known.class) || of_model(known.class))
    };
    let known: Vec<&str> = kinds().map(|(_, known)| known.model_type).collect();
    let known = known.join(", ");
    let named = raw.get("model_type").filter(|name| !name.is_null());
    let found = match (named, class) {
        (Some(name), _) => kinds().find(|(_, known)| name == known.model_type),
        (None, Some(class)) => of_class(class),
        (None, None) => {
            let other = ["dim", "n_layers", "embedding_size", "relative_attention"];
            let has = |name: &&str| raw.contains_key(*name);
            let one = |name: &str| raw.get(name).is_some_and(|value| value == 1);
            if let Some(field) = other.iter().find(|name| has(name)) {
                return Err(Error::precondition(format!(
                    "there is no \"model_type\", and a model with {field} is no BERT; add one of these: {known}"
                )));
            }
            if one("pad_token_id") && one("type_vocab_size") {
                return Err(Error::precondition(
                    "there is no \"model_type\", and BERT pads with token 0, not 1; add \"model_type\": \"roberta\" (or \
                     xlm-roberta, camembert) if it is one",
                ));
            }
            kinds().next()
        }
    };
    found.ok_or_else(|| {
        let name = match (named, class) {
            (Some(name), _) => format!("model type is {name}"),
            (None, class) => format!("class is \"{}\"", class.unwrap_or_default()),
        };
        Error::precondition(format!(
            "the {name}, which Hone cannot train; choose an encoder of one of these types: {known}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"model_type":"bert","vocab_size":9,"hidden_size":8,"num_hidden_layers":1,
        "num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":32,"unknown":[1,2]}"#;

    #[test]
    fn a_classifier_keeps_unknown_fields_and_gives_its_labels_back() -> Result<()> {
        let labels = vec!["no".to_owned(), "yes".to_owned(), "10".to_owned()];
        let json = Config::parse(SMALL)?.classifier_json(&HeadConfig {
            labels: &labels,
            thresholds: None,
            dropout: 0.3,
        });
        assert_eq!(json["unknown"], serde_json::json!([1, 2]));
        assert_eq!(json["label2id"]["10"], 2);
        let again = Config::parse(&json.to_string())?;
        assert_eq!(again.labels(), Some(labels));
        assert_eq!(again.architecture.classifier_dropout, Some(0.3));
        Ok(())
    }

    #[test]
    fn a_classifier_is_of_the_class_and_has_the_dropout_of_its_family() -> Result<()> {
        let labels = ["no".to_owned(), "yes".to_owned()];
        let head = HeadConfig { labels: &labels, thresholds: None, dropout: 0.3 };
        let distilbert = r#"{"model_type":"distilbert","vocab_size":9,"dim":8,"n_layers":1,"n_heads":2,
            "hidden_dim":16,"max_position_embeddings":32}"#;
        for (text, class, dropout) in [
            (SMALL.to_owned(), "BertForSequenceClassification", "classifier_dropout"),
            (
                SMALL.replace("\"model_type\":\"bert\",", ""),
                "BertForSequenceClassification",
                "classifier_dropout",
            ),
            (distilbert.to_owned(), "DistilBertForSequenceClassification", "seq_classif_dropout"),
            (SMALL.replace("bert", "roberta"), "RobertaForSequenceClassification", "classifier_dropout"),
            (
                SMALL.replace("bert", "xlm-roberta"),
                "XLMRobertaForSequenceClassification",
                "classifier_dropout",
            ),
            (SMALL.replace("bert", "camembert"), "CamembertForSequenceClassification", "classifier_dropout"),
            (SMALL.replace("bert", "electra"), "ElectraForSequenceClassification", "classifier_dropout"),
            (SMALL.replace("bert", "albert"), "AlbertForSequenceClassification", "classifier_dropout_prob"),
        ] {
            let json = Config::parse(&text)?.classifier_json(&head);
            assert_eq!((&json["architectures"][0], &json[dropout]), (&class.into(), &0.3.into()));
            let again = Config::parse(&json.to_string())?;
            assert_eq!(again.architecture.classifier_dropout, Some(0.3));
            assert_eq!(again.classifier_json(&head), json);
        }
        Ok(())
    }

    #[test]
    fn thresholds_are_kept_where_a_text_may_have_several_labels() -> Result<()> {
        let labels = vec!["no".to_owned(), "yes".to_owned()];
        let head = HeadConfig { labels: &labels, thresholds: Some(&[0.1, 0.75]), dropout: 0.3 };
        let json = Config::parse(SMALL)?.classifier_json(&head);
        let several = Config::parse(&json.to_string())?;
        assert_eq!(several.thresholds(), Some(vec![0.1, 0.75]));
        let silent = json.to_string().replace(THRESHOLDS, "other");
        assert_eq!(Config::parse(&silent)?.thresholds(), Some(vec![0.5, 0.5]));
        let json = several.classifier_json(&HeadConfig { thresholds: None, ..head });
        assert_eq!((Config::parse(&json.to_string())?.thresholds(), json.get(THRESHOLDS)), (None, None));
        Ok(())
    }

    #[test]
    fn other_models_are_refused_with_their_name_and_those_that_can_be_trained() {
        let refused = |text: &str| Config::parse(text).map(|_| ()).unwrap_err().to_string();
        let error = refused(&SMALL.replace("bert", "gpt2"));
        assert!(
            error.contains("\"gpt2\"") && error.contains("distilbert, roberta, xlm-roberta, camembert"),
            "{error}"
        );
        assert!(refused(&SMALL.replace("\"bert\"", "7")).contains("model type"));
        assert!(refused(&SMALL.replace('}', "")).contains("configuration"));
        assert!(refused("[]").contains("configuration"));
        for other in ["xlm-roberta-xl", "deberta", "deberta-v2", "roberta-prelayernorm", "Bert"] {
            assert!(refused(&SMALL.replace("\"bert\"", &format!("\"{other}\""))).contains(other), "{other}");
        }
    }

    #[test]
    fn a_folder_that_does_not_say_its_type_is_what_its_class_says() -> Result<()> {
        let untyped = |more: &str| SMALL.replace("\"model_type\":\"bert\"", more);
        let kind = |text: &str| Config::parse(text).map(|config| config.kind.model_type);
        assert_eq!(kind(&untyped("\"x\":1"))?, "bert");
        assert_eq!(kind(&untyped("\"architectures\":[\"RobertaForMaskedLM\"]"))?, "roberta");
        assert_eq!(kind(&untyped("\"architectures\":[\"XLMRobertaModel\"]"))?, "xlm-roberta");
        assert_eq!(kind(&untyped("\"architectures\":[\"AlbertForMaskedLM\"]"))?, "albert");
        assert_eq!(kind(&untyped("\"architectures\":[\"ElectraForPreTraining\"]"))?, "electra");
        let refused = |more: &str| kind(&untyped(more)).unwrap_err().to_string();
        assert!(refused("\"architectures\":[\"DebertaModel\"]").contains("class is \"DebertaModel\""));
        assert!(
            refused("\"pad_token_id\":1,\"type_vocab_size\":1").contains("add \"model_type\": \"roberta\"")
        );
        assert!(refused("\"embedding_size\":8").contains("embedding_size is no BERT"));
        Ok(())
    }
}
