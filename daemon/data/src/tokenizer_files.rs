//! The files that a tokenizer lives in, as the Python library reads and writes them.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{NormalizedString, Normalizer as _, Tokenizer};

use super::truncation::Truncation;
use super::vocabulary::{BERT_TOKENS, ROBERTA_TOKENS, Settings, byte_pairs, word_pieces};
use hone_base::error::{Error, Result};
use hone_base::model_file::read_text;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const MODEL: &str = "config.json";
const VOCAB: &str = "vocab.txt";
const TOKENS: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
const COPIED: [&str; 2] = [SPECIAL, VOCAB];

/// The side that is cut, as `tokenizer_config.json` names it.
const SIDE: &str = "truncation_side";

/// A way to cut that the Python library does not have; our key beside `truncation_side`, which it passes over.
const OWN_WAY: &str = "hone_truncation";
const HEAD_TAIL: &str = "head_tail";

/// Tokens with capitals among a hundred from which on they are more than an oversight.
const MANY_CAPITALS: usize = 1;

/// Reads the tokenizer of a folder, without truncation and padding.
pub(super) fn read(folder: &Path) -> Result<Tokenizer> {
    let read = |name: &str| read_text(&folder.join(name));
    if let Some(text) = read(TOKENIZER)? {
        return parse(&text).map_err(|error| unusable(&folder.join(TOKENIZER), &error));
    }
    if let Some(vocab) = read(VOCAB)? {
        let built = word_pieces(&vocab, &settings(folder)?);
        return built.map_err(|error| unusable(&folder.join(VOCAB), &error));
    }
    if let (Some(tokens), Some(merges)) = (read(TOKENS)?, read(MERGES)?) {
        let built = byte_pairs(&tokens, &merges, &settings(folder)?);
        return built.map_err(|error| unusable(&folder.join(TOKENS), &error));
    }
    Err(Error::not_found(format!("{} has neither {TOKENIZER} nor {VOCAB}", folder.display())))
}

fn settings(folder: &Path) -> Result<Settings> {
    let read = |name: &str| Ok::<_, Error>(read_json(&folder.join(name))?.unwrap_or_default());
    Ok(Settings { config: read(CONFIG)?, special: read(SPECIAL)?, added: read(ADDED)? })
}

/// What is odd about a folder's tokenizer, and yet as the Python library has it.
pub(super) fn notices(folder: &Path, tokenizer: &Tokenizer) -> Vec<String> {
    unused_capitals(folder, tokenizer).into_iter().collect()
}

/// Texts become lower case, but the vocabulary has tokens with capitals.
fn unused_capitals(folder: &Path, tokenizer: &Tokenizer) -> Option<String> {
    let mut probe = NormalizedString::from("A");
    tokenizer.get_normalizer()?.normalize(&mut probe).ok()?;
    let lowers = !probe.get().contains('A') && probe.get().contains('a');
    if !lowers {
        return None;
    }
    let added = tokenizer.get_added_tokens_decoder();
    let is_added = |token: &str| added.values().any(|other| other.content == token);
    let is_reserved = |token: &str| token.starts_with(['[', '<']);
    let vocab = tokenizer.get_vocab(false);
    let mut capitals: Vec<&String> = vocab
        .keys()
        .filter(|token| {
            token.chars().any(|c| c.is_ascii_uppercase()) && !is_reserved(token) && !is_added(token)
        })
        .collect();
    if capitals.len() * 100 <= vocab.len() * MANY_CAPITALS {
        return None;
    }
    capitals.sort_by_key(|token| vocab.get(*token));
    let some: Vec<String> = capitals.iter().take(3).map(|token| format!("\"{token}\"")).collect();
    Some(format!(
        "{} of {} tokens of the vocabulary in {} have capitals ({}…) and are never used, because texts become lower case; \
         if the encoder knows capitals, write {{\"do_lower_case\": false}} into its {CONFIG}",
        capitals.len(),
        vocab.len(),
        folder.display(),
        some.join(", ")
    ))
}

/// How a folder's tokenizer cuts long texts: what `tokenizer_config.json` says comes before the direction in
/// `tokenizer.json`, as in the Python library; without either, the beginning is kept.
pub(super) fn truncation(folder: &Path) -> Result<Truncation> {
    let config = read_config(folder)?.unwrap_or_default();
    let named = |key: &str| config.get(key).and_then(Value::as_str);
    match (named(OWN_WAY), named(SIDE)) {
        (Some(HEAD_TAIL), _) => return Ok(Truncation::HeadTail),
        (Some(other), _) => {
            return Err(Error::precondition(format!(
                "{} has {OWN_WAY} \"{other}\", which this version of Hone does not know",
                folder.join(CONFIG).display()
            )));
        }
        (None, Some("left")) => return Ok(Truncation::Tail),
        (None, Some(_)) => return Ok(Truncation::Head),
        (None, None) => {}
    }
    let Some(text) = read_text(&folder.join(TOKENIZER))? else { return Ok(Truncation::Head) };
    let json: Value =
        serde_json::from_str(&text).map_err(|error| unusable(&folder.join(TOKENIZER), &error))?;
    let direction = json.pointer("/truncation/direction").and_then(Value::as_str);
    Ok(if direction == Some("Left") { Truncation::Tail } else { Truncation::Head })
}

