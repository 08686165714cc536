//! `client classify`: labels and scores for texts on the command line, in a file or from a pipe.

use std::collections::VecDeque;
use std::path::Path;

use hone::text_file::Encoding;
use hone::v1;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::hint_at_models;
use crate::cli::{ClassifyArgs, Global};
use crate::connect::Daemon;
use crate::error::{Error, Kind};
use crate::fields::with_flags;
use crate::lines::{self, Line};
use crate::output::{Output, format, json};

/// Batches that are under way at a time: enough to keep the daemon busy, and a bound on memory.
const IN_FLIGHT: usize = 4;
/// Texts in a request of those on the command line; the protocol allows 1,024.
const TEXTS: usize = 256;

pub(super) async fn run(global: &Global, args: &ClassifyArgs, output: &mut Output<'_>) -> Result<(), Error> {
    let wish = args.wishes.request(args.model.as_deref().unwrap_or_default());
    if let Some(file) = &args.file {
        return file_or_pipe(global, &wish, file, args.encoding, output).await;
    }
    if args.texts == ["-"] && args.text_pair.is_none() {
        return file_or_pipe(global, &wish, Path::new("-"), args.encoding, output).await;
    }
    if args.text_pair.is_some() && args.texts.len() != 1 {
        return Err(Error::usage("--text-pair takes exactly one TEXT")
            .hint("put the text in quotes: client classify --text-pair \"second\" \"first\""));
    }
    if let Some(position) = args.texts.iter().position(|text| lines::is_blank(text)) {
        return Err(Error::usage(format!("text {} is empty", position + 1)));
    }
    let daemon = Daemon::connect(global).await?;
    let mut tally = Tally::default();
    for texts in args.texts.chunks(TEXTS) {
        let input = |text: &String| v1::Input { text: text.clone(), text_pair: args.text_pair.clone() };
        let request = v1::ClassifyRequest { inputs: texts.iter().map(input).collect(), ..wish.clone() };
        let answer = daemon.call(daemon.inference().classify(request)).await.map_err(hint_at_models)?;
        let lines: Vec<Line> = texts.iter().cloned().map(Line::Text).collect();
        tally.count(&lines, Some(&answer));
        show(&lines, Some(&answer), output)?;
    }
    tally.tell_cuts(output);
    tally.verdict("text")
}

/// Streams lines through the daemon: answers in order, memory bounded.
async fn file_or_pipe(
    global: &Global,
    wish: &v1::ClassifyRequest,
    path: &Path,
    named: Option<Encoding>,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let (mut batches, encoding) = lines::read(path, named).await?;
    if let Some(encoding) = encoding {
        output.note(&format!("note: the texts are read as {}", encoding.name()));
    }
    let daemon = Daemon::connect(global).await?;
    let mut tally = Tally::default();
    let result = stream(&daemon, wish, &mut batches, &mut tally, output).await;
    tally.tell_cuts(output);
    result.map_err(|error| match (error.kind(), tally.lines) {
        (Kind::OutputClosed, _) | (_, 0) => error,
        (_, lines) => error.hint(format!(
            "the answers of the first {} are complete",
            format::plural(lines, "line", "lines")
        )),
    })?;
    tally.verdict("line")
}

async fn stream(
    daemon: &Daemon,
    wish: &v1::ClassifyRequest,
    batches: &mut lines::Batches,
    tally: &mut Tally,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    // The first request goes ahead of the call, so that a daemon that waits for it before it answers is no trouble.
    let (requests, receiver) = mpsc::channel(IN_FLIGHT);
    let mut requests = Some(requests);
    let mut receiver = Some(receiver);
    let mut answers: Option<tonic::Streaming<v1::ClassifyResponse>> = None;
    let mut pending: VecDeque<Vec<Line>> = VecDeque::new();
    loop {
        // What needs no answer is shown as soon as everything before it is.
        while pending.front().is_some_and(|lines| !has_text(lines)) {
            let lines = pending.pop_front().unwrap_or_default();
            tally.count(&lines, None);
            show(&lines, None, output)?;
        }
        if requests.is_none() && pending.is_empty() {
            return Ok(());
        }
        tokio::select! {
            batch = batches.recv(), if requests.is_some() && pending.len() < IN_FLIGHT => match batch {
                Some(lines) => {
                    let lines = lines?;
                    if has_text(&lines) {
                        if let Some(requests) = &requests {
                            // Cannot be full: there is room for as many as may be under way.
                            let _ = requests.try_send(request(wish, &lines));
                        }
                        if let Some(receiver) = receiver.take() {
                            let call = daemon.inference().classify_stream(ReceiverStream::new(receiver)).await;
                            let response = call.map_err(|status| hint_at_models(daemon.error(&status)))?;
                            answers = Some(response.into_inner());
                        }
                    }
                    pending.push_back(lines);
                }
                None => requests = None,
            },
            answer = next(&mut answers), if !pending.is_empty() => {
                let answer = answer.map_err(|status| hint_at_models(daemon.error(&status)))?;
                let Some(lines) = pending.pop_front() else { continue };
                let Some(answer) = answer else {
                    return Err(Error::other("the daemon ended the stream before the last answer"));
                };
                let answer = of_lines(&lines, answer).map_err(|status| hint_at_models(daemon.error(&status)))?;
                tally.count(&lines, Some(&answer));
                show(&lines, Some(&answer), output)?;
            }
        }
    }
}

