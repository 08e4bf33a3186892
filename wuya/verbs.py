"""The table of commands: verb -> where it lives and what it does, in the order of the story."""

from typing import NamedTuple


class Verb(NamedTuple):
    """Where a verb lives (`module.run` takes `module.config_class`) and what it does, in one line."""

    module: str
    config_class: str
    help: str


VERBS: dict[str, Verb] = {
    "demo": Verb("wuya.demo.story", "DemoConfig", "the whole story on real chats, tiny, on this machine"),
    "assistant": Verb(
        "wuya.demo.assistant.story", "AssistantConfig", "the loop on a real model, SmolLM2, with real people's rankings"
    ),
    "tokenizer": Verb("wuya.recipes.train_tokenizer", "TokenizerConfig", "text -> tokenizer.json"),
    "prepare": Verb("wuya.recipes.prepare_data", "PrepareConfig", "corpora -> filtered, de-duplicated token shards"),
    "pretrain": Verb("wuya.recipes.pretrain", "PretrainConfig", "shards -> base model"),
    "sft": Verb("wuya.recipes.sft", "SFTConfig", "step 1: base + demonstrations -> SFT model"),
    "sample": Verb("wuya.recipes.sample_completions", "SampleConfig", "step 2a: prompts -> K answers each, queued"),
    "mix": Verb(
        "wuya.recipes.mix_candidates", "MixConfig", "step 2a: answers of several models, doubtful prompts first"
    ),
    "label": Verb("wuya.recipes.label", "LabelConfig", "step 2a: queue -> rankings, by people or simulated labelers"),
    "agreement": Verb("wuya.recipes.agreement", "AgreementConfig", "rankings -> how labelers agree, which model wins"),
    "snapshot": Verb(
        "wuya.recipes.snapshot", "SnapshotConfig", "feedback -> a frozen file to train on, with a data card"
    ),
    "reward": Verb("wuya.recipes.reward_model", "RewardModelConfig", "step 2b: SFT model + rankings -> reward model"),
    "ppo": Verb("wuya.recipes.ppo", "PPOConfig", "step 3: SFT + reward model + prompts -> policy (PPO, PPO-ptx)"),
    "grpo": Verb("wuya.recipes.grpo", "GRPOConfig", "step 3 without value model: RLOO, GRPO, Dr. GRPO, DAPO"),
    "dpo": Verb("wuya.recipes.dpo", "DPOConfig", "steps 2b and 3 in one: rankings -> policy (DPO, IPO)"),
    "kto": Verb("wuya.recipes.kto", "KTOConfig", "steps 2b and 3 in one: thumbs up and down -> policy (KTO)"),
    "simpo": Verb("wuya.recipes.simpo", "SimPOConfig", "the same without a reference: rankings -> policy (SimPO)"),
    "orpo": Verb("wuya.recipes.orpo", "ORPOConfig", "steps 1 to 3 in one: base + rankings -> policy (ORPO)"),
    "best_of_n": Verb(
        "wuya.recipes.best_of_n", "BestOfNConfig", "best of n answers by the reward -> demonstrations for sft"
    ),
    "evaluate": Verb("wuya.recipes.evaluate", "EvaluateConfig", "checkpoints -> report.html and evaluation.json"),
    "loop": Verb("wuya.recipes.loop", "LoopConfig", "steps 2 and 3 repeated on the current best policy"),
    "chat": Verb("wuya.recipes.chat", "ChatConfig", "talk to a checkpoint in the terminal"),
    "serve": Verb(
        "wuya.web.serve", "ServeConfig", "checkpoints -> chat app, labeling, runs pages, OpenAI-compatible API"
    ),
    "plan": Verb("wuya.recipes.plan", "PlanConfig", "memory, compute and time of a config before anything is spent"),
    "export": Verb("wuya.recipes.export_model", "ExportConfig", "checkpoint -> Hugging Face folder"),
    "import": Verb("wuya.recipes.import_model", "ImportConfig", "Hugging Face folder or GGUF file -> checkpoint"),
    "env": Verb("wuya.environment", "EnvConfig", "versions, processor, memory and accelerators of this machine"),
    "completion": Verb("wuya.completion", "CompletionConfig", "print the completion script of a shell"),
}
