"""Plain HTTP against a daemon: plain_http.py HOST:PORT MODEL TEXTS.

TEXTS is a file with a text in each line. Prints the labels, a line each. Nothing but the standard library is needed.
"""

import json
import sys
import urllib.error
import urllib.request

address, model, path = sys.argv[1:]
texts = open(path, encoding="utf-8").read().splitlines()


def call(path, body=None, **headers):
    """The status, the headers and the JSON of a response."""
    data = None if body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{address}{path}", data, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)


assert call("/health")[2] == {"status": "serving"}
status, _, answer = call("/v1/classify", {"model": model, "texts": texts, "return_logits": True, "request_id": "mine"})
assert status == 200 and answer["request_id"] == "mine" and answer["model"] == model, answer
labels = [prediction["label"] for prediction in answer["predictions"]]
assert len(labels) == len(texts) and all("logit" in score for score in answer["predictions"][0]["scores"])

status, headers, ranks = call("/predict", {"inputs": texts[0], "truncate": True}, x_model=model)
assert status == 200 and ranks[0]["label"] == labels[0] and int(headers["x-compute-tokens"]) > 0, (status, ranks)
batch = {"inputs": [[text] for text in texts], "truncate": True}
assert [ranks[0]["label"] for ranks in call("/predict", batch, x_model=model)[2]] == labels
assert isinstance(call("/predict", {"inputs": [texts[0], "a second text"]}, x_model=model)[2][0], dict), "a pair"
info = call("/info", x_model=model)[2]
assert set(info["model_type"]["classifier"]["label2id"]) == set(score["label"] for score in ranks)

long = "wonderful " * (info["max_input_length"] + 1)
status, _, failed = call("/predict", {"inputs": long}, x_model=model)
assert status == 400 and failed["error_type"] == "validation" and "tokens" in failed["error"], failed
status, _, answer = call("/v1/classify", {"model": model, "texts": [texts[0], long], "truncation_side": "none"})
assert status == 200 and answer["predictions"][1]["error"]["field"] == "inputs[1].text", answer
assert call("/v1/classify", {"model": "nobody", "texts": texts})[0] == 404
status, _, failed = call("/v1/classify", {"model": model, "text": texts})
assert status == 400 and "text" in failed["error"]["message"], failed
assert call("/v1/classify")[0] == 405
assert call("/nothing")[0] == 404

print("\n".join(labels))
