//! Tokenizers of folders without `tokenizer.json`: what `transformers` makes of a vocabulary alone.

use serde_json::{Map, Value, json};
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use hone_base::error::quoted;

/// Special tokens by their role in `tokenizer_config.json`.
type Roles = [(&'static str, &'static str); 5];

/// Those of BERT.
pub(super) const BERT_TOKENS: Roles = [
    ("pad_token", "[PAD]"),
    ("unk_token", "[UNK]"),
    ("cls_token", "[CLS]"),
    ("sep_token", "[SEP]"),
    ("mask_token", "[MASK]"),
];

/// Those of RoBERTa.
pub(super) const ROBERTA_TOKENS: Roles = [
    ("pad_token", "<pad>"),
    ("unk_token", "<unk>"),
    ("cls_token", "<s>"),
    ("sep_token", "</s>"),
    ("mask_token", "<mask>"),
];

/// Classes of `transformers` that split words with `vocab.txt` as BERT does.
const WORD_PIECES: [&str; 6] = [
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "RetriBertTokenizer",
    "PreTrainedTokenizer",
    "TokenizersBackend",
];

/// Those that merge bytes with `vocab.json` and `merges.txt` as RoBERTa does.
const BYTE_PAIRS: [&str; 4] =
    ["RobertaTokenizer", "LongformerTokenizer", "PreTrainedTokenizer", "TokenizersBackend"];

/// The character that stands for a space in vocabularies of bytes.
const SPACE: char = 'Ġ';

/// What the files beside a vocabulary say.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// `tokenizer_config.json`.
    pub(super) config: Map<String, Value>,
    /// `special_tokens_map.json`.
    pub(super) special: Map<String, Value>,
    /// `added_tokens.json`.
    pub(super) added: Map<String, Value>,
}

/// The tokenizer of BERT from its word pieces, one a line.
pub(super) fn word_pieces(vocab: &str, settings: &Settings) -> tokenizers::Result<Tokenizer> {
    settings.check_class(&WORD_PIECES, "vocab.txt")?;
    let vocab = WordPiece::read_bytes(vocab.as_bytes())?;
    let [_, unknown, class, separator, _] = settings.tokens(BERT_TOKENS).map(|token| token.content);
    let id = |token: &str| vocab.get(token).copied().ok_or_else(|| format!("the token {token} is missing"));
    id(&unknown)?;
    let processor = BertProcessing::new((separator.clone(), id(&separator)?), (class.clone(), id(&class)?));
    let flag = |name: &str| settings.config.get(name).and_then(Value::as_bool);
    let normalizer = BertNormalizer::new(
        true,
        flag("tokenize_chinese_chars").unwrap_or(true),
        flag("strip_accents"),
        flag("do_lower_case").unwrap_or(true),
    );
    let mut tokenizer = Tokenizer::new(WordPiece::builder().vocab(vocab).unk_token(unknown).build()?);
    tokenizer.with_normalizer(Some(normalizer))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(processor));
    tokenizer.with_decoder(Some(WordPieceDecoder::default()));
    settings.add_to(&mut tokenizer, BERT_TOKENS)?;
    Ok(tokenizer)
}

/// The tokenizer of RoBERTa from its tokens and the pairs that they are merged from, one a line.
pub(super) fn byte_pairs(vocab: &str, merges: &str, settings: &Settings) -> tokenizers::Result<Tokenizer> {
    settings.check_class(&BYTE_PAIRS, "vocab.json and merges.txt")?;
    let vocab: Map<String, Value> = serde_json::from_str(vocab)?;
    if !vocab.keys().any(|token| token.contains(SPACE)) {
        return Err("its tokens are not made of bytes, as those of RoBERTa are".into());
    }
    let [_, _, class, separator, _] = settings.tokens(ROBERTA_TOKENS).map(|token| token.content);
    let id = |token: &str| vocab.get(token).ok_or_else(|| format!("the token {token} is missing"));
    let (class, separator) = (json!([class, id(&class)?]), json!([separator, id(&separator)?]));
    let pairs = merges
        .lines()
        .enumerate()
        .filter(|(line, text)| !(text.is_empty() || *line == 0 && text.starts_with("#version")));
    let pair = |(line, text): (usize, &str)| match text.trim_end_matches('\r').split_once(' ') {
        Some((first, second)) if !second.contains(' ') => Ok(json!([first, second])),
        _ => Err(format!("line {} of merges.txt is not two tokens", line + 1)),
    };
    let pairs: Vec<Value> = pairs.map(pair).collect::<Result<_, _>>()?;
    let prefix = settings.config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let bytes = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    let mut tokenizer: Tokenizer = serde_json::from_value(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": bytes(prefix),
        "post_processor": {"type": "RobertaProcessing", "sep": separator, "cls": class, "trim_offsets": true,
            "add_prefix_space": prefix},
        "decoder": bytes(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": pairs},
    }))?;
    settings.add_to(&mut tokenizer, ROBERTA_TOKENS)?;
    Ok(tokenizer)
}

