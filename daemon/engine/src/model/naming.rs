//! What a file of weights calls the tensors of an encoder.
//!
//! `transformers` puts a prefix before the names of a bare encoder (`bert.`), and what the encoder was wrapped in when it
//! was saved puts its own before that (`0.auto_model.`, `module.`, `_orig_mod.`, `model.`). So the prefix is found, not
//! known: the one under which the file has the encoder's names.

use super::architecture::Architecture;
use super::declaration::{Declaration, Declared, Place};
use super::families::{self, Family};
use super::parameters::in_words;
use super::weights_file::{Contents, Stored, shown};
use hone_base::error::{Error, Result};

/// The tensor that every encoder has, by which a prefix is found.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// Prefixes of encoders that share names with those of Hone but are other networks.
const OTHERS: [&str; 8] =
    ["deberta", "esm", "ibert", "longformer", "mpnet", "nezha", "roberta_prelayernorm", "roformer"];

/// What a file calls the tensors of an encoder of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    family: &'static Family,
    /// Before the names of the bare encoder.
    prefix: String,
}

impl Naming {
    /// Finds the prefix; fails when the file has no encoder of the family, or several.
    pub(super) fn find(architecture: &Architecture, contents: &Contents) -> Result<Self> {
        let family = architecture.family;
        let within = |error: Error| error.within(contents.place().display());
        let declared = encoder(architecture);
        let mut found: Vec<(usize, Self)> = contents
            .names()
            .filter_map(|name| name.strip_suffix(WORDS))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .map(|prefix| Self { family, prefix: prefix.to_owned() })
            .map(|naming| (naming.count(&declared, contents), naming))
            .collect();
        let Some(most) = found.iter().map(|(count, _)| *count).max() else {
            return Err(within(absent(&format!("{}{WORDS}", family.prefix()), contents)));
        };
        found.retain(|(count, _)| *count == most);
        // The usual names win; several of the unusual ones are several encoders.
        let usual = |naming: &Self| naming.prefix.is_empty() || naming.prefix == family.prefix();
        let naming = match (found.iter().find(|(_, naming)| usual(naming)), found.as_slice()) {
            (Some((_, naming)), _) | (None, [(_, naming)]) => naming.clone(),
            (None, several) => {
                let prefixes: Vec<&str> = several.iter().map(|(_, naming)| naming.prefix.as_str()).collect();
                return Err(within(Error::precondition(format!(
                    "the weights hold several encoders, under {}; save the one to train alone, by save_pretrained",
                    shown(&prefixes)
                ))));
            }
        };
        naming.check_family().map_err(within)?;
        Ok(naming)
    }

