"""A small random base of Kolors: SDXL's topology behind ChatGLM and a sentencepiece tokenizer."""

import atexit
import io
import shutil
import string
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import sentencepiece
from diffusers import DiffusionPipeline, KolorsPipeline
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from torch import nn

from tests.tiny_bases import tiny_xl, xl_unet


def kolors() -> DiffusionPipeline:
    parts = tiny_xl().components
    tokenizer = ChatGLMTokenizer(_pieces())
    return KolorsPipeline(
        vae=parts["vae"],
        text_encoder=_chat_glm(tokenizer.vocab_size),
        tokenizer=tokenizer,
        unet=xl_unet(encoder_hid_dim=32, encoder_hid_dim_type="text_proj"),
        scheduler=parts["scheduler"],
    )


@cache
def _pieces() -> str:
    """The path of a model of single characters: the tokenizer reads it once more when it is saved."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    alphabet = string.ascii_letters + string.digits + string.punctuation
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([alphabet]),
        model_writer=model,
        model_type="char",
        vocab_size=len(alphabet) + 4,
        character_coverage=1.0,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return str(folder / "tokenizer.model")


def _chat_glm(vocabulary: int) -> ChatGLMModel:
    encoder = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2,
            padded_vocab_size=vocabulary,
            hidden_size=32,
            ffn_hidden_size=32,
            kv_channels=8,
            num_attention_heads=4,
            seq_length=256,
            multi_query_attention=True,
            multi_query_group_num=2,
            add_qkv_bias=True,
            original_rope=True,
        )
    )
    for parameter in encoder.parameters():  # its class leaves them as the memory was
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
        else:
            nn.init.ones_(parameter)
    return encoder