async fn next(
    answers: &mut Option<tonic::Streaming<v1::ClassifyResponse>>,
) -> Result<Option<v1::ClassifyResponse>, tonic::Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

fn has_text(lines: &[Line]) -> bool {
    lines.iter().any(|line| matches!(line, Line::Text(_)))
}

/// The answer, where the lines have one; else the status of the whole request.
///
/// A request with one text that is refused is answered as one of several would be: with an error for this text.
fn of_lines(lines: &[Line], answer: v1::ClassifyResponse) -> Result<v1::ClassifyResponse, Status> {
    let Some(error) = answer.error else { return Ok(answer) };
    let texts = lines.iter().filter(|line| matches!(line, Line::Text(_))).count();
    if texts == 1 && error.field.starts_with("inputs[0]") {
        let prediction = v1::Prediction { error: Some(error), ..v1::Prediction::default() };
        return Ok(v1::ClassifyResponse { predictions: vec![prediction], error: None, ..answer });
    }
    Err(Status::new(Code::from(error.code), error.message))
}

fn request(wish: &v1::ClassifyRequest, lines: &[Line]) -> v1::ClassifyRequest {
    let input = |line: &Line| match line {
        Line::Text(text) => Some(v1::Input { text: text.clone(), text_pair: None }),
        Line::Bad { .. } => None,
    };
    v1::ClassifyRequest { inputs: lines.iter().filter_map(input).collect(), ..wish.clone() }
}

/// What became of the lines so far.
#[derive(Debug, Default)]
struct Tally {
    lines: u64,
    bad: u64,
    /// Its number, why it cannot be classified, and what to do about it.
    first_bad: Option<(u64, String, Option<String>)>,
    cut: u64,
    /// Tokens that were kept of a text that was cut: what the model takes.
    kept: u32,
}

impl Tally {
    fn count(&mut self, lines: &[Line], answer: Option<&v1::ClassifyResponse>) {
        let predictions = answer.map_or(&[][..], |answer| &answer.predictions);
        let mut rest = predictions.iter();
        for line in lines {
            self.lines += 1;
            let bad = match line {
                Line::Text(_) => rest.next().and_then(refusal).map(|why| (why, None)),
                Line::Bad { why, .. } => Some((why.words().to_owned(), why.hint())),
            };
            if let Some((why, hint)) = bad {
                self.bad += 1;
                self.first_bad.get_or_insert((self.lines, why, hint));
            }
        }
        for prediction in predictions.iter().filter(|prediction| prediction.truncated) {
            self.cut += 1;
            self.kept = self.kept.max(prediction.tokens);
        }
    }

    /// Says on standard error how many texts were not read to their end; JSON has it with each answer.
    fn tell_cuts(&self, output: &mut Output<'_>) {
        if self.cut > 0 && !output.is_json() {
            let (cut, texts) =
                (format::count(self.cut), format::plural(self.lines - self.bad, "text", "texts"));
            let verb = if self.cut == 1 { "was" } else { "were" };
            let most = self.kept;
            output
                .note(&format!("note: {cut} of {texts} {verb} cut: the model reads {most} tokens of a text"));
        }
    }

    fn verdict(&self, what: &str) -> Result<(), Error> {
        let Some((place, why, hint)) = &self.first_bad else { return Ok(()) };
        let (bad, all) = (format::count(self.bad), format::plural(self.lines, what, &format!("{what}s")));
        let error = Error::new(
            Kind::Refused,
            format!("{bad} of {all} could not be classified; the first is {what} {place}: {why}"),
        );
        Err(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        })
    }
}

