"""Fine-tune a pruned language model with the Trainer of transformers: what is pruned stays exactly zero.

python examples/finetune_transformers.py
torchrun --nproc-per-node 2 examples/finetune_transformers.py

The model is a GPT-2 so small that it trains on a laptop, pruned as a pruner of language models leaves it: zeros in the
weights, no masks. Replace `pruned_model()` by `AutoModelForCausalLM.from_pretrained("a/pruned-checkpoint")`, and the
bytes of Python's own documentation by your tokens; nothing else changes.
"""

from __future__ import annotations

import argparse
from pydoc_data.topics import topics

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import foreprune as fp
from foreprune.integrations.transformers import MaskCallback

LENGTH = 64  # bytes in one sample


def pruned_model() -> GPT2LMHeadModel:
    """A GPT-2 with two layers on bytes, half of whose weights are zero."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=256, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    return fp.prune(model, "magnitude", density=0.5, scope="local", prunable=["lm_head"]).apply_(model)


def samples() -> list[dict[str, Tensor]]:
    """The text as samples of `LENGTH` bytes each; the model itself shifts the labels by one."""
    text = torch.frombuffer(bytearray("\n".join(topics.values()), "utf8"), dtype=torch.uint8)[: 2000 * LENGTH].long()
    return [{"input_ids": part, "labels": part} for part in text.view(-1, LENGTH)]


def revived(model: GPT2LMHeadModel, masks: fp.Masks) -> int:
    """How many pruned weights are not exactly zero."""
    return sum(int(model.get_parameter(name)[~mask].count_nonzero()) for name, mask in masks.items())


def main() -> None:
    """Train, and count."""
    parser = argparse.ArgumentParser(description="Fine-tune a pruned language model.")
    parser.add_argument("--out", default="runs/finetuned", help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    options = parser.parse_args()

    model = pruned_model()
    masks = fp.Masks.from_zeros(model, prunable=["lm_head"])  # or fp.prune(model, ...), or Masks.load(path)
    arguments = TrainingArguments(
        output_dir=options.out,
        max_steps=options.steps,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        weight_decay=0.1,
        save_steps=50,
        logging_steps=25,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=samples(), callbacks=[MaskCallback(masks)])
    trainer.train(resume_from_checkpoint=options.resume)

    if trainer.is_world_process_zero():
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        print(f"{arguments.world_size} process(es), loss {losses[0]:.2f} -> {losses[-1]:.2f}")
        print(f"{masks.total - masks.kept:,} weights pruned, {revived(model, masks)} of them not zero after training")


if __name__ == "__main__":
    main()
