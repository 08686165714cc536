//! Requests of the Open Inference Protocol, whose texts and answers are tensors.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use hone::inference::infer_parameter::ParameterChoice;
use hone::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use hone::inference::{InferParameter, ModelInferRequest};

use crate::serve::classify::MAX_INPUTS;
use crate::serve::input::Input;
use crate::serve::options::{MAX_KEY, MinScore, Options, Priority, Side};
use hone_base::error::{Error, Result, quoted};

/// The tensor of the texts.
pub const TEXT: &str = "text";

/// The tensor of the second texts of pairs.
pub const TEXT_PAIR: &str = "text_pair";

/// The priority there of a request that says nothing; 1 is the highest.
const USUAL_PRIORITY: i64 = 101;

/// A request as it came.
#[derive(Debug)]
pub struct Question {
    /// The model.
    pub model: String,
    /// The inputs.
    pub inputs: Vec<Input>,
    /// What is asked for besides; all or nothing, because a tensor has no place for an error.
    pub options: Options,
    /// The tensors that are asked for, in order.
    pub outputs: Vec<Wanted>,
    /// The request's id.
    pub id: String,
    /// Contents are bytes beside the tensors, in the answer as in the request.
    pub is_raw: bool,
}

/// A tensor of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The most probable label of each text, set or not.
    Label,
    /// Its probability.
    Score,
    /// The probability of each label, in class order.
    Scores,
    /// The labels that a text has, as a list in JSON.
    Labels,
    /// The logit of each label, in class order.
    Logits,
}

/// A tensor that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which one.
    pub output: Output,
    /// Its so many highest numbers with their labels, instead of all numbers.
    pub classes: Option<NonZeroUsize>,
}

impl Output {
    /// All tensors.
    pub const ALL: [Self; 5] = [Self::Label, Self::Score, Self::Scores, Self::Labels, Self::Logits];

    /// The tensor's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Score => "score",
            Self::Scores => "scores",
            Self::Labels => "labels",
            Self::Logits => "logits",
        }
    }

    /// The type of its elements.
    pub fn datatype(self) -> &'static str {
        match self {
            Self::Label | Self::Labels => "BYTES",
            Self::Score | Self::Scores | Self::Logits => "FP32",
        }
    }

    /// Whether it has an element for each label of each text, not one for each text.
    pub fn is_by_label(self) -> bool {
        matches!(self, Self::Scores | Self::Logits)
    }
}

/// The reference of a model and a version, which is a number, an alias or empty.
///
/// # Errors
/// `Invalid` when the name has a version already.
pub fn reference(name: &str, version: &str) -> Result<String> {
    match (version.is_empty(), name.contains('@')) {
        (true, _) => Ok(name.to_owned()),
        (false, false) => Ok(format!("{name}@{version}")),
        (false, true) => {
            let why =
                format!("the model {} has a version already, which is not {}", quoted(name), quoted(version));
            Err(Error::invalid_field("model_version", why))
        }
    }
}

