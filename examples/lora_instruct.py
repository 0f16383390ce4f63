"""Fine-tune a language model by LoRA on instructions of yours, those like your target counting more.

    pip install 'weighted-stream[hf,embed]' trl peft
    python examples/lora_instruct.py --model Qwen/Qwen2.5-0.5B --data tatsu-lab/alpaca \
        --prompt instruction --completion output --target target.jsonl --out runs/lora

Model: a name on the hub, or a folder. Data and target: a .jsonl or .parquet file, or a name on the hub, with the same
two columns; some hundred rows of what the model should become good at are a target. The only lines that are not plain
TRL are marked with (*). Go on from the last checkpoint with --resume.
"""

import argparse
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from weighted_stream import Similarity, TargetSet, WeightedTrainerMixin

FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}


class WeightedSFT(WeightedTrainerMixin, SFTTrainer):  # (*)
    """An SFTTrainer that multiplies the loss of each sample by its weight."""


def load(name: str, prompt: str, completion: str, limit: int | None = None) -> Dataset:
    """Rows of a prompt and its completion, and the whole text, by which they are compared with the target."""
    kind = FORMATS.get(Path(name).suffix)
    rows = load_dataset(kind, data_files=name, split="train") if kind else load_dataset(name, split="train")
    rows = rows if limit is None else rows.take(limit)

    def as_text(row: dict) -> dict:
        asked, answer = f"{row[prompt]}\n\n", f"{row[completion]}"
        return {"prompt": asked, "completion": answer, "whole": asked + answer}

    return rows.map(as_text, remove_columns=rows.column_names)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--prompt", default="prompt", help="the column that is asked")
    parser.add_argument("--completion", default="completion", help="the column that is learned")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=8, help="samples at a time; four times as many make a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a sample, or of a pack, at most")
    parser.add_argument("--packing", action="store_true", help="several samples in a row; wants flash attention")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--limit", type=int, help="take so many samples of the data")
    parser.add_argument("--resume", action="store_true", help="from the last checkpoint in --out")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    data = load(given.data, given.prompt, given.completion, given.limit)
    target = load(given.target, given.prompt, given.completion)
    likeness = TargetSet(target, text="whole")  # (*)
    gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=given.out,
        per_device_train_batch_size=given.batch,
        gradient_accumulation_steps=4,
        num_train_epochs=given.epochs,
        max_length=given.length,
        packing=given.packing,
        learning_rate=2e-4,
        save_steps=200,
        report_to=[],
        bf16=gpu,
        use_cpu=not gpu,
    )
    trainer = WeightedSFT(
        given.model,
        config,
        train_dataset=data,
        eval_dataset=target,  # to see what it brings; keep rows of it apart to be sure of that
        peft_config=LoraConfig(r=given.rank, target_modules="all-linear", task_type="CAUSAL_LM"),
        strategy=Similarity(likeness, window="running", text="whole", wait=True),  # (*) who weighs what
        store=Path(given.out) / "weights",  # (*) losses, likenesses and weights are remembered here
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train(resume_from_checkpoint=given.resume)
    print(f"loss on the target: {before:.3f} -> {trainer.evaluate()['eval_loss']:.3f}")
    weights = torch.tensor(trainer.stream.store.get(range(len(data)))["weight"]).nan_to_num(1.0)  # (*)
    for name, at in (("most", int(weights.argmax())), ("least", int(weights.argmin()))):
        print(f"counts {name}, {weights[at]:.2f}: {data[at]['whole'][:70]!r}")
    trainer.save_model()


if __name__ == "__main__":
    main()
