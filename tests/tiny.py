"""Models of a few thousand weights with the built-in model's tokenizer, as folders that every command takes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from harness.models.builtin import builtin_folder, quiet_transformers


@cache
def tokenizer() -> Any:
    """Return the built-in model's tokenizer, read once; take it as it is."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(builtin_folder()[0]))


def tiny_decoder(folder: Path, seed: int = 0, heads: int = 4) -> Path:
    """Write a Llama of two layers and width 32; with one head vLLM's CPU build takes it too."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    quiet_transformers()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=min(2, heads),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    # Larger than the library's start, so that what goes in decides what comes out.
    model.get_input_embeddings().weight.data.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tiny_encoder_decoder(folder: Path) -> Path:
    """Write a T5 of two layers and width 32."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    quiet_transformers()
    torch.manual_seed(0)
    words = tokenizer()
    config = T5Config(
        vocab_size=len(words),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=words.eos_token_id,
        dropout_rate=0.0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def tiny_encoder(folder: Path, words: Iterable[str], seed: int = 0) -> Path:
    """Write a BERT of two layers and width 32 with a masked-LM head, whose vocabulary is some words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    quiet_transformers()
    torch.manual_seed(seed)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,:?!"]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys([*names, *(word.lower() for word in words)]))}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokens = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