impl Question {
    /// Reads a request that came at `now`.
    ///
    /// # Errors
    /// `Invalid`, with the field, for what no request may have.
    pub fn parse(request: ModelInferRequest, now: Instant) -> Result<Self> {
        let model = reference(&request.model_name, &request.model_version)?;
        let options = options(&request.parameters, now)?;
        let is_raw = !request.raw_input_contents.is_empty();
        if is_raw && request.raw_input_contents.len() != request.inputs.len() {
            let (raw, inputs) = (request.raw_input_contents.len(), request.inputs.len());
            let why = format!(
                "`raw_input_contents` has {raw} members for {inputs} inputs; each has one or none has"
            );
            return Err(Error::invalid_field("raw_input_contents", why));
        }
        let mut raw = request.raw_input_contents.into_iter();
        let (mut texts, mut pairs) = (None, None);
        for (place, tensor) in request.inputs.into_iter().enumerate() {
            let column = match tensor.name.as_str() {
                TEXT => &mut texts,
                TEXT_PAIR => &mut pairs,
                name => {
                    let why = format!(
                        "there is no input {}; the inputs are `{TEXT}` and `{TEXT_PAIR}`",
                        quoted(name)
                    );
                    return Err(Error::invalid_field(format!("inputs[{place}].name"), why));
                }
            };
            if column.replace(self::texts(place, tensor, raw.next())?).is_some() {
                let why = "an input stands there twice";
                return Err(Error::invalid_field(format!("inputs[{place}].name"), why));
            }
        }
        let Some(texts) = texts else {
            return Err(Error::invalid_field("inputs", format!("the input `{TEXT}` is missing")));
        };
        let inputs = inputs(texts, pairs)?;
        let outputs = request.outputs.into_iter().enumerate();
        let mut outputs: Vec<Wanted> =
            outputs.map(|(place, output)| wanted(place, output)).collect::<Result<_>>()?;
        if outputs.is_empty() {
            let usual = Output::ALL.into_iter().filter(|output| *output != Output::Logits);
            outputs = usual.map(|output| Wanted { output, classes: None }).collect();
        }
        Ok(Self { model, inputs, options, outputs, id: request.id, is_raw })
    }
}

fn inputs(texts: Vec<String>, pairs: Option<Vec<String>>) -> Result<Vec<Input>> {
    let Some(pairs) = pairs else {
        return Ok(texts.into_iter().map(|text| Input { text, text_pair: None }).collect());
    };
    if pairs.len() != texts.len() {
        let why = format!("`{TEXT}` has {} elements and `{TEXT_PAIR}` {}", texts.len(), pairs.len());
        return Err(Error::invalid_field("inputs", why));
    }
    let pair = |(text, pair)| Input { text, text_pair: Some(pair) };
    Ok(texts.into_iter().zip(pairs).map(pair).collect())
}

/// The texts of a tensor.
fn texts(place: usize, tensor: InferInputTensor, raw: Option<Vec<u8>>) -> Result<Vec<String>> {
    let wrong = |field: &str, why: String| {
        let name = &tensor.name;
        Error::invalid_field(format!("inputs[{place}].{field}"), format!("the input `{name}` {why}"))
    };
    if tensor.datatype != "BYTES" {
        return Err(wrong(
            "datatype",
            format!("has the type {}; it must be BYTES", quoted(&tensor.datatype)),
        ));
    }
    if tensor.parameters.contains_key("shared_memory_region") {
        return Err(wrong("parameters", "is in shared memory, which this daemon does not read".to_owned()));
    }
    let count = match tensor.shape.as_slice() {
        [count] | [count, 1] => *count,
        shape => {
            return Err(wrong("shape", format!("has {} dimensions; it must be [N] or [N, 1]", shape.len())));
        }
    };
    let elements = match raw {
        Some(_) if tensor.contents.is_some() => {
            return Err(wrong("contents", "has contents, and raw ones too".to_owned()));
        }
        Some(raw) => elements(&raw).ok_or_else(|| {
            let why = "is no list of elements, each after its length (4 bytes, the lowest first)";
            wrong("contents", why.to_owned())
        })?,
        None => tensor.contents.as_ref().map(|contents| contents.bytes_contents.clone()).unwrap_or_default(),
    };
    if usize::try_from(count) != Ok(elements.len()) {
        return Err(wrong("shape", format!("has {} elements, but its shape says {count}", elements.len())));
    }
    if elements.len() > MAX_INPUTS {
        return Err(wrong(
            "shape",
            format!("has {} elements; at most {MAX_INPUTS} are taken", elements.len()),
        ));
    }
    let text = |(index, element): (usize, Vec<u8>)| {
        String::from_utf8(element)
            .map_err(|_| wrong("contents", format!("has no UTF-8 in its element {index}")))
    };
    elements.into_iter().enumerate().map(text).collect()
}

/// The elements of a raw tensor of bytes: each stands after its length.
fn elements(mut raw: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut elements = Vec::new();
    while !raw.is_empty() {
        let (length, rest) = raw.split_first_chunk()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        elements.push(element.to_vec());
        raw = rest;
    }
    Some(elements)
}

