#!/usr/bin/env python3
"""The peer of the retrieval benches: BM25 by bm25s, dense vectors by ONNX Runtime, both fused by reciprocal ranks.

    retrieval.py fusion --model DIR --data FOLDER     figures of one collection in the BEIR layout
    retrieval.py embed  --model DIR --texts FILE      texts embedded per second

Prints one JSON object. Deterministic but for times. DIR holds `model.onnx` and `tokenizer.json` of a BERT-like sentence
encoder. FOLDER holds `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`. FILE has one JSON object with `text` (and perhaps
`title`), or one JSON string, in each line.

Needs: pip install bm25s PyStemmer onnxruntime tokenizers numpy

Exit codes: 0 done, 2 wrong arguments or files, 3 a package is missing.
"""

import argparse
import itertools
import json
import math
import pathlib
import platform
import sys
import time
from importlib.metadata import version

PACKAGES = ["bm25s", "PyStemmer", "onnxruntime", "tokenizers", "numpy"]
try:
    import bm25s
    import numpy as np
    import onnxruntime
    import Stemmer
    from tokenizers import Tokenizer
except ImportError as error:
    print(f"retrieval.py: {error}; run: {sys.executable} -m pip install {' '.join(PACKAGES)}", file=sys.stderr)
    sys.exit(3)

MAX_TOKENS = 256  # the model's own limit, with [CLS] and [SEP]
K1, B = 0.9, 0.4
DEPTH, RRF_K = 100, 60  # of each list that is fused
BATCHES = [1, 8, 16, 32]


def versions():
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def full_text(record):
    """Title and text; the title only once where the text already begins with it."""
    title, text = record.get("title", "").strip(), record.get("text", "").strip()
    return text if text.startswith(title) else f"{title} {text}".strip()


