"""A saved LoRA adapter added to the weights of a loaded model."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

from probekit.errors import ModelError
from probekit.models.load import LoadedModel


def merge_adapter(loaded: LoadedModel, folder: str | Path) -> LoadedModel:
    """Return the model with the adapter of `folder`, as peft writes it, added to its own weights.

    Its fingerprint stays that of the model below the adapter.

    Raises
    ------
    ModelError
        When there is no adapter, or it is of another model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: holds no adapter_config.json. Expected an adapter, such as best/adapter or "
            "checkpoint/adapter of a run."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # keys that fit nothing are a warning to peft
            warnings.simplefilter("ignore", FutureWarning)
            adapted = PeftModel.from_pretrained(
                loaded.model, folder, autocast_adapter_dtype=False, torch_device=str(loaded.device)
            )
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            saved = set(file.keys())
        # Layers that the model lacks are passed over in silence.
        if other := sorted(saved ^ get_peft_model_state_dict(adapted).keys()):
            raise ValueError(f"{len(other)} layers are in one of them only, such as {other[0]}")
        return dataclasses.replace(loaded, model=adapted.merge_and_unload())
    except (OSError, RuntimeError, ValueError, UserWarning) as error:
        raise ModelError(
            f"{folder}: the adapter does not fit {loaded.spec} "
            f"({' '.join(str(error).split())[:200]}). Name the model that it was trained on."
        ) from error
