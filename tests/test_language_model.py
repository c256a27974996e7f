"""examples/language_model: real text, split by document; padding is not there; the vocabulary can be sharded."""

import functools
import io
import json
import re
import sysconfig
import tokenize
from pathlib import Path

import chex
import jax
import numpy as np
import optax
import pytest

from examples.language_model import __main__ as command
from examples.language_model import scores, text
from examples.language_model.train import (
    Budget,
    Method,
    Windows,
    log_prior,
    make_trainer,
    shard_classes,
    token_losses,
    vocabulary_mesh,
)

DEVICES = 8
BUDGET = Budget(
    steps=8, batch=4, context=8, width=8, layers=1, vocabulary=4104
)  # above dense_limit, as a vocabulary is
COUNTS = np.maximum(1, 5000 // np.arange(1, BUDGET.vocabulary + 1))
LPG = Method(tau=0.5, epsilon=0.2, slope=0.3)


# text


@pytest.fixture(scope="module")
def documents():
    return text.read_documents(Path(json.__file__).parent)


def test_a_known_sentence(documents):
    """The first words of `json`, whose source is read anew to the same text."""
    assert documents["__init__.py"][0].startswith("JSON (JavaScript Object Notation)")
    assert text.read_documents(Path(json.__file__).parent) == documents


def test_comments_are_those_of_the_tokenizer(documents):
    """Python's own tokenizer finds the same comments; here they are found without it, 20 times as fast."""
    number = 0
    for name in documents:
        source = (Path(json.__file__).parent / name).read_text()
        expected = [t.string.lstrip("#").strip() for t in tokenize.generate_tokens(io.StringIO(source).readline)
                    if t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip()]  # fmt: skip
        lines = {line.strip() for paragraph in documents[name] for line in paragraph.splitlines()}
        assert set(expected) <= lines
        number += len(expected)
    assert number > 10


def test_sources_are_never_run(tmp_path):
    """Order of the source, comments of several lines, topics; tests and what does not parse are left out."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "a.py").write_text(
        '"""Top."""\nraise SystemExit  # not this\n# one\n# two\nx = """\n# no\n"""\n# three'
    )
    (tmp_path / "broken.py").write_text("# lost\nthis is no python")
    (tmp_path / "tests" / "b.py").write_text("# lost")
    (tmp_path / "pydoc_data" / "topics.py").write_text("# made\ntopics = {'assert': 'Assert it.', 'if': 'A branch.'}")
    found = text.read_documents(tmp_path)
    assert [line.strip() for line in "\n".join(found.pop("a.py")).split("\n")] == [
        "Top.",
        "",
        "one",
        "two",
        "",
        "three",
    ]
    assert found == {"pydoc_data/topics.py:assert": ["Assert it."], "pydoc_data/topics.py:if": ["A branch."]}
    with pytest.raises(FileNotFoundError, match="must hold the sources"):
        text.read_documents(tmp_path / "nothing")


def test_a_document_is_in_one_part():
    """By its name alone, on every machine: 80, 10 and 10 %."""
    names = [f"package/module{i}.py" for i in range(2000)]
    parts = [text.split_of(name) for name in names]
    assert parts == [text.split_of(name) for name in names]
    shares = [parts.count(split) / len(parts) for split in text.SPLITS]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.03)
    assert [text.split_of(name) for name in ("abc.py", "_aix_support.py", "base64.py")] == list(text.SPLITS)


def test_vocabulary():
    vocabulary = text.build_vocabulary([["b a b c_1 ----", "a b!"]], 5)
    assert vocabulary.words == [text.UNKNOWN, text.END, "b", "a", "!"]
    assert vocabulary.counts.tolist() == [4, 2, 3, 2, 1]  # c _ 1 ---- are unknown
    assert text.encode(["a z b"], vocabulary).tolist() == [3, 0, 2, 1]
    with pytest.raises(ValueError, match="vocabulary=9: must be >= 3 and < 9, the different tokens of the text"):
        text.build_vocabulary([["b a b c_1 ----", "a b!"]], 9)


