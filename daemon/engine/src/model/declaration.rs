//! The parameters that a classifier has, before they have values: names, shapes, places.

use super::architecture::{Architecture, Family};

/// The names and the shape of a parameter before it has a value.
///
/// Query, key and value of a layer are one parameter here, so that they are one matrix product, and three in a
/// checkpoint: `parts` are their names there, along the first dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Names in a checkpoint, as `transformers` has them.
    pub parts: Vec<String>,
    /// The shape of all parts together.
    pub shape: Vec<usize>,
    /// Where in the model it stands.
    pub place: Place,
    /// Whether weight decay applies: not to biases and layer-norm parameters.
    pub decays: bool,
}

/// Where in the model a parameter stands, in the order of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The tables and their layer norm.
    Embeddings,
    /// A layer of the encoder, from 0.
    Layer(usize),
    /// What follows the encoder, which a checkpoint may lack.
    Head,
}

/// Every parameter of a classifier with this many labels, in the order of the forward pass: the tables (words,
/// positions, and token types where there are any) and their norm; in each layer query-key-value, attention output,
/// norm, intermediate, output, norm; the two layers of the head. A weight is followed by its bias.
pub fn declare(architecture: &Architecture, labels: usize) -> Vec<Declared> {
    let (hidden, inner) = (architecture.hidden_size, architecture.intermediate_size);
    let names = names(architecture.family);
    let prefix = architecture.family.prefix();
    let mut list = List(Vec::new());

    let embeddings = format!("{prefix}embeddings");
    for (name, rows) in [
        ("word_embeddings", architecture.vocab_size),
        ("position_embeddings", architecture.max_position_embeddings),
        ("token_type_embeddings", architecture.type_vocab_size),
    ] {
        if rows > 0 {
            let parts = vec![format!("{embeddings}.{name}.weight")];
            list.add(parts, vec![rows, hidden], Place::Embeddings, true);
        }
    }
    list.norm(format!("{embeddings}.LayerNorm"), hidden, Place::Embeddings);

    for index in 0..architecture.num_hidden_layers {
        let place = Place::Layer(index);
        let at = |name: &str| format!("{prefix}{}.{index}.{name}", names.layers);
        list.linear(&names.qkv.map(at), 3 * hidden, hidden, place);
        list.linear(&[at(names.attention_output)], hidden, hidden, place);
        list.norm(at(names.attention_norm), hidden, place);
        list.linear(&[at(names.intermediate)], inner, hidden, place);
        list.linear(&[at(names.output)], hidden, inner, place);
        list.norm(at(names.norm), hidden, place);
    }

    list.linear(&[names.dense.into()], hidden, hidden, Place::Head);
    list.linear(&[architecture.family.output_layer().into()], labels, hidden, Place::Head);
    list.0
}

/// Parameters of a layer, each a weight or a bias.
const OF_LAYER: usize = 12;

/// Where the parameters of a layer stand, behind its first.
pub(super) mod at {
    pub(in super::super) const QKV: usize = 0;
    pub(in super::super) const ATTENTION_OUTPUT: usize = 2;
    pub(in super::super) const ATTENTION_NORM: usize = 4;
    pub(in super::super) const INTERMEDIATE: usize = 6;
    pub(in super::super) const OUTPUT: usize = 8;
    pub(in super::super) const NORM: usize = 10;
}

/// The place of the first parameter of the embeddings' norm, behind the tables.
pub(super) fn norm_at(architecture: &Architecture) -> usize {
    if architecture.type_vocab_size > 0 { 3 } else { 2 }
}

/// The place of the first parameter of a layer.
pub(super) fn layer_at(architecture: &Architecture, layer: usize) -> usize {
    norm_at(architecture) + 2 + OF_LAYER * layer
}

/// The place of the first parameter of the head.
pub(super) fn head_at(architecture: &Architecture) -> usize {
    layer_at(architecture, architecture.num_hidden_layers)
}

impl Declared {
    /// The shape of each part.
    pub fn part_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first /= self.parts.len();
        }
        shape
    }
}

impl Family {
    /// What the names of the encoder's weights start with in a classifier, and lack in a bare encoder.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::DistilBert => "distilbert.",
            Self::Roberta => "roberta.",
        }
    }

    /// The layer that gives the logits: the only one whose size depends on the labels.
    pub(super) fn output_layer(self) -> &'static str {
        match self {
            Self::Bert | Self::DistilBert => "classifier",
            Self::Roberta => "classifier.out_proj",
        }
    }
}

