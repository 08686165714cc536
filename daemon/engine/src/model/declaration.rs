//! The parameters that a classifier has, before they have values: names, shapes, and the handles under which a backend
//! finds them.

use super::architecture::{Architecture, FeedForward, HeadForm, LayerForm};

/// A classifier whose parameters have no values yet: what a backend is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// How the encoder and its head are put together.
    pub architecture: Architecture,
    /// Columns of the logits.
    pub labels: usize,
    /// Every parameter once, in the order of the forward pass: the tables (token embeddings, positions, token types),
    /// their norm and projection; of each set of a layer's parameters query-key-value, attention output, norm,
    /// intermediate, output, norm; the two layers of the head. A weight is followed by its bias.
    pub parameters: Vec<Declared>,
    /// Below the layers.
    pub embeddings: Embeddings,
    /// In the order of the forward pass; several may have the same parameters.
    pub layers: Vec<Layer>,
    /// Above the layers.
    pub head: Head,
}

/// A parameter of a [`Declaration`], which alone gives these handles out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId(usize);

/// A linear layer, `y = x W^T + b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// `[outputs, inputs]`
    pub weight: ParameterId,
    /// `[outputs]`
    pub bias: Option<ParameterId>,
}

/// A layer norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norm {
    /// `[H]`
    pub weight: ParameterId,
    /// `[H]`
    pub bias: Option<ParameterId>,
}

/// The tables, their norm, and what leads from there to the first layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embeddings {
    /// `[vocab_size, E]`
    pub tokens: ParameterId,
    /// `[max_position_embeddings, E]`
    pub positions: Option<ParameterId>,
    /// `[type_vocab_size, E]`
    pub token_types: Option<ParameterId>,
    /// `[E]`
    pub norm: Norm,
    /// `[H, E]`
    pub projection: Option<Linear>,
}

/// A layer of the encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// How it is put together.
    pub form: LayerForm,
    /// Query, key and value together, so that they are one matrix product: `[3 H, H]`.
    pub qkv: Linear,
    /// `[H, H]`
    pub attention_output: Linear,
    /// `[H]`
    pub attention_norm: Norm,
    /// `[I, H]`, or `[2 I, H]` where it is gated.
    pub intermediate: Linear,
    /// `[H, I]`
    pub output: Linear,
    /// `[H]`
    pub output_norm: Norm,
}

/// The classification head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// How it is put together.
    pub form: HeadForm,
    /// `[H, H]`
    pub dense: Linear,
    /// The layer that gives the logits: `[labels, H]`.
    pub output: Linear,
}

/// The names and the shape of a parameter before it has a value.
///
/// Query, key and value of a layer are one parameter here, so that they are one matrix product, and three in a
/// checkpoint: `parts` are their names there, along the first dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Under which a backend finds it.
    pub id: ParameterId,
    /// Names in a checkpoint, as `transformers` has them.
    pub parts: Vec<String>,
    /// The shape of all parts together.
    pub shape: Vec<usize>,
    /// Where in the model it stands.
    pub place: Place,
    /// What it does there.
    pub role: Role,
}

/// Where in the model a parameter stands, in the order of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The tables, their layer norm and projection.
    Embeddings,
    /// A set of a layer's parameters, from 0.
    Layer(usize),
    /// What follows the encoder, which a checkpoint may lack.
    Head,
}

/// What a parameter does, which decides how a new one starts and whether weight decay applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A table or a matrix.
    Weight,
    /// What is added.
    Bias,
    /// What a layer norm multiplies by.
    Scale,
}

impl ParameterId {
    /// Its place in the order of the forward pass, from 0.
    pub fn index(self) -> usize {
        self.0
    }
}

impl Declaration {
    /// A classifier with this encoder and so many labels.
    pub fn new(architecture: &Architecture, labels: usize) -> Self {
        let mut list = List { prefix: architecture.family.prefix(), declared: Vec::new() };
        let embeddings = embeddings(architecture, &mut list);
        // Layers of one set have one form of parameters.
        let sets: Vec<Option<Layer>> = (0..architecture.layer_names.len())
            .map(|set| {
                let form = architecture.layers.iter().find(|form| form.parameters == set)?;
                Some(layer(architecture, *form, &mut list))
            })
            .collect();
        let layers = architecture.layers.iter().filter_map(|form| {
            let set = (*sets.get(form.parameters)?)?;
            Some(Layer { form: *form, ..set })
        });
        let layers = layers.collect();
        let head = head(architecture, labels, &mut list);
        let parameters = list.declared;
        Self { architecture: architecture.clone(), labels, parameters, embeddings, layers, head }
    }

    /// A parameter.
    pub fn get(&self, id: ParameterId) -> &Declared {
        &self.parameters[id.0]
    }

    /// The weights that nothing but a matrix product reads: all but the tables.
    pub fn products(&self) -> Vec<ParameterId> {
        let layers = self
            .layers
            .iter()
            .flat_map(|layer| [layer.qkv, layer.attention_output, layer.intermediate, layer.output]);
        let linear = self.embeddings.projection.into_iter().chain(layers);
        linear.chain([self.head.dense, self.head.output]).map(|linear| linear.weight).collect()
    }