impl Settings {
    /// Fails when the folder names a class that makes other tokens of the same files.
    fn check_class(&self, known: &[&str], files: &str) -> Result<(), String> {
        let class = self.config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let slow = class.strip_suffix("Fast").unwrap_or(class);
        if slow.is_empty() || known.contains(&slow) {
            return Ok(());
        }
        Err(format!(
            "tokenizer_config.json names the class {class}, which makes other tokens of {files} than Hone would; save it as \
             tokenizer.json, if transformers has a fast tokenizer for it (AutoTokenizer.from_pretrained, save_pretrained)"
        ))
    }

    /// Special tokens by their roles.
    fn tokens(&self, roles: Roles) -> [AddedToken; 5] {
        roles.map(|(role, usual)| {
            let given = [&self.config, &self.special]
                .into_iter()
                .find_map(|map| map.get(role).filter(|t| !t.is_null()));
            let content = given.map(|token| token.get("content").unwrap_or(token)).and_then(Value::as_str);
            let token = AddedToken::from(content.unwrap_or(usual), true);
            let said = given.cloned().unwrap_or_default();
            // RoBERTa's mask takes the space before it, unless the folder says otherwise.
            let token = token.lstrip(usual == "<mask>" && content.is_none_or(|content| content == usual));
            with_flags(token, &said)
        })
    }

    /// Adds the special tokens that the vocabulary has, and the tokens that were added to it, with their ids.
    fn add_to(&self, tokenizer: &mut Tokenizer, roles: Roles) -> tokenizers::Result<()> {
        let mut added = self.added_tokens()?;
        let mut special = self.tokens(roles).to_vec();
        for token in &mut special {
            // What is said of each token by its id comes before what is said by its role.
            if let Some((_, detailed)) = added.iter().find(|(_, other)| other.content == token.content) {
                *token = detailed.clone().special(true);
            }
        }
        special.retain(|token| tokenizer.token_to_id(&token.content).is_some());
        added.retain(|(_, token)| !special.iter().any(|other| other.content == token.content));
        tokenizer.add_special_tokens(special)?;
        for (id, token) in added {
            let content = token.content.clone();
            match token.special {
                true => tokenizer.add_special_tokens([token])?,
                false => tokenizer.add_tokens([token])?,
            };
            if tokenizer.token_to_id(&content) != Some(id) {
                return Err(format!(
                    "the added token {} shall have the number {id}, but the vocabulary leads to {}",
                    quoted(&content),
                    tokenizer.token_to_id(&content).unwrap_or_default()
                )
                .into());
            }
        }
        Ok(())
    }

    /// The tokens beside the vocabulary, by their numbers: newer folders describe them in `tokenizer_config.json`.
    fn added_tokens(&self) -> Result<Vec<(u32, AddedToken)>, String> {
        let detailed = self.config.get("added_tokens_decoder").and_then(Value::as_object);
        let mut tokens: Vec<(u32, AddedToken)> = match detailed {
            Some(detailed) => {
                let token = |(id, said): (&String, &Value)| {
                    let content = said.get("content").and_then(Value::as_str);
                    let special = said.get("special").and_then(Value::as_bool).unwrap_or(false);
                    let token = with_flags(AddedToken::from(content.unwrap_or_default(), special), said);
                    (id.parse().ok()).zip(content.map(|_| token)).ok_or_else(|| {
                        format!(
                            "added_tokens_decoder of tokenizer_config.json cannot be read at {}",
                            quoted(id)
                        )
                    })
                };
                detailed.iter().map(token).collect::<Result<_, _>>()?
            }
            None => {
                let token = |(content, id): (&String, &Value)| {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id =
                        id.ok_or_else(|| format!("added_tokens.json has no number for {}", quoted(content)))?;
                    Ok::<_, String>((id, AddedToken::from(content.as_str(), false)))
                };
                self.added.iter().map(token).collect::<Result<_, _>>()?
            }
        };
        tokens.sort_by_key(|(id, _)| *id);
        Ok(tokens)
    }
}

/// The token with the flags that an object gives it.
fn with_flags(token: AddedToken, said: &Value) -> AddedToken {
    let flag = |name: &str, else_: bool| said.get(name).and_then(Value::as_bool).unwrap_or(else_);
    let AddedToken { single_word, lstrip, rstrip, normalized, .. } = token;
    token
        .single_word(flag("single_word", single_word))
        .lstrip(flag("lstrip", lstrip))
        .rstrip(flag("rstrip", rstrip))
        .normalized(flag("normalized", normalized))
}
