//! Calls as they go over the wire: encoded once, sent many times.

use std::time::Duration;

use clap::ValueEnum;
use hone::v1::{ClassifyRequest, ClassifyResponse, Input};
use hone_base::error::{Error, Result};
use prost::Message;
use prost::bytes::{Buf as _, BufMut as _, Bytes};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::texts::Text;

/// What the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// `hone.v1.InferenceService/Classify`.
    Hone,
    /// `tei.v1.Predict/Predict`, which takes one text a call.
    Tei,
}

/// A call that is ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    body: Bytes,
    /// The label of each of its texts, where the file tells it.
    pub(crate) labels: Vec<Option<String>>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The best label of each text.
    pub(crate) labels: Vec<String>,
    /// Where the server's time went, if it tells.
    pub(crate) stages: Option<Stages>,
}

/// Milliseconds of a call in each of the server's stages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stages {
    pub(crate) tokenize: f64,
    pub(crate) queue: f64,
    pub(crate) compute: f64,
    pub(crate) total: f64,
}

impl Protocol {
    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Hone => "/hone.v1.InferenceService/Classify",
            Self::Tei => "/tei.v1.Predict/Predict",
        })
    }

    /// Calls of up to so many texts each, in the order of the texts.
    ///
    /// # Errors
    ///
    /// The protocol has no call of more than one text.
    pub(crate) fn calls(self, model: &str, texts: &[Text], texts_per_call: usize) -> Result<Vec<Call>> {
        if self == Self::Tei && texts_per_call != 1 {
            return Err(Error::invalid("tei.v1 has no call of several texts: leave --texts-per-call at 1"));
        }
        let call = |texts: &[Text]| {
            let body = match self {
                Self::Hone => hone_request(model, texts).encode_to_vec(),
                Self::Tei => texts.iter().flat_map(|text| tei_request(text).encode_to_vec()).collect(),
            };
            Call { body: body.into(), labels: texts.iter().map(|text| text.label.clone()).collect() }
        };
        Ok(texts.chunks(texts_per_call.max(1)).map(call).collect())
    }

    fn read(self, body: Bytes) -> Result<Answer, Status> {
        let broken =
            |error: prost::DecodeError| Status::internal(format!("the answer cannot be read: {error}"));
        match self {
            Self::Hone => ClassifyResponse::decode(body).map(of_hone).map_err(broken),
            Self::Tei => TeiResponse::decode(body).map(of_tei).map_err(broken),
        }
    }
}

fn hone_request(model: &str, texts: &[Text]) -> ClassifyRequest {
    let mut request = ClassifyRequest { model: model.to_owned(), ..Default::default() };
    let input = |text: &Text| Input { text: text.text.clone(), ..Default::default() };
    request.inputs = texts.iter().map(input).collect();
    request
}

fn of_hone(answer: ClassifyResponse) -> Answer {
    let stages = answer.timings.map(|of| Stages {
        tokenize: of.tokenize_ms,
        queue: of.queue_ms,
        compute: of.compute_ms,
        total: of.total_ms,
    });
    Answer { labels: answer.predictions.into_iter().map(|of| of.label).collect(), stages }
}

/// The fields of `tei.v1.PredictRequest` that are sent.
#[derive(Clone, PartialEq, Message)]
struct TeiRequest {
    #[prost(string, tag = "1")]
    inputs: String,
    #[prost(bool, tag = "2")]
    truncate: bool,
}

