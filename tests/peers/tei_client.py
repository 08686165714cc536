"""A client of text-embeddings-inference against a daemon: tei_client.py HOST:PORT MODEL TEXTS.

TEXTS is a file with a text in each line. Prints the labels, a line each. The stub is made from the fields of the public
definition, as such a client has it.
"""

import math
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

address, model, path = sys.argv[1:]
texts = open(path, encoding="utf-8").read().splitlines()
proto = pathlib.Path(__file__).parents[2] / "proto/tei/v1"
out = tempfile.mkdtemp()
code = protoc.main(["protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", "tei.proto"])
assert code == 0, "no stub"
sys.path.insert(0, out)
import tei_pb2 as tei  # noqa: E402
import tei_pb2_grpc as services  # noqa: E402

channel = grpc.insecure_channel(address)
named = [("x-model", model)]
info = services.InfoStub(channel).Info(tei.InfoRequest(), metadata=named)
assert info.model_id.startswith(model + "@") and info.model_type == tei.MODEL_TYPE_CLASSIFIER, info
predict = services.PredictStub(channel)

labels = []
for text in texts:
    answer, call = predict.Predict.with_call(tei.PredictRequest(inputs=text, truncate=True), metadata=named)
    scores = [prediction.score for prediction in answer.predictions]
    assert scores == sorted(scores, reverse=True) and abs(sum(scores) - 1) < 1e-5, scores
    headers = dict(call.initial_metadata())
    assert int(headers["x-compute-tokens"]) == answer.metadata.compute_tokens > 0, headers
    labels.append(answer.predictions[0].label)

# Raw scores are those of which the others are made.
raw = predict.Predict(tei.PredictRequest(inputs=texts[0], truncate=True, raw_scores=True), metadata=named).predictions
scores = predict.PredictPair(tei.PredictPairRequest(inputs=texts[:1], truncate=True), metadata=named).predictions
total = sum(math.exp(prediction.score) for prediction in raw)
for logit, score in zip(raw, scores):
    assert logit.label == score.label and abs(math.exp(logit.score) / total - score.score) < 1e-5

answers = predict.PredictStream((tei.PredictRequest(inputs=text, truncate=True) for text in texts), metadata=named)
assert [answer.predictions[0].label for answer in answers] == labels
pairs = (tei.PredictPairRequest(inputs=[text, text], truncate=True) for text in texts)
assert len(list(predict.PredictPairStream(pairs, metadata=named))) == len(texts)


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    raise AssertionError("it is answered")


long = "wonderful " * (info.max_input_length + 1)
assert code_of(lambda: predict.Predict(tei.PredictRequest(inputs=long), metadata=named)) == grpc.StatusCode.INVALID_ARGUMENT
for truncation in (tei.TRUNCATION_DIRECTION_RIGHT, tei.TRUNCATION_DIRECTION_LEFT):
    request = tei.PredictRequest(inputs=long, truncate=True, truncation_direction=truncation)
    assert predict.Predict(request, metadata=named).metadata.compute_tokens == info.max_input_length
request = tei.PredictPairRequest(inputs=["a", "b", "c"])
assert code_of(lambda: predict.PredictPair(request, metadata=named)) == grpc.StatusCode.INVALID_ARGUMENT
request = tei.PredictRequest(inputs="a")
assert code_of(lambda: predict.Predict(request, metadata=[("x-model", "nobody")])) == grpc.StatusCode.NOT_FOUND

print("\n".join(labels))