/// What a family calls the parts of a layer, and the first layer of its head.
struct Names {
    layers: &'static str,
    qkv: [&'static str; 3],
    attention_output: &'static str,
    attention_norm: &'static str,
    intermediate: &'static str,
    output: &'static str,
    norm: &'static str,
    dense: &'static str,
}

fn names(family: Family) -> Names {
    let bert = Names {
        layers: "encoder.layer",
        qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
        attention_output: "attention.output.dense",
        attention_norm: "attention.output.LayerNorm",
        intermediate: "intermediate.dense",
        output: "output.dense",
        norm: "output.LayerNorm",
        dense: "bert.pooler.dense",
    };
    match family {
        Family::Bert => bert,
        Family::Roberta => Names { dense: "classifier.dense", ..bert },
        Family::DistilBert => Names {
            layers: "transformer.layer",
            qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
            attention_output: "attention.out_lin",
            attention_norm: "sa_layer_norm",
            intermediate: "ffn.lin1",
            output: "ffn.lin2",
            norm: "output_layer_norm",
            dense: "pre_classifier",
        },
    }
}

/// What is declared so far.
struct List(Vec<Declared>);

impl List {
    fn add(&mut self, parts: Vec<String>, shape: Vec<usize>, place: Place, decays: bool) {
        self.0.push(Declared { parts, shape, place, decays });
    }

    fn linear(&mut self, names: &[String], outputs: usize, inputs: usize, place: Place) {
        let of = |suffix: &str| names.iter().map(|name| format!("{name}.{suffix}")).collect();
        self.add(of("weight"), vec![outputs, inputs], place, true);
        self.add(of("bias"), vec![outputs], place, false);
    }

    fn norm(&mut self, name: String, size: usize, place: Place) {
        self.add(vec![format!("{name}.weight")], vec![size], place, false);
        self.add(vec![format!("{name}.bias")], vec![size], place, false);
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;
    use hone_base::error::Result;

    const BERT: &str = r#"{"model_type":"bert","vocab_size":9,"hidden_size":8,"num_hidden_layers":2,
        "num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":32}"#;
    const DISTILBERT: &str = r#"{"model_type":"distilbert","vocab_size":9,"dim":8,"n_layers":2,"n_heads":2,
        "hidden_dim":16,"max_position_embeddings":32}"#;

    fn declared(config: &str) -> Result<Vec<Declared>> {
        Ok(declare(&Config::parse(config)?.architecture, 3))
    }

    #[test]
    fn the_families_differ_in_names_and_in_the_token_types_alone() -> Result<()> {
        let form = |list: &[Declared]| -> Vec<_> {
            list.iter().map(|declared| (declared.shape.clone(), declared.place, declared.decays)).collect()
        };
        let bert = declared(BERT)?;
        let roberta = declared(&BERT.replace("bert", "roberta"))?;
        assert_eq!(form(&bert), form(&roberta));
        assert!(bert[2].parts[0].contains("token_type"));
        let without_types: Vec<_> = [&bert[..2], &bert[3..]].concat();
        assert_eq!(form(&without_types), form(&declared(DISTILBERT)?));
        Ok(())
    }

    #[test]
    fn the_order_is_that_of_the_forward_pass() -> Result<()> {
        for config in [BERT, DISTILBERT] {
            let places: Vec<Place> = declared(config)?.iter().map(|declared| declared.place).collect();
            assert!(places.is_sorted() && places.last() == Some(&Place::Head));
            assert_eq!(places.iter().filter(|&&place| place == Place::Layer(1)).count(), 12);
        }
        Ok(())
    }

    #[test]
    fn biases_and_layer_norms_do_not_decay() -> Result<()> {
        for config in [BERT.to_owned(), BERT.replace("bert", "roberta"), DISTILBERT.to_owned()] {
            for declared in declared(&config)? {
                let plain = declared.parts.iter().any(|name| {
                    name.ends_with("bias") || name.contains("LayerNorm") || name.contains("layer_norm")
                });
                assert_eq!(declared.decays, !plain, "{:?}", declared.parts);
            }
        }
        Ok(())
    }

    #[test]
    fn query_key_and_value_are_three_parts_of_one_parameter() -> Result<()> {
        let list = declared(DISTILBERT)?;
        let qkv = list.iter().find(|declared| declared.parts.len() == 3).expect("one");
        assert_eq!(qkv.parts[1], "distilbert.transformer.layer.0.attention.k_lin.weight");
        assert_eq!((qkv.shape.as_slice(), qkv.part_shape().as_slice()), (&[24, 8][..], &[8, 8][..]));
        Ok(())
    }
}