    /// How many numbers the parameters have that `of` tells.
    pub fn count(&self, of: impl Fn(&Declared) -> bool) -> u64 {
        let sizes = self.parameters.iter().filter(|declared| of(declared));
        sizes.map(|declared| declared.shape.iter().map(|&side| side as u64).product::<u64>()).sum()
    }

    /// Whether, in the backward pass through a layer of the forward pass, a parameter in it or below it still waits for its
    /// gradient: the first is whether one in the layer does, the second whether one below does.
    pub fn learns(&self, layer: usize, is_trainable: impl Fn(ParameterId) -> bool) -> (bool, bool) {
        let learns = |layer: &Layer| is_trainable(layer.qkv.weight);
        let (below, rest) = self.layers.split_at(layer.min(self.layers.len()));
        let here = rest.first().is_some_and(learns);
        (here, is_trainable(self.embeddings.tokens) || below.iter().any(learns))
    }
}

fn embeddings(architecture: &Architecture, list: &mut List) -> Embeddings {
    let (names, place) = (architecture.family.names(), Place::Embeddings);
    let width = architecture.embedding_size;
    let mut table = |name: &str, rows: usize| {
        let name = [list.behind_prefix(name)];
        list.add(&name, "weight", vec![rows, width], place, Role::Weight)
    };
    let tokens = table(names.token_embeddings, architecture.vocab_size);
    let positions = architecture
        .first_position
        .map(|_| table(names.position_embeddings, architecture.max_position_embeddings));
    let token_types = (architecture.type_vocab_size > 0)
        .then(|| table(names.token_type_embeddings, architecture.type_vocab_size));
    let norm = list.norm(list.behind_prefix(names.embeddings_norm), width, place);
    let projection = architecture.has_projection.then(|| {
        let name = [list.behind_prefix(names.projection)];
        list.linear(&name, [architecture.hidden_size, width], true, place)
    });
    Embeddings { tokens, positions, token_types, norm, projection }
}

fn layer(architecture: &Architecture, form: LayerForm, list: &mut List) -> Layer {
    let (hidden, inner) = (architecture.hidden_size, architecture.intermediate_size);
    let names = architecture.family.names();
    let (place, has_biases) = (Place::Layer(form.parameters), form.has_biases);
    let layer = list.behind_prefix(&architecture.layer_names[form.parameters]);
    let at = |name: &str| format!("{layer}.{name}");
    let first = match form.feed_forward {
        FeedForward::Plain(_) => inner,
        FeedForward::Gated(_) => 2 * inner,
    };
    Layer {
        form,
        qkv: list.linear(&names.qkv.map(at), [3 * hidden, hidden], has_biases, place),
        attention_output: list.linear(&[at(names.attention_output)], [hidden, hidden], has_biases, place),
        attention_norm: list.norm(at(names.attention_norm), hidden, place),
        intermediate: list.linear(&[at(names.intermediate)], [first, hidden], has_biases, place),
        output: list.linear(&[at(names.output)], [hidden, inner], has_biases, place),
        output_norm: list.norm(at(names.output_norm), hidden, place),
    }
}

fn head(architecture: &Architecture, labels: usize, list: &mut List) -> Head {
    let (names, hidden) = (architecture.family.names(), architecture.hidden_size);
    Head {
        form: architecture.head,
        dense: list.linear(&[names.dense.into()], [hidden, hidden], true, Place::Head),
        output: list.linear(&[names.classifier.into()], [labels, hidden], true, Place::Head),
    }
}

impl Declared {
    /// The shape of each part.
    pub fn part_shape(&self) -> Vec<usize> {
        part_shape(&self.shape, self.parts.len())
    }

    /// Whether weight decay applies: not to biases and layer-norm parameters.
    pub fn decays(&self) -> bool {
        self.role == Role::Weight
    }
}

/// The shape of one of several parts along the first dimension.
pub(super) fn part_shape(shape: &[usize], parts: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(first) = shape.first_mut() {
        *first /= parts;
    }
    shape
}

/// What is declared so far.
struct List {
    prefix: &'static str,
    declared: Vec<Declared>,
}