fn wanted(place: usize, tensor: InferRequestedOutputTensor) -> Result<Wanted> {
    let Some(output) = Output::ALL.into_iter().find(|output| output.name() == tensor.name) else {
        let names = Output::ALL.map(|output| format!("`{}`", output.name())).join(", ");
        let why = format!("there is no output {}; the outputs are {names}", quoted(&tensor.name));
        return Err(Error::invalid_field(format!("outputs[{place}].name"), why));
    };
    let field = || format!("outputs[{place}].parameters");
    if tensor.parameters.contains_key("shared_memory_region") {
        return Err(Error::invalid_field(field(), "this daemon writes no shared memory"));
    }
    let Some(classes) = tensor.parameters.get("classification") else {
        return Ok(Wanted { output, classes: None });
    };
    let number = integer(classes).and_then(|number| usize::try_from(number).ok());
    match number {
        Some(number) if output.is_by_label() => Ok(Wanted { output, classes: NonZeroUsize::new(number) }),
        Some(0) => Ok(Wanted { output, classes: None }),
        _ => {
            let why = "`classification` is a number of labels, for `scores` and `logits`";
            Err(Error::invalid_field(field(), why))
        }
    }
}

fn integer(parameter: &InferParameter) -> Option<i64> {
    match parameter.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(number) => Some(*number),
        ParameterChoice::Uint64Param(number) => i64::try_from(*number).ok(),
        ParameterChoice::StringParam(text) => text.parse().ok(),
        ParameterChoice::BoolParam(_) | ParameterChoice::DoubleParam(_) => None,
    }
}

fn float(parameter: &InferParameter) -> Option<f64> {
    match parameter.parameter_choice.as_ref()? {
        ParameterChoice::DoubleParam(number) => Some(*number),
        ParameterChoice::StringParam(text) => text.parse().ok(),
        _ => integer(parameter).map(|number| number as f64),
    }
}

fn text(parameter: &InferParameter) -> Option<&str> {
    match parameter.parameter_choice.as_ref()? {
        ParameterChoice::StringParam(text) => Some(text),
        _ => None,
    }
}