/// Shows the answers of one request in the order of its lines, with one write.
fn show(lines: &[Line], answer: Option<&v1::ClassifyResponse>, output: &mut Output<'_>) -> Result<(), Error> {
    let predictions = answer.map_or(&[][..], |answer| &answer.predictions);
    if predictions.len() != lines.iter().filter(|line| matches!(line, Line::Text(_))).count() {
        return Err(Error::other("the daemon's answer does not have one label for each text"));
    }
    let mut predictions = predictions.iter();
    let mut block = String::new();
    for line in lines {
        let text = match line {
            Line::Text(text) => match (predictions.next(), answer) {
                (Some(prediction), Some(answer)) if output.is_json() => match refusal(prediction) {
                    Some(why) => bad_json(text, &why).to_string(),
                    None => prediction_json(text, prediction, answer).to_string(),
                },
                (Some(prediction), _) => row(text, Some(prediction), output),
                (None, _) => continue,
            },
            Line::Bad { text, why } if output.is_json() => bad_json(text, why.words()).to_string(),
            Line::Bad { text, .. } => row(text, None, output),
        };
        block.push_str(&text);
        block.push('\n');
    }
    if block.is_empty() { Ok(()) } else { output.raw(block.as_bytes()) }
}

/// Why the daemon gives a text no answer, if it gives none.
fn refusal(prediction: &v1::Prediction) -> Option<String> {
    prediction.error.as_ref().map(|error| with_flags(&error.message))
}

/// What stands between the labels of a text, and between their scores.
const BETWEEN: &str = "|";

/// Whether the model gives a text any number of labels.
fn has_several(prediction: &v1::Prediction) -> bool {
    prediction.scores.iter().any(|score| score.threshold.is_some())
}

/// The label and its score; of a model that gives any number of labels, all that are set, and none when none is.
fn answer(prediction: &v1::Prediction) -> (String, String) {
    if !has_several(prediction) {
        return (format::one_line(&prediction.label), format!("{:.4}", prediction.score));
    }
    let score = |label: &String| prediction.scores.iter().find(|score| score.label == *label);
    let scores = prediction.labels.iter().filter_map(score).map(|score| format!("{:.4}", score.score));
    (format::one_line(&prediction.labels.join(BETWEEN)), scores.collect::<Vec<_>>().join(BETWEEN))
}

/// For people an aligned row that fits; for a pipe LABEL, SCORE and the whole TEXT with tabs between them.
fn row(text: &str, prediction: Option<&v1::Prediction>, output: &Output<'_>) -> String {
    let text = format::one_line(text);
    let prediction = prediction.filter(|prediction| prediction.error.is_none());
    let (label, score) = prediction.map_or_else(|| ("-".to_owned(), "-".to_owned()), answer);
    let Some(width) = output.width() else {
        return format!("{label}\t{score}\t{text}");
    };
    let cut = if prediction.is_some_and(|prediction| prediction.truncated) { "(cut)" } else { "" };
    if prediction.is_some_and(has_several) {
        let label = if label.is_empty() { "(none)" } else { &label };
        let line = [&output.paint().bold(label), score.as_str(), cut, &text].map(str::to_owned);
        let line = line.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ");
        return console::truncate_str(&line, width, "…").into_owned();
    }
    let labels = prediction.map_or(&[][..], |prediction| &prediction.scores);
    let widest = labels.iter().map(|score| console::measure_text_width(&score.label)).max().unwrap_or(0);
    let label = if label.is_empty() { "(none)" } else { &label };
    let label = console::pad_str(label, widest.clamp(1, 20), console::Alignment::Left, Some("…"));
    let cut = if cut.is_empty() { String::new() } else { format!("  {cut}") };
    let line = format!("{}  {score:<6}{cut}  {text}", output.paint().bold(&label));
    console::truncate_str(&line, width, "…").into_owned()
}

fn prediction_json(text: &str, prediction: &v1::Prediction, answer: &v1::ClassifyResponse) -> Value {
    let mut scores: Vec<_> = prediction.scores.iter().collect();
    scores.sort_by(|a, b| a.label.cmp(&b.label));
    let logits = scores.iter().filter_map(|score| Some((score.label.clone(), json::float(score.logit?))));
    let logits: Map<String, Value> = logits.collect();
    let scores: Map<String, Value> =
        scores.into_iter().map(|score| (score.label.clone(), json::float(score.score))).collect();
    let mut object = json!({
        "text": text,
        "label": Some(&prediction.label).filter(|label| !label.is_empty()),
        "score": json::float(prediction.score),
        "scores": scores,
        "model": format!("{}@{}", answer.model, answer.version),
        "weights_sha256": answer.weights_sha256,
        "tokens": prediction.tokens,
        "truncated": prediction.truncated,
    });
    if let Value::Object(object) = &mut object {
        if has_several(prediction) {
            object.insert("labels".into(), json!(prediction.labels));
        }
        if !logits.is_empty() {
            object.insert("logits".into(), logits.into());
        }
        if !answer.request_id.is_empty() {
            object.insert("id".into(), json!(answer.request_id));
        }
    }
    object
}

/// A line that has no label keeps its place and its form.
fn bad_json(text: &str, why: &str) -> Value {
    json!({
        "text": text,
        "label": null,
        "score": null,
        "scores": {},
        "model": null,
        "weights_sha256": null,
        "tokens": 0,
        "truncated": false,
        "error": why,
    })
}
