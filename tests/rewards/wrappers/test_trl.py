"""Contract of TRL's GRPO trainer: None for what has no reward, and what becomes of it there."""

import math

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from editreward.rewards import Reward, trl
from tests.helpers.scorers import ColourScorer, painted


def make_edit(source, instruction, text):
    """The policy writes the red of an image."""
    return None if text == "nothing" else painted(int(text))


def reward(**options):
    return trl.reward(Reward(ColourScorer(), check=False), make_edit, **{"alone": True} | options)


COLUMNS = {"source": [painted(1)] * 4, "instruction": ["x"] * 4, "trainer_state": None}


def test_completions_become_edits_and_edits_rewards():
    found = reward()(prompts=["p"] * 4, completions=["10", "20", "30", "40"], completion_ids=[[1]] * 4, **COLUMNS)
    assert found == [6.0, 11.0, 16.0, 21.0] and all(type(one) is float for one in found)
    chat = [[{"role": "assistant", "content": text}] for text in ("10", "20", "30", "40")]
    assert reward()(prompts=["p"] * 4, completions=chat, **COLUMNS) == found


def test_what_has_no_reward_is_none():
    found = reward()(prompts=["p"] * 4, completions=["10", "nothing", "no number", "20"], **COLUMNS)
    assert found == [6.0, None, None, 11.0]


def test_beside_other_functions_it_raises_and_says_what_to_do():
    with pytest.raises(RuntimeError, match="Completion 1 has no reward .*Combine all rewards in one `Reward`"):
        reward(alone=False)(prompts=["p"] * 4, completions=["10", "nothing", "20", "30"], **COLUMNS)
    found = reward(alone=False)(prompts=["p"] * 4, completions=["10", "20", "30", "40"], **COLUMNS)
    assert found == [6.0, 11.0, 16.0, 21.0]


def test_whether_it_is_alone_must_be_said():
    with pytest.raises(TypeError, match="alone"):
        trl.reward(Reward(ColourScorer(), check=False), make_edit)


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'before'"):
        reward(source="before")(prompts=["p"] * 4, completions=["1"] * 4, **COLUMNS)


def train(golden_dir, folder, *functions):
    """One step of TRL's trainer with a model of random weights; what it logged."""
    tokenizer = AutoTokenizer.from_pretrained(golden_dir / "base_model")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
    rows = Dataset.from_dict({"prompt": ["a"] * 2, "instruction": ["x"] * 2, "red": [10, 20]})
    settings = GRPOConfig(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        bf16=False,
    )
    trainer = GRPOTrainer(model, list(functions), settings, rows, processing_class=tokenizer)
    trainer.train()
    return trainer.state.log_history[0]


class EveryOther:
    """Turns every other completion into an edit."""

    def __init__(self):
        self.count = 0

    def __call__(self, red, instruction, text):
        self.count += 1
        return painted(red) if self.count % 2 else None


def length(completions, **columns):
    return [1.0] * len(completions)


@pytest.mark.slow
def test_trl_itself_leaves_unscored_completions_out_only_if_the_function_is_alone(golden_dir, tmp_path):
    class Whole(Reward):
        def __call__(self, *, sources, **arguments):
            return super().__call__(sources=[painted(1)] * len(sources), **arguments)

    made = Whole(ColourScorer(), check=False)
    logged = train(golden_dir, tmp_path, trl.reward(made, EveryOther(), alone=True, source="red"))
    assert math.isfinite(logged["loss"]) and logged["reward"] in (6.0, 11.0)  # the mean of those that have one
    with pytest.raises(RuntimeError, match="Combine all rewards in one `Reward`"):
        train(golden_dir, tmp_path, trl.reward(made, EveryOther(), alone=False, source="red"), length)