/// `tei.v1.PredictResponse`.
#[derive(Clone, PartialEq, Message)]
struct TeiResponse {
    #[prost(message, repeated, tag = "1")]
    predictions: Vec<TeiPrediction>,
    #[prost(message, optional, tag = "2")]
    metadata: Option<TeiMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct TeiPrediction {
    #[prost(float, tag = "1")]
    score: f32,
    #[prost(string, tag = "2")]
    label: String,
}

/// The fields of `tei.v1.Metadata` that are shown.
#[derive(Clone, PartialEq, Message)]
struct TeiMetadata {
    #[prost(uint64, tag = "3")]
    total_time_ns: u64,
    #[prost(uint64, tag = "4")]
    tokenization_time_ns: u64,
    #[prost(uint64, tag = "5")]
    queue_time_ns: u64,
    #[prost(uint64, tag = "6")]
    inference_time_ns: u64,
}

fn tei_request(text: &Text) -> TeiRequest {
    TeiRequest { inputs: text.text.clone(), truncate: true }
}

fn of_tei(answer: TeiResponse) -> Answer {
    let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
    let stages = answer.metadata.map(|of| Stages {
        tokenize: milliseconds(of.tokenization_time_ns),
        queue: milliseconds(of.queue_time_ns),
        compute: milliseconds(of.inference_time_ns),
        total: milliseconds(of.total_time_ns),
    });
    let best = answer.predictions.into_iter().max_by(|a, b| a.score.total_cmp(&b.score));
    Answer { labels: best.into_iter().map(|of| of.label).collect(), stages }
}

/// Connections to a server.
#[derive(Clone)]
pub(crate) struct Server {
    protocol: Protocol,
    path: PathAndQuery,
    connections: Vec<Grpc<Channel>>,
}

impl Server {
    /// So many connections, at least one; they open with the first calls.
    ///
    /// # Errors
    ///
    /// The address is none.
    pub(crate) fn new(address: &str, protocol: Protocol, connections: usize) -> Result<Self> {
        let endpoint = Channel::from_shared(address.to_owned())
            .map_err(|error| Error::invalid(format!("--address {address}: {error}")))?
            .tcp_nodelay(true);
        let connections = (0..connections.max(1)).map(|_| Grpc::new(endpoint.connect_lazy())).collect();
        Ok(Self { protocol, path: protocol.path(), connections })
    }

    /// Sends a call over the connection that its number falls to.
    ///
    /// # Errors
    ///
    /// The server's, the connection's, or that the deadline has passed.
    pub(crate) async fn send(
        &self,
        number: usize,
        call: &Call,
        deadline: Option<Duration>,
    ) -> Result<Answer, Status> {
        let connection = self.connections.get(number % self.connections.len());
        let mut connection = connection.ok_or_else(|| Status::internal("no connection"))?.clone();
        connection.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(call.body.clone());
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        let answer = connection.unary(request, self.path.clone(), Raw).await?;
        self.protocol.read(answer.into_inner())
    }
}

/// Messages as the bytes that they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, body: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(body);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(number: usize) -> Vec<Text> {
        (0..number).map(|row| Text { text: format!("text {row}"), label: Some(format!("{row}")) }).collect()
    }

    #[test]
    fn every_text_is_in_one_call_and_calls_keep_the_order() {
        let calls = Protocol::Hone.calls("m@1", &texts(5), 2).unwrap();
        assert_eq!(calls.iter().map(|call| call.labels.len()).collect::<Vec<_>>(), [2, 2, 1]);
        let sent: Vec<String> = calls
            .iter()
            .map(|call| ClassifyRequest::decode(call.body.clone()).unwrap())
            .inspect(|request| assert_eq!(request.model, "m@1"))
            .flat_map(|request| request.inputs.into_iter().map(|input| input.text))
            .collect();
        assert_eq!(sent, ["text 0", "text 1", "text 2", "text 3", "text 4"]);
    }

    #[test]
    fn tei_takes_one_text_a_call_and_its_answer_is_the_best_prediction() {
        assert!(Protocol::Tei.calls("", &texts(2), 2).is_err());
        assert_eq!(Protocol::Tei.calls("", &texts(2), 1).unwrap().len(), 2);
        let prediction = |score, label: &str| TeiPrediction { score, label: label.to_owned() };
        let answer =
            TeiResponse { predictions: vec![prediction(0.1, "a"), prediction(0.9, "b")], metadata: None };
        let read = Protocol::Tei.read(answer.encode_to_vec().into()).unwrap();
        assert_eq!(read, Answer { labels: vec!["b".to_owned()], stages: None });
    }

    #[test]
    fn an_answer_that_is_none_is_an_error_and_no_panic() {
        assert!(Protocol::Hone.read(Bytes::from_static(&[0xff])).is_err());
    }
}
