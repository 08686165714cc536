//! The daemon's messages name fields of the protocol, in backquotes and perhaps with a value: `learning_rate`,
//! `columns.missing_label = drop`. On a command line they are flags.

use hone::settings::{self, Kind};

/// The flags of fields that are no [`settings`].
const FLAGS: &[(&str, &str)] = &[
    ("name", "--name"),
    ("encoder", "--encoder"),
    ("train", "--train"),
    ("validation", "--validation"),
    ("test", "--test"),
    ("validation_split", "--validation-split"),
    ("train_limit", "--train-limit"),
    ("validation_limit", "--validation-limit"),
    ("test_limit", "--test-limit"),
    ("checkpoint_steps", "--checkpoint-every"),
    ("checkpoint_minutes", "--checkpoint-every"),
    ("class_weights", "--class-weights"),
    ("max_length", "--max-length"),
    ("min_score", "--min-score"),
    ("promote_if", "--promote-if"),
    ("promote_alias", "--promote-alias"),
    ("canary", "--canary"),
    ("shadow", "--shadow"),
    ("priority", "--priority"),
    ("request_id", "--id"),
    ("columns.text", "--text-column"),
    ("columns.text_pair", "--text-pair-column"),
    ("columns.label", "--label-column"),
    ("columns.label_columns", "--label-columns"),
    ("columns.label_names", "--label-names"),
    ("columns.missing_label", "--missing-label"),
    ("columns.dialect.encoding", "--encoding"),
    ("columns.dialect.delimiter", "--delimiter"),
];

/// A message of the daemon with flags in the place of fields. What is no field stays, its backquotes included.
pub(crate) fn with_flags(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((before, (inside, after))) =
        rest.split_once('`').and_then(|(before, rest)| Some((before, rest.split_once('`')?)))
    {
        text.push_str(before);
        match flag(inside) {
            Some(flag) => {
                text.push_str(&flag);
                rest = after;
            }
            // The closing backquote may be the opening one of a field.
            None => {
                text.push('`');
                text.push_str(inside);
                rest = &rest[before.len() + 1 + inside.len()..];
            }
        }
    }
    text.push_str(rest);
    text
}

/// A field, or a field with its value, as it is typed.
fn flag(field: &str) -> Option<String> {
    let (field, value) = match field.split_once(" = ") {
        Some((field, value)) => (field, Some(value)),
        None => (field, None),
    };
    let typed = |flag: &str| match value {
        Some(value) => format!("{flag} {value}"),
        None => flag.to_owned(),
    };
    match (field, value) {
        ("columns.label_separator", None) => return Some("--multi-label".to_owned()),
        ("columns.label_separator", Some(_)) => return Some(typed("--multi-label --label-separator")),
        ("columns.dialect.unquoted", _) => return Some("--quote none".to_owned()),
        ("columns.dialect.no_header", _) => return Some("--no-header".to_owned()),
        _ => {}
    }
    if let Some((_, flag)) = FLAGS.iter().find(|(known, _)| *known == field) {
        return Some(typed(flag));
    }
    let setting = settings::all().find(|setting| setting.field == field)?;
    let flag = format!("--{}", setting.flag);
    Some(if matches!(setting.kind, Kind::Switch(_)) { flag } else { typed(&flag) })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn fields_become_flags() {
        for (message, shown) in [
            ("lower `learning_rate` (now 1e-3)", "lower --lr (now 1e-3)"),
            ("clip with `max_grad_norm = 1`", "clip with --max-grad-norm 1"),
            ("use `gradient_checkpointing = true`.", "use --gradient-checkpointing."),
            ("with `columns.missing_label = drop` rows go", "with --missing-label drop rows go"),
            ("set `columns.label_separator = \", \"`", "set --multi-label --label-separator \", \""),
            ("`columns.text` (and `columns.text_pair`)", "--text-column (and --text-pair-column)"),
            ("set `columns.dialect.unquoted = true`", "set --quote none"),
            ("raise `epochs`, or lower `batch_size`", "raise --epochs, or lower --batch-size"),
        ] {
            assert_eq!(with_flags(message), shown);
        }
    }

    #[test]
    fn what_is_no_field_stays_as_it_is() {
        for message in
            ["", "`", "a ` b", "``", "`cargo build`", "`client jobs` and `", "no `such_field` here"]
        {
            assert_eq!(with_flags(message), message);
        }
        assert_eq!(
            with_flags("the label ` is not in `columns.label`"),
            "the label ` is not in --label-column"
        );
    }

    #[test]
    fn every_field_is_one_of_the_protocol_and_every_flag_one_of_the_command() {
        let files = FileDescriptorSet::decode(hone::DESCRIPTORS).expect("descriptors").file;
        let messages: Vec<_> = files.into_iter().flat_map(|file| file.message_type).collect();
        let has = |message: &str, field: &str| {
            let message = messages.iter().find(|known| known.name() == message).expect("a message");
            message.field.iter().any(|known| known.name() == field)
        };
        let cli = crate::cli::Cli::command();
        let command = |of: &clap::Command, name: &str| of.find_subcommand(name).expect("the command").clone();
        let promote = command(&command(&cli, "models"), "promote");
        let commands = [command(&cli, "train"), command(&cli, "classify"), promote];
        let requests = ["JobSpec", "Hyperparameters", "Methods", "ClassifyRequest", "PromoteModelRequest"];
        for (field, flag) in FLAGS {
            let known = match field.rsplit_once('.') {
                Some(("columns", field)) => has("Columns", field),
                Some((_, field)) => has("Dialect", field),
                None => requests.iter().any(|message| has(message, field)),
            };
            assert!(known, "{field}");
            let flag = flag.trim_start_matches("--");
            let mut arguments = commands.iter().flat_map(|command| command.get_arguments());
            assert!(arguments.any(|argument| argument.get_long() == Some(flag)), "{flag}");
        }
    }
}
