"""TRL's sides of the training benchmark: its trainers' own data loaders, collators and losses."""

from collections.abc import Callable
from typing import Any

from measures import Step


def trl_steps(trainer: Any, dataset: Any) -> float:
    """One optimiser step of a TRL trainer over its own data loader, collator and loss."""
    trainer.train_dataset = dataset
    found = list(trainer.get_train_dataloader())
    trainer.current_gradient_accumulation_steps = len(found)
    labels = [part["labels"] for part in found if "labels" in part]
    count = sum((label[..., 1:] != -100).sum() for label in labels) if labels else None
    total = 0.0
    for part in found:
        loss = trainer.training_step(trainer.model, part, num_items_in_batch=count)
        total += float(loss)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return total


def trl_side(make: Callable[[list[Any]], Any]) -> Step:
    """Steps of the trainer that `make` makes of the first batch; the data of each batch are those of a trainer made of it."""
    trainers: list[Any] = []

    def prepared(batch: list[Any]) -> Any:
        """Its own packing and labels: done before the clock starts."""
        made = make(batch)
        if not trainers:
            trainers.append(made)
        return made.train_dataset

    def step(dataset: Any) -> float:
        [trainer] = trainers
        if trainer.optimizer is None:
            trainer.create_optimizer()
        return trl_steps(trainer, dataset)

    step.prepare = prepared  # type: ignore[attr-defined]
    return step


def trl_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": settings["work"],
        "per_device_train_batch_size": settings["micro_batch"],
        "gradient_checkpointing": False,  # faster without, and memory suffices
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "learning_rate": 1e-6,
        "max_steps": 1000,
        "optim": "adamw_torch_fused",
        "disable_tqdm": True,
    }


def trl_sft(packing: bool) -> Callable[..., Step]:
    def side(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]  # the package loads them when asked

        arguments = trl_arguments(settings) | {"max_length": 1024, "packing": packing, "completion_only_loss": True}
        if packing:
            arguments |= {"per_device_train_batch_size": 1}
        else:
            arguments |= {"train_sampling_strategy": "group_by_length"}

        def rows(batch: list[Any]) -> Any:
            found = [chosen for chosen, _ in batch]
            masks = [[0] * example.prompt + [1] * (len(example.ids) - example.prompt) for example in found]
            return Dataset.from_dict({"input_ids": [list(example.ids) for example in found], "completion_mask": masks})

        return trl_side(
            lambda batch: SFTTrainer(
                model=model, args=SFTConfig(**arguments), train_dataset=rows(batch), processing_class=tokenizer
            )
        )

    return side


def trl_cpo(settings: dict[str, Any], model: Any, tokenizer: Any) -> Step:
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    arguments = trl_arguments(settings) | {"max_length": 1024, "beta": 0.1, "cpo_alpha": 1.0, "remove_unused_columns": False}

    def made(batch: list[Any]) -> Any:
        rows = {
            "prompt": [tokenizer.decode(c.ids[1 : c.prompt]) for c, _ in batch],
            "chosen": [tokenizer.decode(c.ids[c.prompt : -1]) for c, _ in batch],
            "rejected": [tokenizer.decode(r.ids[r.prompt : -1]) for _, r in batch],
        }
        return CPOTrainer(
            model=model, args=CPOConfig(**arguments), train_dataset=Dataset.from_dict(rows), processing_class=tokenizer
        )

    # Its loss is a mean over a micro-batch; equal micro-batches make their mean the batch's (but for the NLL).
    return trl_side(made)
