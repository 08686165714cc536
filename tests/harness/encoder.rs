//! A tiny encoder made on the spot: random weights, and the words of the demonstration texts; the same in every
//! run.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use hone_base::random::{Purpose, Stream};
use hone_engine::model::config::Config;
use hone_engine::model::declaration::{Declaration, Place};
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, TokenizerBuilder};

/// Positions of the tiny encoder.
pub(crate) const POSITIONS: usize = 128;

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The folder of the tiny encoder, made once for all tests and left in the build folder.
pub(crate) fn tiny_encoder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder").keep();
        make(&folder);
        folder
    })
}

/// Makes the tiny encoder in a folder.
pub(crate) fn make(folder: &Path) {
    let vocabulary = write_tokenizer(folder);
    let config = serde_json::json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    });
    write_model(folder, &config);
}

/// Makes an encoder in a folder that has the family and the tokenizer of a fixture, but the size, the dropout and the
/// kind of weights of the tiny encoder, which learn more readily.
pub(crate) fn make_like(fixture: &Path, folder: &Path) {
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture.join(name), folder.join(name)).expect("a copy");
    }
    let text = std::fs::read_to_string(fixture.join("config.json")).expect("config.json");
    let mut config: serde_json::Map<_, _> = serde_json::from_str(&text).expect("json");
    config.retain(|name, _| !name.contains("dropout") && !name.contains("label"));
    for (names, size) in [
        (["hidden_size", "dim"], 32),
        (["num_attention_heads", "n_heads"], 4),
        (["intermediate_size", "hidden_dim"], 64),
    ] {
        let name = names.into_iter().find(|&name| config.contains_key(name)).expect("a size");
        config.insert(name.to_owned(), size.into());
    }
    write_model(folder, &config.into());
}

/// Writes `config.json` and the random weights of a bare encoder.
fn write_model(folder: &Path, config: &serde_json::Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).expect("config.json");
    let architecture = Config::parse(&config.to_string()).expect("a configuration").architecture;
    let mut tensors = HashMap::new();
    for (site, declared) in Declaration::new(&architecture, 2).parameters.into_iter().enumerate() {
        let shape = declared.part_shape();
        for (part, name) in declared.parts.iter().enumerate().filter(|_| declared.place != Place::Head) {
            let stream = Stream::new(11, Purpose::Initialisation, part as u64, site as u32);
            let value = |index: u64| match declared.decays() {
                true => (0.1 * stream.normal(index)) as f32,
                false => f32::from(u8::from(name.ends_with("weight"))),
            };
            let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(value).collect();
            let tensor = Tensor::from_vec(values, shape.clone(), &Device::Cpu).expect("a tensor");
            let (_, bare) = name.split_once('.').expect("a prefix");
            tensors.insert(bare.to_owned(), tensor);
        }
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).expect("model.safetensors");
}

/// Words of the demonstration texts that the vocabulary has whole; the others are spelled.
const WORDS: usize = 1500;

fn write_tokenizer(folder: &Path) -> usize {
    let vocabulary = WordPiece::read_bytes(vocabulary().as_bytes()).expect("a vocabulary");
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(
            WordPiece::builder().vocab(vocabulary).unk_token("[UNK]".into()).build().expect("a model"),
        )
        .with_normalizer(Some(BertNormalizer::default()))
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(BertProcessing::new(("[SEP]".into(), 3), ("[CLS]".into(), 2))))
        .with_decoder(Some(WordPieceDecoder::default()))
        .build()
        .expect("a tokenizer");
    tokenizer.add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true))).expect("special tokens");
    tokenizer.save(folder.join("tokenizer.json"), false).expect("tokenizer.json");
    tokenizer.get_vocab_size(true)
}

/// One token a line: special tokens, characters, and the most frequent words. Unlike what a trainer of tokenizers makes
/// of the texts, it is the same in every run.
fn vocabulary() -> String {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/reviews/train.csv");
    let text = std::fs::read_to_string(demo).expect("the demonstration texts").to_lowercase();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 1) {
        *counts.entry(word).or_default() += 1;
    }
    let mut words: Vec<&str> = counts.keys().copied().collect();
    words.sort_by_key(|word| std::cmp::Reverse(counts[word]));
    let characters = (' '..='~').filter(|c| !c.is_ascii_uppercase() && *c != ' ');
    let characters = characters.flat_map(|c| [c.to_string(), format!("##{c}")]);
    let words = words.into_iter().take(WORDS).map(str::to_owned);
    let tokens: Vec<String> = SPECIAL.map(str::to_owned).into_iter().chain(characters).chain(words).collect();
    tokens.join("\n")
}