impl List {
    fn behind_prefix(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn add(
        &mut self,
        names: &[String],
        suffix: &str,
        shape: Vec<usize>,
        place: Place,
        role: Role,
    ) -> ParameterId {
        let id = ParameterId(self.declared.len());
        let parts = names.iter().map(|name| format!("{name}.{suffix}")).collect();
        self.declared.push(Declared { id, parts, shape, place, role });
        id
    }

    fn linear(
        &mut self,
        names: &[String],
        [outputs, inputs]: [usize; 2],
        has_bias: bool,
        place: Place,
    ) -> Linear {
        let weight = self.add(names, "weight", vec![outputs, inputs], place, Role::Weight);
        let bias = has_bias.then(|| self.add(names, "bias", vec![outputs], place, Role::Bias));
        Linear { weight, bias }
    }

    fn norm(&mut self, name: String, size: usize, place: Place) -> Norm {
        let name = [name];
        let weight = self.add(&name, "weight", vec![size], place, Role::Scale);
        let bias = self.add(&name, "bias", vec![size], place, Role::Bias);
        Norm { weight, bias: Some(bias) }
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
    const ALBERT: &str = r#"{"model_type":"albert","vocab_size":9,"embedding_size":4,"hidden_size":8,
        "num_hidden_layers":4,"num_hidden_groups":2,"num_attention_heads":2,"intermediate_size":16,
        "max_position_embeddings":32}"#;

    fn declared(config: &str) -> Result<Declaration> {
        Ok(Declaration::new(&Config::parse(config)?.architecture, 3))
    }

    fn every_family() -> Vec<String> {
        vec![
            BERT.to_owned(),
            BERT.replace("bert", "roberta"),
            BERT.replace("bert", "electra"),
            DISTILBERT.to_owned(),
            ALBERT.to_owned(),
        ]
    }

    #[test]
    fn the_older_families_differ_in_names_and_in_the_token_types_alone() -> Result<()> {
        let form = |list: &[Declared]| -> Vec<_> {
            list.iter().map(|declared| (declared.shape.clone(), declared.place, declared.role)).collect()
        };
        let bert = declared(BERT)?.parameters;
        let roberta = declared(&BERT.replace("bert", "roberta"))?.parameters;
        assert_eq!(form(&bert), form(&roberta));
        assert!(bert[2].parts[0].contains("token_type"));
        let without_types: Vec<_> = [&bert[..2], &bert[3..]].concat();
        assert_eq!(form(&without_types), form(&declared(DISTILBERT)?.parameters));
        Ok(())
    }

    #[test]
    fn the_order_is_that_of_the_forward_pass() -> Result<()> {
        for config in every_family() {
            let list = declared(&config)?.parameters;
            let places: Vec<Place> = list.iter().map(|declared| declared.place).collect();
            assert!(places.is_sorted() && places.last() == Some(&Place::Head));
            assert_eq!(places.iter().filter(|&&place| place == Place::Layer(1)).count(), 12);
            assert!(list.iter().enumerate().all(|(index, declared)| declared.id.index() == index));
        }
        Ok(())
    }

    #[test]
    fn biases_and_layer_norms_do_not_decay() -> Result<()> {
        for config in every_family() {
            for declared in declared(&config)?.parameters {
                let plain = declared.parts.iter().any(|name| {
                    name.ends_with("bias") || name.contains("LayerNorm") || name.contains("layer_norm")
                });
                assert_eq!(declared.decays(), !plain, "{:?}", declared.parts);
            }
        }
        Ok(())
    }

    #[test]
    fn query_key_and_value_are_three_parts_of_one_parameter() -> Result<()> {
        let declaration = declared(DISTILBERT)?;
        let qkv = declaration.get(declaration.layers[0].qkv.weight);
        assert_eq!(qkv.parts[1], "distilbert.transformer.layer.0.attention.k_lin.weight");
        assert_eq!((qkv.shape.as_slice(), qkv.part_shape().as_slice()), (&[24, 8][..], &[8, 8][..]));
        Ok(())
    }

    #[test]
    fn layers_of_a_group_have_the_same_parameters_and_its_first_layer_is_behind_the_projection() -> Result<()>
    {
        let declaration = declared(ALBERT)?;
        let weights: Vec<ParameterId> = declaration.layers.iter().map(|layer| layer.qkv.weight).collect();
        assert!(weights[0] == weights[1] && weights[2] == weights[3] && weights[1] != weights[2]);
        assert_eq!(
            declaration.get(weights[2]).parts[0],
            "albert.encoder.albert_layer_groups.1.albert_layers.0.attention.query.weight"
        );
        let projection = declaration.embeddings.projection.expect("a projection");
        assert_eq!(declaration.get(projection.weight).shape, [8, 4]);
        assert_eq!(declaration.get(declaration.embeddings.norm.weight).shape, [4]);
        // Whoever stands below a layer of the second group has the parameters of the first.
        let second = |id| id == weights[3];
        assert_eq!(declaration.learns(2, second), (true, false));
        assert_eq!(declaration.learns(3, second), (true, true));
        assert_eq!(declaration.learns(1, second), (false, false));
        Ok(())
    }

    #[test]
    fn what_has_no_biases_declares_none() -> Result<()> {
        let mut architecture = Config::parse(BERT)?.architecture;
        architecture.layers.iter_mut().for_each(|form| form.has_biases = false);
        let declaration = Declaration::new(&architecture, 3);
        assert_eq!(declaration.layers[1].output.bias, None);
        assert_eq!(
            declaration.parameters.len(),
            Declaration::new(&Config::parse(BERT)?.architecture, 3).parameters.len() - 8
        );
        Ok(())
    }
}
