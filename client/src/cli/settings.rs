//! The flags of `client train` that are settings of one value: made from their descriptions in [`hone::settings`].

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use hone::settings::{self, GROUPS, Kind, Setting, Value};
use hone::v1;

use super::values;

/// The settings that were given, each where the protocol has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SettingArgs(pub(crate) v1::Hyperparameters);

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let headed = |&(heading, settings): &(&'static str, &'static [Setting])| {
            settings.iter().map(move |setting| flag(setting).help_heading(heading))
        };
        command.args(GROUPS.iter().flat_map(headed))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Self::default();
        settings.update_from_arg_matches(matches)?;
        Ok(settings)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in settings::all() {
            let given = match setting.kind {
                Kind::Switch(_) => matches.get_flag(setting.field).then_some(Value::Switch(true)),
                _ => matches.get_one(setting.field).cloned(),
            };
            if let Some(value) = given {
                let set = setting.set(&mut self.0, value);
                set.map_err(|unfit| clap::Error::raw(clap::error::ErrorKind::ValueValidation, unfit))?;
            }
        }
        Ok(())
    }
}

/// A setting as a flag. What is not given is not sent, so that no flag has a default: the help only tells the daemon's.
fn flag(setting: &'static Setting) -> Arg {
    let mut flag = Arg::new(setting.field).long(setting.flag).help(help(setting));
    if !setting.source.is_empty() {
        flag = flag.long_help(format!("{} [{}]", help(setting), setting.source));
    }
    if !setting.alias.is_empty() {
        flag = flag.alias(setting.alias);
    }
    if !setting.one_of.is_empty() {
        flag = flag.group(setting.one_of);
    }
    if matches!(setting.kind, Kind::Switch(_)) {
        return flag.action(ArgAction::SetTrue);
    }
    if !setting.value.is_empty() {
        flag = flag.value_name(setting.value);
    }
    flag.allow_negative_numbers(true).value_parser(parser(setting))
}

fn help(setting: &Setting) -> String {
    match (setting.help, setting.default) {
        (help, "") => help.to_owned(),
        (help, default) => format!("{help}. Default: {default}"),
    }
}

/// Parses a value and refuses one that the setting cannot have.
fn parser(setting: &'static Setting) -> ValueParser {
    if let Kind::Choice(words, _) = &setting.kind {
        let possible = words.iter().map(|word| match word.help {
            "" => PossibleValue::new(word.word),
            help => PossibleValue::new(word.word).help(help),
        });
        let number = |typed: String| {
            let number = words.iter().find(|word| word.word == typed).map_or(0, |word| word.number);
            Value::Choice(number)
        };
        return PossibleValuesParser::new(possible).map(number).into();
    }
    ValueParser::new(move |text: &str| value(setting, text))
}

fn value(setting: &Setting, text: &str) -> Result<Value, String> {
    let must = || format!("must be {}", setting.range());
    let value = match &setting.kind {
        Kind::Number(..) => Value::Number(values::number(text)?),
        Kind::Count(..) | Kind::Long(..) => Value::Whole(text.trim().parse().map_err(|_| must())?),
        Kind::Switch(_) | Kind::Choice(..) | Kind::Text(_) => Value::Text(text.to_owned()),
    };
    match setting.check(&value) {
        Ok(()) => Ok(value),
        Err(_) => Err(must()),
    }
}
