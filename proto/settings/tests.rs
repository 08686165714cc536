use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};

use super::*;

/// Fields that are no single value.
const COMPOUND: [&str; 5] =
    ["methods", "class_weights", "checkpoint_steps", "checkpoint_minutes", "checkpoint_epochs"];

fn message(name: &str) -> DescriptorProto {
    let files = FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap().file;
    files.into_iter().flat_map(|file| file.message_type).find(|message| message.name() == name).unwrap()
}

/// The number of a setting's field, and its message's.
fn numbers(setting: &Setting) -> (Option<u32>, u32) {
    let number = |message: &DescriptorProto, field: &str| {
        let found = message.field.iter().find(|known| known.name() == field);
        found.unwrap_or_else(|| panic!("no field is called {field}")).number() as u32
    };
    let hyperparameters = message("Hyperparameters");
    match setting.is_method() {
        true => (Some(number(&hyperparameters, "methods")), number(&message("Methods"), setting.field)),
        false => (None, number(&hyperparameters, setting.field)),
    }
}

/// A value that the setting can have.
fn example(setting: &Setting) -> Value {
    let fits = |value: &Value| setting.check(value).is_ok();
    match &setting.kind {
        Kind::Number(..) => [0.5, 2.0].map(Value::Number).into_iter().find(fits).unwrap(),
        Kind::Count(..) | Kind::Long(..) => [1, 64].map(Value::Whole).into_iter().find(fits).unwrap(),
        Kind::Switch(_) => Value::Switch(true),
        Kind::Choice(words, _) => Value::Choice(words[0].number),
        Kind::Text(_) => Value::Text("spam".into()),
    }
}

fn with(setting: &Setting, value: Value) -> Message {
    let mut message = Message::default();
    setting.set(&mut message, value).unwrap();
    message
}

#[test]
fn every_single_value_of_the_protocol_is_a_setting() {
    for name in ["Hyperparameters", "Methods"] {
        for field in message(name).field {
            let settings = all().filter(|setting| setting.field == field.name()).count();
            assert_eq!(settings, usize::from(!COMPOUND.contains(&field.name())), "{}", field.name());
        }
    }
}

#[test]
fn a_setting_is_written_into_the_field_that_it_names_and_read_from_there() {
    for setting in all() {
        let message = with(setting, example(setting));
        let given: Vec<_> = given(&message).into_iter().map(|(found, value)| (found.field, value)).collect();
        assert_eq!(given, [(setting.field, example(setting))]);
        let (of_methods, number) = numbers(setting);
        let bytes = message.encode_to_vec();
        let mut rest = bytes.as_slice();
        if let Some(methods) = of_methods {
            assert_eq!(prost::encoding::decode_key(&mut rest).unwrap().0, methods);
            prost::encoding::decode_varint(&mut rest).unwrap();
        }
        assert_eq!(prost::encoding::decode_key(&mut rest).unwrap().0, number, "{}", setting.field);
    }
}

#[test]
fn a_flag_names_one_setting() {
    let mut flags: Vec<_> =
        all().flat_map(|setting| [setting.flag, setting.alias]).filter(|flag| !flag.is_empty()).collect();
    let count = flags.len();
    flags.sort_unstable();
    flags.dedup();
    assert_eq!(flags.len(), count);
}

#[test]
fn every_number_of_an_enum_has_a_word() {
    let files = FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap().file;
    let enums: Vec<_> = files.into_iter().flat_map(|file| file.enum_type).collect();
    for setting in all().filter(|setting| matches!(setting.kind, Kind::Choice(..))) {
        let message = message("Hyperparameters");
        let field = message.field.iter().find(|field| field.name() == setting.field).unwrap();
        let of = enums.iter().find(|of| field.type_name().ends_with(&format!(".{}", of.name()))).unwrap();
        for value in of.value.iter().filter(|value| value.number() != 0) {
            let word = setting.word(value.number()).unwrap_or_else(|| panic!("{} has no word", value.name()));
            let ending = word.replace('-', "_").to_uppercase();
            assert!(value.name().ends_with(&format!("_{ending}")), "{} is {word}", value.name());
        }
    }
}

#[test]
fn a_value_outside_its_range_is_refused_with_the_range() {
    let refused = |field: &str, value: Value| {
        let setting = all().find(|setting| setting.field == field).unwrap();
        let mut message = Message::default();
        let unfit = setting.set(&mut message, value).unwrap_err();
        assert_eq!(message, Message::default(), "{field}");
        unfit.why
    };
    assert_eq!(refused("learning_rate", Value::Number(f64::NAN)), "must be a number greater than 0; got NaN");
    assert_eq!(refused("weight_decay", Value::Number(-1.0)), "must be a number of at least 0; got -1");
    assert_eq!(refused("epochs", Value::Whole(0)), "must be a whole number from 1 to 10000; got 0");
    assert_eq!(
        refused("freeze_layers", Value::Whole(1 << 32)),
        "must be a whole number, 0 or greater; got 4294967296"
    );
    assert_eq!(refused("keep", Value::Choice(9)), "has the unknown value 9; the client may be too new");
    assert_eq!(
        refused("positive_label", Value::Text(String::new())),
        "must be a text of 1 to 4096 bytes; got \"\""
    );
    assert!(refused("ema", Value::Whole(1)).starts_with("must be a number greater than 0 and less than 1"));
}
