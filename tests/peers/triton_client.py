"""The client of Triton Inference Server against a daemon: triton_client.py HOST:PORT MODEL TEXTS.

TEXTS is a file with a text in each line. Prints the labels, a line each.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, model, path = sys.argv[1:]
texts = open(path, encoding="utf-8").read().splitlines()
client = triton.InferenceServerClient(address)

assert client.is_server_live() and client.is_server_ready()
assert client.get_server_metadata().name == "hone"
assert client.is_model_ready(model) and not client.is_model_ready("nobody")
metadata = client.get_model_metadata(model)
assert [tensor.name for tensor in metadata.inputs] == ["text"], metadata
shapes = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs}
labels = shapes["scores"][1][1]
assert shapes["label"] == ("BYTES", [-1]) and shapes["logits"] == ("FP32", [-1, labels]), shapes


def inputs(texts, shape=None):
    tensor = triton.InferInput("text", shape or [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object).reshape(tensor.shape()))
    return [tensor]


# Everything that is there without being asked for, and what is asked for by name.
answer = client.infer(model, inputs(texts), request_id="mine", priority=1, timeout=60_000_000)
assert answer.get_response().id == "mine" and answer.get_response().model_version == metadata.versions[0]
label, score, scores = (answer.as_numpy(name) for name in ("label", "score", "scores"))
assert scores.shape == (len(texts), labels) and np.allclose(scores.sum(axis=1), 1, atol=1e-5)
assert np.array_equal(scores.max(axis=1), score)
assert answer.as_numpy("logits") is None
asked = [triton.InferRequestedOutput("logits"), triton.InferRequestedOutput("scores", class_count=2)]
column = client.infer(model, inputs(texts, [len(texts), 1]), metadata.versions[0], outputs=asked)
logits = column.as_numpy("logits")
exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
assert np.allclose(exponentials / exponentials.sum(axis=1, keepdims=True), scores, atol=1e-5)
for row, classes in enumerate(column.as_numpy("scores")):
    value, index, name = classes[0].decode().split(":", 2)
    assert name.encode() == label[row] and int(index) == scores[row].argmax()
    assert abs(float(value) - score[row]) < 1e-5

# Errors name what is wrong.
for wrong in (
    lambda: client.infer("nobody", inputs(texts)),
    lambda: client.infer(model, inputs(texts), parameters={"temperature": 1}),
    lambda: client.infer(model, [triton.InferInput("ids", [1], "INT64").set_data_from_numpy(np.zeros(1, np.int64))]),
):
    try:
        wrong()
        raise AssertionError("it is answered")
    except InferenceServerException as error:
        assert error.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND"), error

# A stream goes on behind an error.
answers = queue.Queue()
client.start_stream(lambda result, error: answers.put((result, error)))
for name in (model, "nobody", model):
    client.async_stream_infer(name, inputs(texts[:1]), request_id=name)
first, failed, last = (answers.get(timeout=60) for _ in range(3))
client.stop_stream()
assert first[1] is None and last[1] is None and "nobody" in str(failed[1]), failed
assert first[0].as_numpy("label")[0] == last[0].as_numpy("label")[0] == label[0]

# The repository.
index = lambda: {(entry.name, entry.version): entry.state for entry in client.get_model_repository_index().models}
version = (model, metadata.versions[0])
assert index()[version] == "READY", index()
client.unload_model(model)
assert index()[version] == "UNAVAILABLE", index()
client.load_model(model)
assert index()[version] == "READY", index()

print("\n".join(label.decode() for label in label))
