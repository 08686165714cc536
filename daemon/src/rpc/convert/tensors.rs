//! Answers of the Open Inference Protocol: tensors with an element, or an element for each label, of each text.

use hone::inference::model_infer_response::InferOutputTensor;
use hone::inference::{InferTensorContents, ModelInferResponse};

use super::open_inference::{Output, Wanted};
use crate::serve::answer::{Classified, Prediction};
use hone_base::error::Result;

/// The elements of a tensor.
enum Elements {
    Bytes(Vec<Vec<u8>>),
    Floats(Vec<f32>),
}

/// The answer to a request with this id.
///
/// # Errors
/// The first error of a text.
pub fn response(
    answer: &Classified,
    wanted: &[Wanted],
    id: String,
    is_raw: bool,
) -> Result<ModelInferResponse> {
    let predictions: Vec<&Prediction> = answer
        .predictions
        .iter()
        .map(|member| member.as_ref().map_err(Clone::clone))
        .collect::<Result<_>>()?;
    let mut response = ModelInferResponse {
        model_name: answer.version.name.clone(),
        model_version: answer.version.version.to_string(),
        id,
        ..ModelInferResponse::default()
    };
    for wanted in wanted {
        let elements = elements(answer, &predictions, *wanted);
        let texts = predictions.len() as i64;
        let labels = answer.ready.labels.len();
        let shape = match (wanted.output.is_by_label(), wanted.classes) {
            (false, _) => vec![texts],
            (true, None) => vec![texts, labels as i64],
            (true, Some(classes)) => vec![texts, classes.get().min(labels) as i64],
        };
        let datatype = match elements {
            Elements::Bytes(_) => "BYTES",
            Elements::Floats(_) => "FP32",
        };
        let mut tensor = InferOutputTensor {
            name: wanted.output.name().to_owned(),
            datatype: datatype.to_owned(),
            shape,
            ..InferOutputTensor::default()
        };
        match is_raw {
            true => response.raw_output_contents.push(elements.raw()),
            false => tensor.contents = Some(elements.contents()),
        }
        response.outputs.push(tensor);
    }
    Ok(response)
}

fn elements(answer: &Classified, predictions: &[&Prediction], wanted: Wanted) -> Elements {
    let label = |class: usize| answer.ready.labels.get(class).map_or("", String::as_str);
    let top = |prediction: &Prediction| prediction.ranked().first().copied();
    let has_label =
        |prediction: &Prediction| answer.ready.thresholds.is_some() || !prediction.labels.is_empty();
    let each = predictions.iter().copied();
    match wanted.output {
        Output::Label => Elements::Bytes(
            each.map(|prediction| {
                let class = top(prediction).filter(|_| has_label(prediction));
                class.map(label).unwrap_or_default().as_bytes().to_vec()
            })
            .collect(),
        ),
        Output::Score => Elements::Floats(
            each.map(|prediction| {
                top(prediction)
                    .and_then(|class| prediction.probabilities.get(class).copied())
                    .unwrap_or_default()
            })
            .collect(),
        ),
        Output::Labels => Elements::Bytes(
            each.map(|prediction| {
                let labels: Vec<&str> = prediction.labels.iter().map(|&class| label(class)).collect();
                serde_json::Value::from(labels).to_string().into_bytes()
            })
            .collect(),
        ),
        Output::Scores | Output::Logits => {
            let of = |prediction: &'_ Prediction| match wanted.output {
                Output::Logits => prediction.logits.clone(),
                _ => prediction.probabilities.clone(),
            };
            let Some(classes) = wanted.classes else {
                return Elements::Floats(each.flat_map(of).collect());
            };
            let class = |prediction: &Prediction| {
                let (numbers, ranked) = (of(prediction), prediction.ranked());
                let element = |class: usize| {
                    let number = numbers.get(class).copied().unwrap_or_default();
                    format!("{number:.6}:{class}:{}", label(class)).into_bytes()
                };
                ranked.into_iter().take(classes.get()).map(element).collect::<Vec<_>>()
            };
            Elements::Bytes(each.flat_map(class).collect())
        }
    }
}

impl Elements {
    fn contents(self) -> InferTensorContents {
        match self {
            Self::Bytes(bytes_contents) => InferTensorContents { bytes_contents, ..Default::default() },
            Self::Floats(fp32_contents) => InferTensorContents { fp32_contents, ..Default::default() },
        }
    }

    /// The bytes that stand for the elements: numbers with their lowest byte first, texts each after its length.
    fn raw(self) -> Vec<u8> {
        match self {
            Self::Bytes(elements) => {
                let element =
                    |element: &Vec<u8>| [&(element.len() as u32).to_le_bytes()[..], element].concat();
                elements.iter().flat_map(element).collect()
            }
            Self::Floats(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        }
    }
}
