"""The mini model's text side: a tokenizer of whole words and a small encoder of Wan's class.

The captions' own words are the vocabulary, so a few dozen tokens say any caption; a word outside it becomes <unk>, so
any prompt is legal. Case and punctuation are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
MAX_TOKENS = 32


def make_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the captions' words; a text is at most MAX_TOKENS tokens, the last of them </s>."""
    words = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("removed")]
    )
    found = {
        word for caption in captions for word, _ in _split(words, caption) if any(map(str.isalnum, word))
    }
    vocabulary = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *sorted(found)])}
    words.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    words.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
    )


def _split(words: Tokenizer, caption: str) -> list[tuple[str, tuple[int, int]]]:
    return words.pre_tokenizer.pre_tokenize_str(words.normalizer.normalize_str(caption))


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    """An untrained encoder: hidden states (B, tokens, 64)."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_heads=4,
            num_layers=2,
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
