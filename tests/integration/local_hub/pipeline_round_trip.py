"""Write a tiny random pipeline and an adapter for it under a Hub's root, then load both from that Hub.

Run as a script with the root's path and `HF_ENDPOINT` set: the libraries read it when they are imported.
Prints what came back as one JSON object.
"""

import json
import sys
import warnings
from pathlib import Path

# Other projects' warnings are no concern of this test.
warnings.simplefilter("ignore")

import torch  # noqa: E402
from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model_state_dict  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

PIPELINE = "house/tiny"
ADAPTER = "someone/tiny-style"


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True)
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "circle</w>", "a", "b"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)


def write_pipeline(folder: Path, scratch: Path) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8)
    text = CLIPTextConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=write_tokenizer(scratch),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return pipeline


def write_adapter(folder: Path, pipeline: StableDiffusionPipeline) -> None:
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipeline.unet)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    (folder / "README.md").write_text(f"---\nbase_model: {PIPELINE}\ntags: [lora]\n---\n")


def digest(module: torch.nn.Module) -> float:
    return sum(weight.double().abs().sum().item() for weight in module.state_dict().values())


def main(root: Path, scratch: Path) -> None:
    written = write_pipeline(root / PIPELINE, scratch)
    sent = {"unet": digest(written.unet), "vae": digest(written.vae), "text": digest(written.text_encoder)}
    write_adapter(root / ADAPTER, written)

    loaded = DiffusionPipeline.from_pretrained(PIPELINE, safety_checker=None)
    received = {"unet": digest(loaded.unet), "vae": digest(loaded.vae), "text": digest(loaded.text_encoder)}
    loaded.load_lora_weights(ADAPTER, adapter_name="style")
    image = loaded("a red circle", num_inference_steps=1, output_type="np").images[0]
    answer = {
        "class": type(loaded).__name__,
        "sent": sent,
        "received": received,
        "adapters": loaded.get_list_adapters(),
        "image_shape": list(image.shape),
    }
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