def test_words_survive(documents):
    """encode(decode(x)) = x where every word is known, and no token of a new text is lost."""
    size = len({token for document in documents.values() for token in text.tokenize(document)})
    vocabulary = text.build_vocabulary(documents.values(), size)
    for document in documents.values():
        encoded = text.encode(document, vocabulary)
        if np.all(encoded != 0):
            np.testing.assert_array_equal(text.encode(text.decode(encoded, vocabulary), vocabulary), encoded)
        assert len(encoded) == len(list(text.tokenize(document)))
    assert re.sub(r"\s", "", documents["__init__.py"][0]) == "".join(text.tokenize(documents["__init__.py"][:1]))[:-5]


def test_windows_hold_each_token_once(documents):
    vocabulary = text.build_vocabulary(documents.values(), 100)
    cut = text.windows(documents.values(), vocabulary, 16)
    encoded = [text.encode(document, vocabulary) for document in documents.values()]
    there = cut.mask > 0
    np.testing.assert_array_equal(cut.labels[there], np.concatenate(encoded))
    shifted = [np.concatenate([[vocabulary.index[text.END]], labels[:-1]]) for labels in encoded]
    np.testing.assert_array_equal(cut.inputs[there], np.concatenate(shifted))
    assert 0 < np.sum(cut.mask == 0) < 16 * len(encoded)


# training


@functools.cache
def trainer_of(method, devices=1):
    return make_trainer(method, BUDGET, COUNTS, vocabulary_mesh(devices) if devices > 1 else None)


@functools.cache
def first_state():
    """NumPy arrays, because a step takes the buffers of its state."""
    return jax.tree.map(np.array, trainer_of(LPG).init(0))


