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
from diffusers import DiffusionPipeline, StableDiffusionPipeline  # noqa: E402
from peft import LoraConfig, get_peft_model_state_dict  # noqa: E402

from tests.tiny_bases import tiny_sd  # noqa: E402

PIPELINE = "house/tiny"
ADAPTER = "someone/tiny-style"


def write_adapter(folder: Path, pipeline: StableDiffusionPipeline) -> None:
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipeline.unet)
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    (folder / "README.md").write_text(f"---\nbase_model: {PIPELINE}\ntags: [lora]\n---\n")


def digest(module: torch.nn.Module) -> float:
    return sum(weight.double().abs().sum().item() for weight in module.state_dict().values())


def main(root: Path) -> None:
    written = tiny_sd()
    written.save_pretrained(root / PIPELINE)
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
    main(Path(sys.argv[1]))