/// What the parameters of a request ask for. Those that Triton reserves and that mean nothing here are left out.
fn options(parameters: &HashMap<String, InferParameter>, now: Instant) -> Result<Options> {
    let mut options = Options { all_or_nothing: true, ..Options::default() };
    for (name, parameter) in parameters {
        let field = || format!("parameters.{name}");
        let wrong = |must: &str| Error::invalid_field(field(), format!("`{}` must be {must}", field()));
        match name.as_str() {
            "priority" => match integer(parameter) {
                Some(0) => {}
                Some(number) => {
                    let priority = number.checked_neg().and_then(|number| number.checked_add(USUAL_PRIORITY));
                    let priority = priority.and_then(|priority| Priority::new(priority).ok());
                    options.priority = priority.ok_or_else(|| wrong("from 1, the highest, to 201"))?;
                }
                None => return Err(wrong("a whole number")),
            },
            "timeout" => {
                let micros = integer(parameter).and_then(|number| u64::try_from(number).ok());
                let micros = micros.ok_or_else(|| wrong("a number of microseconds"))?;
                options.deadline =
                    (micros > 0).then(|| now.checked_add(Duration::from_micros(micros))).flatten();
            }
            "max_length" => {
                let length = integer(parameter).and_then(|number| usize::try_from(number).ok());
                options.max_length = NonZeroUsize::new(length.ok_or_else(|| wrong("a number of tokens"))?);
            }
            "truncation_side" => {
                options.side = match text(parameter) {
                    Some("right") => Side::Right,
                    Some("left") => Side::Left,
                    Some("none") => Side::Refuse,
                    _ => return Err(wrong("right, left or none")),
                }
            }
            "min_score" => {
                let score = float(parameter).ok_or_else(|| wrong("from 0 to 1"))?;
                options.min_score = Some(MinScore::new(score as f32).map_err(|_| wrong("from 0 to 1"))?);
            }
            "routing_key" => {
                let key = text(parameter).filter(|key| key.len() <= MAX_KEY);
                options.routing_key = Some(key.ok_or_else(|| wrong("a text of at most 256 bytes"))?.into());
            }
            "binary_data_output" | "sequence_id" | "sequence_start" | "sequence_end" => {}
            name if name.starts_with("triton_") => {}
            name => {
                let known = "priority, timeout, max_length, truncation_side, min_score and routing_key";
                let why = format!("there is no parameter {}; the parameters are {known}", quoted(name));
                return Err(Error::invalid_field(field(), why));
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone::inference::InferTensorContents;

    fn tensor(name: &str, texts: &[&str]) -> InferInputTensor {
        let bytes_contents = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        InferInputTensor {
            name: name.into(),
            datatype: "BYTES".into(),
            shape: vec![texts.len() as i64],
            contents: Some(InferTensorContents { bytes_contents, ..Default::default() }),
            ..Default::default()
        }
    }

    fn request(inputs: Vec<InferInputTensor>) -> ModelInferRequest {
        ModelInferRequest { model_name: "reviews".into(), inputs, ..Default::default() }
    }

    fn parse(request: ModelInferRequest) -> Result<Question> {
        Question::parse(request, Instant::now())
    }

    fn parameter(choice: ParameterChoice) -> InferParameter {
        InferParameter { parameter_choice: Some(choice) }
    }

    #[test]
    fn both_forms_of_contents_say_the_same() {
        let typed = parse(request(vec![tensor(TEXT, &["a", "héé"]), tensor(TEXT_PAIR, &["b", ""])])).unwrap();
        let raw = |texts: &[&str]| {
            let element = |text: &&str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
            texts.iter().flat_map(element).collect::<Vec<u8>>()
        };
        let bare =
            |name: &str| InferInputTensor { shape: vec![2, 1], contents: None, ..tensor(name, &["", ""]) };
        let mut raw_request = request(vec![bare(TEXT), bare(TEXT_PAIR)]);
        raw_request.raw_input_contents = vec![raw(&["a", "héé"]), raw(&["b", ""])];
        let raw = parse(raw_request).unwrap();
        assert_eq!((typed.inputs.len(), &typed.inputs), (2, &raw.inputs));
        assert_eq!((typed.is_raw, raw.is_raw), (false, true));
        assert_eq!(typed.inputs[1], Input { text: "héé".into(), text_pair: Some(String::new()) });
    }

    #[test]
    fn what_is_no_tensor_of_texts_is_an_error_of_its_field() {
        let changed = |change: fn(&mut InferInputTensor)| {
            let mut tensor = tensor(TEXT, &["a", "b"]);
            change(&mut tensor);
            request(vec![tensor])
        };
        let raw = |bytes: &[u8]| {
            let mut request = changed(|tensor| tensor.contents = None);
            request.raw_input_contents = vec![bytes.to_vec()];
            request
        };
        for (request, field) in [
            (request(vec![]), "inputs"),
            (changed(|tensor| tensor.name = "texts".into()), "inputs[0].name"),
            (changed(|tensor| tensor.datatype = "FP32".into()), "inputs[0].datatype"),
            (changed(|tensor| tensor.shape = vec![2, 2]), "inputs[0].shape"),
            (changed(|tensor| tensor.shape = vec![3]), "inputs[0].shape"),
            (changed(|tensor| tensor.shape = vec![-2]), "inputs[0].shape"),
            (raw(&[1, 0, 0, 0, b'a']), "inputs[0].shape"),
            (raw(&[9, 0, 0, 0, b'a']), "inputs[0].contents"),
            (raw(&[9, 0]), "inputs[0].contents"),
            (raw(&[1, 0, 0, 0, 0xff, 0, 0, 0, 0]), "inputs[0].contents"),
            (request(vec![tensor(TEXT, &["a"]), tensor(TEXT, &["a"])]), "inputs[1].name"),
            (request(vec![tensor(TEXT, &["a"]), tensor(TEXT_PAIR, &["a", "b"])]), "inputs"),
        ] {
            let error = parse(request).unwrap_err();
            assert_eq!(error.wrong_field(), Some(field), "{error}");
        }
        let mut both = request(vec![tensor(TEXT, &["a"])]);
        both.raw_input_contents = vec![vec![1, 0, 0, 0, b'a']];
        assert_eq!(parse(both).unwrap_err().wrong_field(), Some("inputs[0].contents"));
    }

    #[test]
    fn a_version_is_a_number_or_an_alias_or_stands_in_the_name() {
        assert_eq!(reference("reviews", "").unwrap(), "reviews");
        assert_eq!(reference("reviews", "3").unwrap(), "reviews@3");
        assert_eq!(reference("reviews@live", "").unwrap(), "reviews@live");
        assert_eq!(reference("reviews@live", "3").unwrap_err().wrong_field(), Some("model_version"));
    }

    #[test]
    fn parameters_say_who_goes_first_and_how_long_it_may_take() {
        let options = |name: &str, choice| {
            let mut request = request(vec![tensor(TEXT, &["a"])]);
            request.parameters.insert(name.into(), parameter(choice));
            parse(request).map(|question| question.options)
        };
        use ParameterChoice::{BoolParam, DoubleParam, Int64Param, StringParam, Uint64Param};
        let priority = |choice| options("priority", choice).map(|options| options.priority.get());
        assert_eq!(priority(Uint64Param(0)), Ok(0));
        assert_eq!((priority(Uint64Param(1)), priority(Int64Param(101))), (Ok(100), Ok(0)));
        assert_eq!(priority(Int64Param(201)), Ok(-100));
        assert_eq!(priority(Int64Param(202)).unwrap_err().wrong_field(), Some("parameters.priority"));
        assert_eq!(priority(Int64Param(i64::MIN)).unwrap_err().wrong_field(), Some("parameters.priority"));
        assert!(options("timeout", Int64Param(5)).unwrap().deadline.is_some());
        assert!(options("timeout", Int64Param(0)).unwrap().deadline.is_none());
        assert!(options("timeout", Int64Param(-1)).is_err());
        assert_eq!(options("truncation_side", StringParam("none".into())).unwrap().side, Side::Refuse);
        assert_eq!(
            options("min_score", DoubleParam(0.5)).unwrap().min_score,
            Some(MinScore::new(0.5).unwrap())
        );
        assert!(options("max_length", BoolParam(true)).is_err());
        assert_eq!(options("sequence_id", Uint64Param(7)), options("triton_x", BoolParam(true)));
        assert_eq!(
            options("temperature", DoubleParam(1.0)).unwrap_err().wrong_field(),
            Some("parameters.temperature")
        );
    }

    #[test]
    fn outputs_are_asked_for_by_name_and_numbers_may_come_as_classes() {
        let outputs = |name: &str, classes: Option<i64>| {
            let mut request = request(vec![tensor(TEXT, &["a"])]);
            let parameter =
                classes.map(|n| ("classification".into(), parameter(ParameterChoice::Int64Param(n))));
            let parameters = parameter.into_iter().collect();
            request.outputs = vec![InferRequestedOutputTensor { name: name.into(), parameters }];
            parse(request).map(|question| question.outputs)
        };
        assert_eq!(outputs("logits", None), Ok(vec![Wanted { output: Output::Logits, classes: None }]));
        assert_eq!(outputs("scores", Some(2)).unwrap()[0].classes, NonZeroUsize::new(2));
        assert_eq!(outputs("score", Some(2)).unwrap_err().wrong_field(), Some("outputs[0].parameters"));
        assert_eq!(outputs("embedding", None).unwrap_err().wrong_field(), Some("outputs[0].name"));
        let usual = parse(request(vec![tensor(TEXT, &["a"])])).unwrap().outputs;
        let names: Vec<&str> = usual.iter().map(|wanted| wanted.output.name()).collect();
        assert_eq!(names, ["label", "score", "scores", "labels"]);
    }
}