    /// A tensor by the name that `transformers` gives it in a classifier.
    pub(super) fn get<'a>(&self, name: &str, contents: &'a Contents) -> Option<(String, &'a Stored)> {
        let stored = self.name_of(name);
        let old = old_name(&stored);
        [Some(stored), old].into_iter().flatten().find_map(|name| Some((name.clone(), contents.get(&name)?)))
    }

    /// Fails unless every tensor of the encoder is there, in the right shape.
    pub(super) fn check(&self, architecture: &Architecture, contents: &Contents) -> Result<()> {
        for declared in encoder(architecture) {
            let expected = declared.part_shape();
            for name in &declared.parts {
                let Some((stored_name, stored)) = self.get(name, contents) else {
                    return Err(self
                        .lacking(name, architecture, contents)
                        .within(contents.place().display()));
                };
                let file = contents.file_of(stored).display();
                if stored.shape != expected {
                    let size = size_of(name, architecture);
                    return Err(Error::precondition(format!(
                        "{file}: {stored_name} has the shape {}, but config.json asks for {}{size}",
                        in_words(&stored.shape),
                        in_words(&expected)
                    )));
                }
                stored.check_type().map_err(|error| error.within(format!("{file}: {stored_name}")))?;
            }
        }
        Ok(())
    }

    /// What the file calls a tensor. What stands beside the encoder in a classifier stands beside it in a wrapped one.
    fn name_of(&self, name: &str) -> String {
        match name.strip_prefix(self.family.prefix()) {
            Some(bare) => format!("{}{bare}", self.prefix),
            None => {
                let wrapper = self.prefix.strip_suffix(self.family.prefix()).unwrap_or(&self.prefix);
                format!("{wrapper}{name}")
            }
        }
    }

    fn count(&self, declared: &[Declared], contents: &Contents) -> usize {
        let parts = declared.iter().flat_map(|declared| &declared.parts);
        parts.filter(|name| self.get(name, contents).is_some()).count()
    }

    /// Networks that name their tensors alike are told apart by their prefix.
    fn check_family(&self) -> Result<()> {
        let last = self.prefix.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let mut others = families::ALL.iter().filter(|&&family| family != self.family).map(|f| f.prefix());
        if OTHERS.contains(&last) || others.any(|prefix| prefix.trim_end_matches('.') == last) {
            return Err(Error::precondition(format!(
                "the weights are those of another kind of model ({}embeddings…) than model_type in config.json says",
                self.prefix
            )));
        }
        Ok(())
    }

    /// A tensor of the encoder is missing: what the file has instead.
    fn lacking(&self, name: &str, architecture: &Architecture, contents: &Contents) -> Error {
        let name = self.name_of(name);
        if let Some(adapted) = contents.names().find(|name| name.contains(".lora_")) {
            return Error::precondition(format!(
                "the weights have no {name}, but an adapter that was not merged ({adapted}); merge it in Python by \
                 merge_and_unload() and save_pretrained()"
            ));
        }
        let layers = |layer: usize| {
            let mut parts = encoder(architecture).into_iter().filter(|of| of.place == Place::Layer(layer));
            parts.any(|of| of.parts.iter().any(|name| self.get(name, contents).is_some()))
        };
        let there = (0..architecture.own_layers()).take_while(|&layer| layers(layer)).count();
        // Of layers that share parameters the file does not tell how many there are.
        if there > 0
            && there < architecture.own_layers()
            && architecture.own_layers() == architecture.layers.len()
        {
            return Error::precondition(format!(
                "the weights have no {name}: they have {there} layers, but config.json says {} ({})",
                architecture.num_hidden_layers,
                architecture.family.field("num_hidden_layers")
            ));
        }
        absent(&name, contents)
    }
}

/// What the encoder alone has.
fn encoder(architecture: &Architecture) -> Vec<Declared> {
    let mut declared = Declaration::new(architecture, 2).parameters;
    declared.retain(|declared| declared.place != Place::Head);
    declared
}

/// A name of 2018, when layer norms had a gamma and a beta.
fn old_name(name: &str) -> Option<String> {
    name.contains("LayerNorm").then(|| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    })
}

fn absent(name: &str, contents: &Contents) -> Error {
    let mut names: Vec<&str> = contents.names().collect();
    if names.is_empty() {
        return Error::precondition(format!("the weights have no {name}, they have no tensor at all"));
    }
    names.sort_by_key(|other| std::cmp::Reverse(likeness(name, other)));
    Error::precondition(format!("the weights have no {name}; they have {}", shown(&names)))
}

/// How many parts of two names are the same, from their ends and from their beginnings.
fn likeness(a: &str, b: &str) -> usize {
    let same = |(a, b): &(&str, &str)| a == b;
    a.rsplit('.').zip(b.rsplit('.')).take_while(same).count()
        + a.split('.').zip(b.split('.')).take_while(same).count()
}

/// Which number of `config.json` a table's rows are.
fn size_of(name: &str, architecture: &Architecture) -> String {
    let sizes = [
        ("word_embeddings", "vocab_size", architecture.vocab_size),
        ("position_embeddings", "max_position_embeddings", architecture.max_position_embeddings),
        ("token_type_embeddings", "type_vocab_size", architecture.type_vocab_size),
    ];
    let found = sizes.into_iter().find(|(table, ..)| name.contains(table));
    found.map_or(String::new(), |(_, field, size)| format!(" ({field} {size})"))
}