/// Writes a checkpoint's files; `source` is the folder of the encoder it comes from.
pub(super) fn write(
    tokenizer: &str,
    max_length: usize,
    truncation: Truncation,
    source: &Path,
    target: &Path,
) -> Result<()> {
    let write = |name: &str, text: &str| {
        fs::write(target.join(name), text).map_err(|error| Error::io("write", &target.join(name), &error))
    };
    write(TOKENIZER, tokenizer)?;
    let mut config = match read_config(source)? {
        Some(config) => config,
        None => new_config(tokenizer, source)?,
    };
    config.insert("model_max_length".to_owned(), json!(max_length));
    // The Python library cuts one side only; of head and tail, the tail is the larger part.
    let side = if truncation == Truncation::Head { "right" } else { "left" };
    config.insert(SIDE.to_owned(), json!(side));
    config.remove(OWN_WAY);
    if truncation == Truncation::HeadTail {
        config.insert(OWN_WAY.to_owned(), json!(HEAD_TAIL));
    }
    let config =
        serde_json::to_string_pretty(&config).map_err(|error| unusable(&target.join(CONFIG), &error))?;
    write(CONFIG, &config)?;
    for name in COPIED {
        if let Some(text) = read_text(&source.join(name))? {
            write(name, &text)?;
        }
    }
    Ok(())
}

/// Parses `tokenizer.json`; its truncation and padding are dropped before anything looks at them.
fn parse(text: &str) -> Result<Tokenizer, serde_json::Error> {
    let mut json: Map<String, Value> = serde_json::from_str(text)?;
    json.insert("truncation".to_owned(), Value::Null);
    json.insert("padding".to_owned(), Value::Null);
    serde_json::from_value(Value::Object(json))
}

/// A `tokenizer_config.json` that makes the Python library take `tokenizer.json` as it is, in versions 4 and 5, and give
/// the model of `source` no token types unless it is BERT: the others have none, and some refuse them.
fn new_config(tokenizer: &str, source: &Path) -> Result<Map<String, Value>> {
    let tokenizer = parse(tokenizer).map_err(|error| unusable(Path::new(TOKENIZER), &error))?;
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    for family in [BERT_TOKENS, ROBERTA_TOKENS] {
        for (role, token) in family {
            if !config.contains_key(role) && tokenizer.token_to_id(token).is_some() {
                config.insert(role.to_owned(), json!(token));
            }
        }
    }
    let model = read_json(&source.join(MODEL))?.unwrap_or_default();
    if model.get("model_type").is_some_and(|kind| kind != "bert") {
        config.insert("model_input_names".to_owned(), json!(["input_ids", "attention_mask"]));
    }
    Ok(config)
}

fn read_config(folder: &Path) -> Result<Option<Map<String, Value>>> {
    read_json(&folder.join(CONFIG))
}

fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    let parsed = read_text(path)?.map(|text| serde_json::from_str(&text));
    parsed.transpose().map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::corrupt(format!("{} is no tokenizer that can be used: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::tokenize::Tokenizer as Ours;
    use super::super::tokenize::tests::{VOCAB as TINY_VOCAB, tiny};
    use super::*;
    use hone_base::error::Kind;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_vocabulary_alone_is_a_bert_tokenizer() {
        let vocab = TINY_VOCAB.join("\n");
        let text = "Good films, [MASK] not é a!";
        let lower = Ours::from_folder(folder(&[(VOCAB, &vocab)]).path(), 32).unwrap();
        let mut expected = tiny();
        expected.with_truncation(None).unwrap();
        assert_eq!(lower.encode(text, None).unwrap().ids, expected.encode(text, true).unwrap().get_ids());

        let cased = folder(&[
            (VOCAB, &vocab),
            (CONFIG, r#"{"do_lower_case": false, "sep_token": {"content": "."}}"#),
        ]);
        let cased = Ours::from_folder(cased.path(), 32).unwrap();
        assert_eq!(cased.encode("Good good", None).unwrap().ids, [2, 1, 7, 12]);
    }

    #[test]
    fn tokens_that_were_added_to_a_vocabulary_have_their_numbers() {
        let vocab = TINY_VOCAB.join("\n");
        let ids = |files: &[(&str, &str)]| {
            let folder = folder(&[&[(VOCAB, vocab.as_str())], files].concat());
            Ours::from_folder(folder.path(), 32)
                .and_then(|ours| ours.encode("good <user> film", None))
                .map(|of| of.ids)
        };
        let without = ids(&[]).unwrap();
        let added = ids(&[(ADDED, r#"{"<user>": 16, "<url>": 17}"#)]).unwrap();
        assert_eq!(added, [2, 7, 16, 6, 3]);
        assert_ne!(without, added);
        let described = r#"{"added_tokens_decoder": {"16": {"content": "<user>", "special": false}}}"#;
        assert_eq!(ids(&[(CONFIG, described)]).unwrap(), added);
        let error = ids(&[(ADDED, r#"{"<user>": 20}"#)]).unwrap_err();
        assert!(error.message().contains("\"<user>\" shall have the number 20"), "{error}");
    }

    #[test]
    fn special_tokens_are_those_that_their_map_names() {
        let vocab = TINY_VOCAB.join("\n").replace("[SEP]", "[END]");
        let special = r#"{"sep_token": {"content": "[END]", "lstrip": false}}"#;
        let folder = folder(&[(VOCAB, &vocab), (SPECIAL, special)]);
        let ours = Ours::from_folder(folder.path(), 32).unwrap();
        assert_eq!(ours.encode("good", None).unwrap().ids, [2, 7, 3]);
    }

    #[test]
    fn capitals_that_lower_case_never_reaches_are_told() {
        let vocab = [&TINY_VOCAB[..], &["The", "[unused0]"]].concat().join("\n");
        let notices = |config: &str| {
            let folder = folder(&[(VOCAB, &vocab), (CONFIG, config)]);
            Ours::from_folder(folder.path(), 32).unwrap().notices().to_vec()
        };
        let told = notices("{}");
        assert!(told.len() == 1 && told[0].starts_with("1 of 18 tokens of the vocabulary"), "{told:?}");
        assert!(told[0].contains("(\"The\"…)") && told[0].contains("do_lower_case"), "{told:?}");
        assert_eq!(notices(r#"{"do_lower_case": false}"#), Vec::<String>::new());
    }

    #[test]
    fn a_folder_that_has_no_usable_tokenizer_is_named() {
        for (files, kind, expected) in [
            (&[][..], Kind::NotFound, "has neither tokenizer.json nor vocab.txt"),
            (&[(TOKENIZER, "{}")], Kind::Corrupt, "tokenizer.json is no tokenizer"),
            (&[(TOKENIZER, "not json")], Kind::Corrupt, "tokenizer.json is no tokenizer"),
            (
                &[(VOCAB, "a\nb\n")],
                Kind::Corrupt,
                "vocab.txt is no tokenizer that can be used: the token [UNK]",
            ),
            (&[(VOCAB, "[UNK]"), (CONFIG, "[]")], Kind::Corrupt, "tokenizer_config.json is no tokenizer"),
            (&[(TOKENIZER, "version https://git-lfs.github.com/spec/v1\n")], Kind::Corrupt, "`git lfs pull`"),
            (&[(VOCAB, "<html>")], Kind::Corrupt, "vocab.txt is a web page"),
            (&[(VOCAB, "")], Kind::Corrupt, "vocab.txt is empty"),
            (
                &[
                    (VOCAB, "[UNK]\n[CLS]\n[SEP]"),
                    (CONFIG, r#"{"tokenizer_class": "BertJapaneseTokenizer"}"#),
                ],
                Kind::Corrupt,
                "names the class BertJapaneseTokenizer",
            ),
            (&[(TOKENS, "{}"), (MERGES, "")], Kind::Corrupt, "merges.txt is empty"),
            (&[(TOKENS, "{}"), (MERGES, "#version: 0.2\n")], Kind::Corrupt, "not made of bytes"),
            (
                &[(TOKENS, r#"{"<s>": 0, "</s>": 1, "Ġ": 2, "a": 3}"#), (MERGES, "#version: 0.2\nĠ a b\n")],
                Kind::Corrupt,
                "line 2 of merges.txt is not two tokens",
            ),
            (
                &[(TOKENS, r#"{"<s>": 0, "</s>": 1, "Ġ": 2, "a": 3}"#), (MERGES, "#version: 0.2\nĠ a\n")],
                Kind::Corrupt,
                "vocab.json is no tokenizer that can be used: ",
            ),
        ] {
            let folder = folder(files);
            let error = Ours::from_folder(folder.path(), 16).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains(expected), "{error}");
            assert!(error.message().contains(&folder.path().display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_checkpoint_has_the_files_of_its_source_and_the_length_of_its_training() {
        let source = folder(&[
            (TOKENIZER, &tiny().to_string(false).unwrap()),
            (CONFIG, r#"{"model_max_length": 512, "tokenizer_class": "BertTokenizer"}"#),
            (VOCAB, "[UNK]\n"),
        ]);
        let target = tempfile::tempdir().unwrap();
        Ours::from_folder(source.path(), 7).unwrap().write_files(source.path(), target.path()).unwrap();
        let read = |name: &str| read_text(&target.path().join(name)).unwrap();
        let config: Value = serde_json::from_str(&read(CONFIG).unwrap()).unwrap();
        assert_eq!(
            config,
            json!({"model_max_length": 7, "tokenizer_class": "BertTokenizer", "truncation_side": "right"})
        );
        assert_eq!(read(VOCAB).unwrap(), "[UNK]\n");
        assert_eq!(read("special_tokens_map.json"), None);
        let again = Ours::from_folder(target.path(), 9).unwrap();
        assert_eq!(again.encode("good film", None).unwrap().ids, [2, 7, 6, 3]);
    }

    #[test]
    fn the_side_that_is_cut_is_read_as_the_python_library_reads_it() {
        let mut left = tiny();
        let params = tokenizers::TruncationParams {
            direction: tokenizers::TruncationDirection::Left,
            ..Default::default()
        };
        left.with_truncation(Some(params)).unwrap();
        let (right, left) = (tiny().to_string(false).unwrap(), left.to_string(false).unwrap());
        for (tokenizer, config, expected) in [
            (&right, "{}", Truncation::Head),
            (&left, "{}", Truncation::Tail),
            (&left, r#"{"truncation_side": "right"}"#, Truncation::Head),
            (&right, r#"{"truncation_side": "left"}"#, Truncation::Tail),
            (&right, r#"{"truncation_side": "left", "hone_truncation": "head_tail"}"#, Truncation::HeadTail),
        ] {
            let folder = folder(&[(TOKENIZER, tokenizer), (CONFIG, config)]);
            assert_eq!(truncation(folder.path()).unwrap(), expected, "{config}");
        }
        let newer = folder(&[(TOKENIZER, &right), (CONFIG, r#"{"hone_truncation": "middle"}"#)]);
        assert!(truncation(newer.path()).unwrap_err().message().contains("\"middle\""));
    }

    #[test]
    fn what_python_can_cut_a_checkpoint_says_in_its_words() {
        let source = folder(&[
            (TOKENIZER, &tiny().to_string(false).unwrap()),
            (CONFIG, r#"{"truncation_side": "left", "hone_truncation": "head_tail"}"#),
        ]);
        for (truncation, side, own) in [
            (Truncation::Head, "right", None),
            (Truncation::Tail, "left", None),
            (Truncation::HeadTail, "left", Some("head_tail")),
        ] {
            let target = tempfile::tempdir().unwrap();
            let trained = Ours::from_folder(source.path(), 7).unwrap().with_truncation(truncation);
            trained.write_files(source.path(), target.path()).unwrap();
            let config = read_config(target.path()).unwrap().unwrap();
            assert_eq!(config.get(SIDE).and_then(Value::as_str), Some(side));
            assert_eq!(config.get(OWN_WAY).and_then(Value::as_str), own);
        }
    }

    #[test]
    fn a_source_without_configuration_gets_one() {
        let source = folder(&[(TOKENIZER, &tiny().to_string(false).unwrap())]);
        let target = tempfile::tempdir().unwrap();
        Ours::from_folder(source.path(), 7).unwrap().write_files(source.path(), target.path()).unwrap();
        let config = read_config(target.path()).unwrap().unwrap();
        assert_eq!(config.get("tokenizer_class"), Some(&json!("PreTrainedTokenizerFast")));
        assert_eq!(config.get("pad_token"), Some(&json!("[PAD]")));
        assert_eq!(config.get("model_max_length"), Some(&json!(7)));
        assert_eq!(config.get("model_input_names"), None);
    }

    #[test]
    fn a_model_without_token_types_is_given_none() {
        for (kind, names) in [("bert", None), ("distilbert", Some(json!(["input_ids", "attention_mask"])))] {
            let source = folder(&[
                (TOKENIZER, &tiny().to_string(false).unwrap()),
                (MODEL, &json!({"model_type": kind}).to_string()),
            ]);
            let target = tempfile::tempdir().unwrap();
            Ours::from_folder(source.path(), 7).unwrap().write_files(source.path(), target.path()).unwrap();
            let config = read_config(target.path()).unwrap().unwrap();
            assert_eq!(config.get("model_input_names"), names.as_ref());
        }
    }
}
