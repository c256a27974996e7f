"""Real text that every Python ships with: the documentation and comments of its standard library, as word tokens.

Source files are parsed, never imported. The text depends on the Python installation and on nothing else.
"""

import ast
import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SKIP = {"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "encodings", "__pycache__"}
TOPICS = "pydoc_data/topics.py"  # the language reference behind `help("assert")`: a dict of prose
UNKNOWN, END = "<unk>", "<end>"  # a word outside the vocabulary; the end of a comment or documentation string
TOKEN = re.compile(r"[A-Za-z]+|\d|([^\sA-Za-z\d])\1*")  # a word, a digit, or one mark, however often: "..." "----"
SPLITS = ("train", "validation", "test")
Document = list[str]  # paragraphs, in the order of the source


class Vocabulary(NamedTuple):
    """The most frequent tokens of the training documents; the rest is `<unk>`."""

    words: list[str]  # [C], `<unk>` first, then by falling count
    index: dict[str, int]  # word -> class
    counts: np.ndarray  # [C] occurrences in the training documents, >= 1


class Windows(NamedTuple):
    """Pieces of documents, in which each position is to predict the next token."""

    inputs: np.ndarray  # [N, T] int32
    labels: np.ndarray  # [N, T] int32, the inputs one position later
    mask: np.ndarray  # [N, T] float32, 0 after the end of a document


def read_documents(root: Path | None = None) -> dict[str, Document]:
    """Name -> document: one per source file of the standard library with any prose in it, one per pydoc topic.

    Args:
      root: the folder to read; None is the running Python's standard library.

    Raises:
      FileNotFoundError: root holds no Python source.
    """
    root = Path(sysconfig.get_path("stdlib") if root is None else root)
    paths = [p for p in sorted(root.rglob("*.py")) if not SKIP & set(p.relative_to(root).parts)]
    if not paths:
        raise FileNotFoundError(f"root={root}: must hold the sources (*.py) of the standard library")
    documents: dict[str, Document] = {}
    for path in paths:
        name, source = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8", errors="replace")
        try:
            tree = ast.parse(source)
        except SyntaxError:  # templates and deliberate mistakes
            continue
        documents |= topics(tree) if name == TOPICS else {name: prose(tree, source)}
    return {name: document for name, document in documents.items() if document}


def topics(tree: ast.Module) -> dict[str, Document]:
    """Each entry of the one dict of strings in `pydoc_data/topics.py` is a document."""
    tables = (ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.Dict))
    return {f"{TOPICS}:{topic}": [text] for table in tables for topic, text in table.items()}


def prose(tree: ast.Module, source: str) -> Document:
    """Documentation strings, and comments that have lines of their own, as in the source from top to bottom."""
    found: dict[int, str] = {}
    within: set[int] = set()  # lines inside of strings, where a # begins no comment
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found[node.body[0].lineno] = text
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            within.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    comment = 0
    for number, line in enumerate(source.splitlines(), start=1):
        if number in within or not line.lstrip().startswith("#"):
            comment = 0
            continue
        comment = comment or number  # lines without code between them are one comment
        found[comment] = f"{found.get(comment, '')}\n{line.lstrip().lstrip('#')}"
    return [text for _, text in sorted(found.items()) if text.strip()]


def split_of(name: str) -> str:
    """ "train" (80 % of the documents), "validation" or "test" (10 % each), by a hash of the document's name."""
    digit = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10
    return SPLITS[max(0, digit - 7)]


def tokenize(document: Document) -> Iterator[str]:
    """The tokens of each paragraph, and `<end>`."""
    for text in document:
        yield from (match.group(0) for match in TOKEN.finditer(text))
        yield END


def build_vocabulary(documents: Iterable[Document], size: int) -> Vocabulary:
    """`<unk>`, `<end>` and the most frequent tokens (ties: in alphabetical order); `<unk>` stands for the others.

    Args:
      documents: those to train on.
      size: number of classes C, >= 3.

    Raises:
      ValueError: the documents do not have more different tokens than that, so that `<unk>` would never be trained.
    """
    counter = Counter(token for document in documents for token in tokenize(document))
    ends = counter.pop(END, 0)
    if not 3 <= size < len(counter) + 2:
        raise ValueError(f"vocabulary={size}: must be >= 3 and < {len(counter) + 2}, the different tokens of the text")
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    kept, rest = ranked[: size - 2], ranked[size - 2 :]
    words = [UNKNOWN, END, *(word for word, _ in kept)]
    counts = np.array([sum(count for _, count in rest), ends, *(count for _, count in kept)])
    return Vocabulary(words, {word: label for label, word in enumerate(words)}, counts)


def encode(document: Document, vocabulary: Vocabulary) -> np.ndarray:
    """Classes [L] int32 of the document's tokens."""
    return np.array([vocabulary.index.get(token, 0) for token in tokenize(document)], np.int32)


def decode(labels: Sequence[int] | np.ndarray, vocabulary: Vocabulary) -> Document:
    """Paragraphs of words with a blank between them; line breaks and indentation are lost."""
    paragraphs = " ".join(vocabulary.words[label] for label in labels).split(END)
    return [text.strip() for text in paragraphs if text.strip()]


def windows(documents: Iterable[Document], vocabulary: Vocabulary, length: int) -> Windows:
    """Cuts each document into pieces of `length` tokens, the last one padded; the first token is predicted too."""
    inputs, labels, masks = [], [], []
    for document in documents:
        target = encode(document, vocabulary)
        source = np.concatenate([[vocabulary.index[END]], target[:-1]])
        pad = -len(target) % length
        for found, array in ((inputs, source), (labels, target), (masks, np.ones(len(target)))):
            found.append(np.pad(array, (0, pad)).reshape(-1, length))
    return Windows(
        np.concatenate(inputs).astype(np.int32),
        np.concatenate(labels).astype(np.int32),
        np.concatenate(masks).astype(np.float32),
    )