def read_lines(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def read_collection(folder):
    """Texts, judged queries, and for each query the positions of its relevant documents, whatever their grade."""
    documents, queries = read_lines(folder / "corpus.jsonl"), read_lines(folder / "queries.jsonl")
    position = {document["_id"]: i for i, document in enumerate(documents)}
    relevant = {}
    with open(folder / "qrels.tsv", encoding="utf-8") as lines:
        for query, document, score in (line.split() for line in itertools.islice(lines, 1, None) if line.strip()):
            if int(score) > 0:
                relevant.setdefault(query, set()).add(position[document])
    queries = [query for query in queries if query["_id"] in relevant]
    return [full_text(d) for d in documents], queries, [relevant[query["_id"]] for query in queries]


class Encoder:
    """Mean of the token vectors over the attention mask, then length 1."""

    def __init__(self, folder, threads, spinning=False):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()  # the file may ask for padding and truncation of its own
        self.tokenizer.enable_truncation(MAX_TOKENS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Its default is to spin; on two cores that may gain or lose.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def tokens(self, texts):
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def run(self, batch):
        ids = np.zeros((len(batch), max(map(len, batch))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = self.session.run(None, inputs)[0]
        mean = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)

    def embed(self, texts):
        return np.vstack([self.run([tokens]) for tokens in self.tokens(texts)])


def best(scores, at_least):
    """The positions of the highest scores, the earlier document first among equals."""
    order = np.argsort(-scores, kind="stable")[:DEPTH]
    return [int(i) for i in order if scores[i] > at_least]


def lexical(texts, queries):
    def words(lines):
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(lines, stopwords="english", stemmer=stemmer, return_ids=False, show_progress=False)

    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index(words(texts), show_progress=False)
    nothing = np.zeros(len(texts), dtype=np.float32)
    return [best(index.get_scores(terms) if terms else nothing, 0.0) for terms in words(queries)]


def dense(encoder, texts, queries):
    documents = encoder.embed(texts)
    return [best(documents @ query, -math.inf) for query in encoder.embed(queries)]


def fuse(lists):
    """Reciprocal rank fusion; among equals, which are common, the first list decides."""
    scores = {}
    for ranking in lists:
        for rank, document in enumerate(ranking, start=1):
            scores[document] = scores.get(document, 0.0) + 1.0 / (RRF_K + rank)
    return sorted(scores, key=scores.get, reverse=True)[:DEPTH]


def ndcg(ranking, relevant, depth=10):
    """As trec_eval's ndcg_cut with gains of 0 and 1: discount log2(rank + 1), ideal over all relevant documents."""
    discounts = [1.0 / math.log2(rank + 1) for rank in range(1, depth + 1)]
    gained = sum(d for d, document in zip(discounts, ranking) if document in relevant)
    return gained / sum(discounts[: len(relevant)])


def figures(rankings, relevant):
    judged = list(zip(rankings, relevant))
    per_query = [ndcg(ranking, good) for ranking, good in judged]

    def recall(depth):
        return float(np.mean([len(good.intersection(ranking[:depth])) / len(good) for ranking, good in judged]))

    first = [next((1.0 / r for r, d in enumerate(ranking, start=1) if d in good), 0.0) for ranking, good in judged]
    return {
        "ndcg_10": round(float(np.mean(per_query)), 4),
        "recall_10": round(recall(10), 4),
        "recall_100": round(recall(100), 4),
        "mrr": round(float(np.mean(first)), 4),  # over the DEPTH best
        "ndcg_10_per_query": [round(value, 4) for value in per_query],
    }


def fusion(arguments):
    texts, queries, relevant = read_collection(arguments.data)
    asked = [query["text"] for query in queries]
    encoder = Encoder(arguments.model, arguments.threads)
    by_words, by_meaning = lexical(texts, asked), dense(encoder, texts, asked)
    fused = [fuse(pair) for pair in zip(by_words, by_meaning)]
    return {
        "collection": arguments.data.resolve().name,
        "documents": len(texts),
        "queries": [query["_id"] for query in queries],
        "settings": {"k1": K1, "b": B, "depth": DEPTH, "rrf_k": RRF_K, "max_tokens": MAX_TOKENS},
        "bm25": figures(by_words, relevant),
        "dense": figures(by_meaning, relevant),
        "rrf": figures(fused, relevant),
    }


def rate(encoder, tokens, size):
    """Texts per second in batches of equal lengths; the longest and the middle batch come first, not counted."""
    batches = [tokens[i : i + size] for i in range(0, len(tokens), size)]
    for warm_up in (batches[-1], batches[len(batches) // 2]):
        encoder.run(warm_up)
    start = time.perf_counter()
    for batch in batches:
        encoder.run(batch)
    return len(tokens) / (time.perf_counter() - start)


def embed(arguments):
    records = read_lines(arguments.texts)
    if not records:
        raise ValueError(f"{arguments.texts} has no line")
    encoders = {spinning: Encoder(arguments.model, arguments.threads, spinning) for spinning in (False, True)}
    start = time.perf_counter()
    tokens = sorted(encoders[False].tokens([r if isinstance(r, str) else full_text(r) for r in records]), key=len)
    tokenising = time.perf_counter() - start
    sizes = [arguments.batch] if arguments.batch else BATCHES
    rates = {(size, spinning): rate(encoders[spinning], tokens, size) for size in sizes for spinning in encoders}
    size, spinning = best_way = max(rates, key=rates.get)
    return {
        "texts": len(tokens),
        "mean_tokens": round(float(np.mean([len(t) for t in tokens])), 1),
        "threads": arguments.threads,
        "batch": size,
        "spinning": spinning,
        # Tokenising counts: whoever embeds has to do it.
        "texts_per_second": round(len(tokens) / (len(tokens) / rates[best_way] + tokenising), 3),
        "inference_only": {
            f"{size}{' spinning' if spins else ''}": round(value, 3) for (size, spins), value in rates.items()
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("fusion", fusion), ("embed", embed)):
        command = commands.add_parser(name)
        command.add_argument("--model", type=pathlib.Path, required=True, help="has model.onnx and tokenizer.json")
        command.add_argument("--threads", type=int, default=2)
        command.set_defaults(run=run)
    commands.choices["fusion"].add_argument("--data", type=pathlib.Path, required=True, help="BEIR layout")
    commands.choices["embed"].add_argument("--texts", type=pathlib.Path, required=True, help="JSON lines")
    commands.choices["embed"].add_argument("--batch", type=int, default=0, help="0: the best of 1, 8, 16 and 32")
    arguments = parser.parse_args()
    try:
        for name in ("model.onnx", "tokenizer.json"):
            if not (arguments.model / name).is_file():
                raise FileNotFoundError(f"{arguments.model} has no {name}")
        print(json.dumps({"versions": versions()} | arguments.run(arguments)))
    except (OSError, ValueError, KeyError) as error:
        print(f"retrieval.py: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