def batch_of(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.zipf(1.2, (BUDGET.batch, BUDGET.context + 1)).astype(np.int32) % BUDGET.vocabulary
    mask = np.ones((BUDGET.batch, BUDGET.context), np.float32)
    mask[-1, 3:] = 0
    return Windows(tokens[:, :-1], tokens[:, 1:], mask)


def after(trainer, state, steps):
    for seed in range(steps):
        state, loss = jax.block_until_ready(trainer.step(state, batch_of(seed)))
    return state, float(loss)


def test_padding_is_not_there():
    """Whatever it holds, the new state is the same to the bit; the same change at a real token shows."""
    batch, new = batch_of(0), []
    for row, column in ((3, 5), (3, 5), (0, 5)):
        inputs, labels = batch.inputs.copy(), batch.labels.copy()
        if new:
            inputs[row, column], labels[row, column] = 4000, 4001
        new.append(trainer_of(LPG).step(first_state(), Windows(inputs, labels, batch.mask)))
    chex.assert_trees_all_equal(new[0], new[1])
    assert float(new[0][1]) != float(new[2][1])


def test_without_margins_lpg_is_the_plain_loss():
    """Adam's moments hold the gradient, and epsilon = 0 leaves LPG out; with margins the gradient is another."""
    without = Method(tau=LPG.tau)
    nothing = trainer_of(without).init(0).logit_state
    assert jax.tree.leaves(nothing) == []
    state, logit_state = first_state(), first_state().logit_state
    level = logit_state._replace(class_margin=np.zeros_like(logit_state.class_margin))
    plain, _ = trainer_of(without).step(state._replace(logit_state=nothing), batch_of(0))
    same, _ = trainer_of(LPG).step(state._replace(logit_state=level), batch_of(0))
    other, _ = trainer_of(LPG).step(state, batch_of(0))
    chex.assert_trees_all_close(same.opt_state, plain.opt_state, atol=1e-7)
    of_head = [optax.tree_utils.tree_get(s.opt_state, "mu")["head"]["kernel"] for s in (plain, other)]
    assert np.abs(of_head[0] - of_head[1]).max() > 1e-5


@pytest.mark.parametrize(("x64", "steps", "atol"), [(False, 1, 1e-5), (True, 4, 1e-10)])
def test_a_sharded_vocabulary_changes_nothing(x64, steps, atol):
    """The first step has a learning rate of 0: Adam's moments hold its gradient."""
    with jax.enable_x64(x64):
        state = jax.tree.map(lambda a: a.astype(np.float64) if x64 and a.dtype == np.float32 else a, first_state())
        shardings = shard_classes(state, BUDGET.vocabulary, vocabulary_mesh(DEVICES))
        one, loss = after(trainer_of(LPG), state, steps)
        many, same = after(trainer_of(LPG, DEVICES), jax.device_put(state, shardings), steps)
        chex.assert_trees_all_close(many, one, atol=atol)
        assert loss == pytest.approx(same, abs=atol)
        kernel, margin = many.params["head"]["kernel"], many.logit_state.class_margin
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(BUDGET.width, BUDGET.vocabulary // 8)}
        assert {shard.data.shape for shard in margin.addressable_shards} == {(BUDGET.vocabulary // 8,)}
        assert jax.tree.map(lambda leaf: leaf.sharding, many) == shardings
    assert np.abs(np.asarray(one.params["head"]["kernel"]) - state.params["head"]["kernel"]).max() > 0 or steps == 1


def test_no_device_holds_all_logits():
    """No array of tokens x C and no all-gather in the compiled step; one device has such arrays."""
    tokens = BUDGET.batch * BUDGET.context
    whole = re.compile(rf"\[(?:{tokens}|{BUDGET.batch},{BUDGET.context}),{BUDGET.vocabulary}\]")
    texts = []
    for devices in (1, DEVICES):
        state = first_state()
        if devices > 1:
            state = jax.device_put(state, shard_classes(state, BUDGET.vocabulary, vocabulary_mesh(devices)))
        texts.append(trainer_of(LPG, devices).step.lower(state, batch_of(0)).compile().as_text())
    alone, spread = texts
    assert whole.search(alone)
    assert not whole.search(spread)
    assert "all-reduce" in spread
    assert "all-gather" not in spread


def test_token_losses():
    """Against softmax in NumPy; padding is left out, and so are the rows that fill the last batch."""
    trainer, batch, params = trainer_of(LPG), batch_of(1), first_state().params
    shifts = np.outer([0.0, 0.5], log_prior(COUNTS))
    found = token_losses(trainer, params, batch, shifts, size=3)
    logits = np.asarray(trainer.logits(params, batch.inputs), np.float64)[batch.mask > 0]
    for shift, losses in zip(shifts, found, strict=True):
        z = logits + shift
        expected = np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), batch.labels[batch.mask > 0]]
        np.testing.assert_allclose(losses, expected, rtol=1e-4)


# scores and the command


def test_scores():
    counts, labels = np.array([500, 10, 2, 11]), np.array([0, 0, 0, 1, 2, 3])
    found = scores.score(np.array([1.0, 2.0, 3.0, 5.0, 8.0, 4.0]), labels, counts)
    assert found["overall"] == pytest.approx(23 / 6)
    assert found["rare"] == 6.5
    assert found["macro"] == pytest.approx((2 + 5 + 8 + 4) / 4)
    np.testing.assert_array_equal(found["bins"], [8, 5, 4, np.nan, np.nan, 2, np.nan, np.nan])
    mean, half = scores.interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, half) == (2, pytest.approx(4.303 / 3**0.5, rel=1e-3))


@pytest.mark.slow
def test_command(tmp_path):
    results = command.main(["--quick", "--seeds=1", f"--out={tmp_path}"])
    assert json.loads((tmp_path / "results.json").read_text())["facts"] == results["facts"]
    assert set(command.METHODS) <= set(results["test"])
    assert results["facts"]["train_tokens"] > 400_000
    assert (tmp_path / "nll.png").stat().st_size > 5000
    assert "abc.py" in text.read_documents(Path(sysconfig.get_path("stdlib")))
